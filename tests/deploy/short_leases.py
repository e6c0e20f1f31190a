"""The settings, with seconds where the product has a minute: what a host that is cut off does is shown in less than one."""

from django.apps import AppConfig

from exporter_site.settings import *  # noqa: F403
from exporter_site.settings import CONFIG, DATABASES, INSTALLED_APPS, database_settings

LEASE, FENCE, SILENCE = 11.0, 3.0, 2


class ShortLeases(AppConfig):
    name = "tests.deploy"

    def ready(self) -> None:
        from exporter_site import silence
        from notifications import outbox
        from tasks import scheduler, supervisor

        scheduler.LEASE = outbox.LEASE = LEASE
        scheduler.BEAT_EVERY = outbox.BEAT_EVERY = supervisor.FRESH = 2.0
        supervisor.SELF_FENCE = FENCE
        silence.MOST_SILENCE, silence.PROBE_EVERY = SILENCE, 1


INSTALLED_APPS = [*INSTALLED_APPS, "tests.deploy.short_leases.ShortLeases"]
# Not those of exporter_site.settings changed: a test that reads the figures above imports this, too.
_quick = database_settings(CONFIG.system_database, open_transaction=4)
DATABASES = {"default": DATABASES["default"] | _quick | {"OPTIONS": _quick["OPTIONS"] | {"connect_timeout": 2}}}
