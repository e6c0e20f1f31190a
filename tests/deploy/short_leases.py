"""The settings, with seconds where the product has a minute: what a host that is cut off does is shown in less than one."""

from typing import Any

from django.apps import AppConfig

from exporter_site.settings import *  # noqa: F403
from exporter_site.settings import DATABASES, INSTALLED_APPS

LEASE, FENCE, SILENCE = 11.0, 3.0, 2


class ShortLeases(AppConfig):
    name = "tests.deploy"

    def ready(self) -> None:
        from exporter_site import silence
        from notifications import outbox
        from tasks import runner, scheduler

        scheduler.LEASE = outbox.LEASE = LEASE
        scheduler.BEAT_EVERY = outbox.BEAT_EVERY = runner.FRESH = 2.0
        runner.SELF_FENCE = FENCE
        silence.MOST_SILENCE, silence.PROBE_EVERY = SILENCE, 1


INSTALLED_APPS = [*INSTALLED_APPS, "tests.deploy.short_leases.ShortLeases"]
_options: dict[str, Any] = DATABASES["default"]["OPTIONS"]
for _name in ("options", "init_command"):
    if _name in _options:
        # The limit of an open transaction: both servers count seconds.
        _options[_name] = _options[_name].replace("timeout=30s", "timeout=4s").replace("timeout = 30", "timeout = 4")
_options["connect_timeout"] = 2
