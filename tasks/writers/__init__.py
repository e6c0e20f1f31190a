"""The file formats. A new one is one file here and one line in this table."""

from django.utils.translation import gettext_lazy as _

from exporter_site.registry import Label, Registry
from tasks.writers.base import Writer

writers: Registry[Writer] = Registry(
    {
        "xlsx": (_("Excel (xlsx)"), "tasks.writers.xlsx.XlsxWriter"),
        "csv": (_("CSV"), "tasks.writers.csv.CsvWriter"),
    }
)


def format_choices() -> list[tuple[str, Label]]:
    return writers.choices()
