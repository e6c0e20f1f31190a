"""The tables of docs/troubleshooting.md, row by row, and which rows the tests of this folder produce.

A row that nobody produces, and a test of a row that there is not, fail test_table.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from exporter_site.config import BASE_DIR

DOCUMENT = "docs/troubleshooting.md"
REPORTS, SYSTEM, RUNS, MESSAGES = "报表没来", "系统", "执行的原因", "通知的原因"
_QUOTED = re.compile(r"“([^”]+)”")

Test = TypeVar("Test", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Row:
    """What a person finds in the document. `symptom` and `meaning` are without backticks."""

    table: str
    symptom: str
    meaning: str
    cure: str

    @property
    def labels(self) -> list[str]:
        """The words in quotes: they stand so in the product."""
        return _QUOTED.findall(f"{self.symptom} {self.meaning} {self.cure}")

    @property
    def words(self) -> str:
        """What happened and what to do, as one text; for reasons."""
        return f"{self.meaning} {self.cure}".strip()


def _rows() -> dict[tuple[str, str], Row]:
    rows, table = {}, ""
    for line in (BASE_DIR / DOCUMENT).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            table = line.removeprefix("## ")
        elif line.startswith("| "):
            symptom, meaning, cure = (cell.strip() for cell in line.strip("|").split("|"))
            rows[table, symptom.replace("`", "")] = Row(table, symptom.replace("`", ""), meaning, cure)
    heads = [key for key in rows if key[1] in ("看到的", "代码")]
    return {key: row for key, row in rows.items() if key not in heads}


ROWS = _rows()
produced: set[tuple[str, str]] = set()


def produces(table: str, *symptoms: str) -> Callable[[Test], Test]:
    """Marks the test of these rows."""
    produced.update((table, symptom) for symptom in symptoms)
    return lambda test: test
