"""The sources of config.yaml as rows: added, brought up to date, and released when they leave the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from datasources.connectors import connectors
from datasources.models import DataSource
from exporter_site.command import sentences
from exporter_site.config import SourceConfig, is_placeholder


@dataclass(slots=True)
class SyncResult:
    """Names of sources, and sentences for those that could not be taken over."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def sync(sources: Mapping[str, SourceConfig]) -> SyncResult:
    """Make the config-managed rows equal to `sources`. One bad source does not stop the others."""
    result = SyncResult()
    for name, config in sources.items():
        try:
            _take_over(name, config, result)
        except ValidationError as exc:
            result.errors.append(f"data_sources.{name}: {sentences(exc)}")
    for gone in DataSource.objects.filter(config_managed=True).exclude(name__in=sources):
        # Tasks may still use it: it stays, and belongs to the admin from now on.
        gone.config_managed = False
        gone.save(update_fields=["config_managed", "updated_at"])
        result.released.append(gone.name)
    return result


def _take_over(name: str, config: SourceConfig, result: SyncResult) -> None:
    samples: dict[str, str] = {
        "host": config.host,
        "username": config.username,
        "password": config.password.get_secret_value(),
    }
    for key, sample in samples.items():
        if is_placeholder(sample):
            raise ValidationError(
                _("`{key}` still has its sample value. Put the real one into config.yaml.").format(key=key)
            )
    if config.type not in connectors:
        raise ValidationError(_("Unknown kind. Known are: {kinds}.").format(kinds=", ".join(connectors)))
    existing = DataSource.objects.filter(name=name).first()
    source = existing or DataSource(name=name)
    wanted = {
        "kind": config.type,
        "host": config.host,
        "port": config.port,
        "database": config.database,
        "username": config.username,
        "password": config.password.get_secret_value(),
        "charset": config.charset,
        "ssl_mode": config.ssl_mode,
        "max_concurrency": config.max_concurrency,
        "description": config.description,
        "config_managed": True,
    }
    before = {key: getattr(source, key) for key in wanted}
    for key, value in wanted.items():
        setattr(source, key, value)
    source.full_clean()  # clears what the kind has no use for
    if existing and before == {key: getattr(source, key) for key in wanted}:
        return
    source.save()
    (result.updated if existing else result.created).append(name)
