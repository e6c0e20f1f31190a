"""Gunicorn for this system: gunicorn -c deploy/gunicorn.conf.py exporter_site.wsgi

Address and port come from config.yaml (web.host, web.port). The pages do little work: exports run in processes of the
scheduler, so two workers with a few threads serve a whole company.
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
workers = 2
worker_class = "gthread"
threads = 4
preload_app = True  # a fault shows at once, in the parent, and the workers share its memory
timeout = 120
graceful_timeout = 30  # downloads that are under way may end
keepalive = 5
forwarder_headers = ""  # a proxy on this machine passes on what browsers send: none of it says where the site begins
umask = 0o077
control_socket_disable = True
# Heartbeats of the workers in memory: on a slow disk they would be taken for dead.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
