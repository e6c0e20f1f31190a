"""Gunicorn for this system: gunicorn -c deploy/gunicorn.conf.py exporter_site.wsgi

Address, port, workers and threads come from config.yaml (web.host, web.port, web.workers, web.threads). The pages do
little work: exports run in processes of the scheduler, so two workers with four threads serve a whole company.

There is no access log here: the reverse proxy has one (deploy/nginx), and who did what is in the audit. A line would hold
the whole address, and the address of a shared file is a key to it. There is no max_requests either: a worker that is
renewed cuts off the downloads that take longer than graceful_timeout. What bounds its memory is the unit (MemoryMax).
"""

import os
import sys
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BASE_DIR))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "exporter_site.settings")

from exporter_site.settings import CONFIG  # noqa: E402  # a mistake in config.yaml ends here, with one sentence

_host = f"[{CONFIG.web.host}]" if ":" in CONFIG.web.host else CONFIG.web.host

bind = f"{_host}:{CONFIG.web.port}"
chdir = str(BASE_DIR)
workers = CONFIG.web.workers
worker_class = "gthread"
threads = CONFIG.web.threads
preload_app = True  # a fault shows at once, in the parent, and the workers share its memory
timeout = 120
graceful_timeout = 30  # downloads that are under way may end
keepalive = 5
forwarder_headers = ""  # a proxy on this machine passes on what browsers send: none of it says where the site begins
umask = 0o077
control_socket_disable = True
# Heartbeats of the workers in memory: on a slow disk they would be taken for dead.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
