#!/usr/bin/env python3
"""The command line of the data export system: manage.py help"""

import gc
import os
import sys

if __name__ == "__main__":
    # Nothing that is made while it starts is garbage, and looking for some takes a tenth of the start. Switched on again
    # when all apps are loaded (exporter_site/apps.py).
    gc.disable()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "exporter_site.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError as exc:
        sys.exit(f"{exc}. Run ./start_all.sh once, then use .venv/bin/python manage.py …")
    execute_from_command_line(sys.argv)
