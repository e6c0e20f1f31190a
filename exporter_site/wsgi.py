"""WSGI entry point: gunicorn exporter_site.wsgi"""

import gc
import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "exporter_site.settings")
application = get_wsgi_application()

# All that the pages need is loaded before the workers are forked: shared between them, and never looked at again by the
# garbage collector. What a request makes is mostly freed without it; a full collection costs one request in thirty as
# much time as its work.
get_resolver().url_patterns  # noqa: B018  # imports every view
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 5, 50)
