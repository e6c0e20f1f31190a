"""The database kinds that can be read. A new kind is one file here and one line in this table."""

from django.utils.translation import gettext_lazy as _

from datasources.connectors.base import Connector
from exporter_site.registry import Label, Registry

connectors: Registry[Connector] = Registry(
    {
        "mysql": (_("MySQL / MariaDB"), "datasources.connectors.mysql.MySQL"),
        "adb": (_("AnalyticDB for MySQL"), "datasources.connectors.adb.AnalyticDB"),
        "postgresql": (_("PostgreSQL"), "datasources.connectors.postgresql.PostgreSQL"),
        "sqlite": (_("SQLite file"), "datasources.connectors.sqlite.SQLite"),
    }
)


def connector_choices() -> list[tuple[str, Label]]:
    return connectors.choices()
