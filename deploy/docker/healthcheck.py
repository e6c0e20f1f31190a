"""Whether this container does its work, as exit code: healthcheck.py web | scheduler."""

import os
import socket
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "exporter_site.settings")


def web() -> bool:
    from exporter_site.settings import CONFIG

    request = urllib.request.Request(f"http://127.0.0.1:{CONFIG.web.port}/healthz/web", headers={"Host": "localhost"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10):
            return True
    except OSError:
        return False


def scheduler() -> bool:
    import django

    django.setup()
    from tasks.models import SchedulerProcess

    return SchedulerProcess.objects.alive().filter(name__startswith=f"{socket.gethostname()}:").exists()


sys.exit(0 if {"web": web, "scheduler": scheduler}[sys.argv[1]]() else 1)
