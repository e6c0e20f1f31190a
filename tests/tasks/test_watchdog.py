"""The line in the crontab; a small program stands in for crontab, so that nobody's real one is touched."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.utils import translation

from exporter_site.config import BASE_DIR

OTHERS = "MAILTO=ops@example.cn\n# backup\n0 3 * * * /usr/local/bin/backup --all # nightly\n"
CRONTAB = """#!/bin/sh
test -e {dir}/broken && {{ echo "crontab: can't open file" >&2; exit 1; }}
case "$1" in
  -l) test -e {dir}/table || {{ echo "no crontab for ops" >&2; exit 1; }}; cat {dir}/table ;;
  -) test -e {dir}/full && {{ echo "No space left on device" >&2; exit 1; }}; cat > {dir}/table ;;
  *) exit 2 ;;
esac
"""


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def table(tmp_path: Path, settings: LazySettings) -> Path:
    """The file in which the stand-in keeps its crontab."""
    program = tmp_path / "crontab"
    program.write_text(CRONTAB.format(dir=tmp_path))
    program.chmod(0o755)
    settings.CRONTAB_EXECUTABLE = str(program)
    return tmp_path / "table"


def crontab(verb: str, *args: str) -> str:
    out = StringIO()
    call_command("crontab", verb, *args, stdout=out)
    return out.getvalue()


def test_the_line_is_added_once_and_other_lines_stay_as_they_are(table: Path) -> None:
    table.write_text(OTHERS)
    shown = crontab("add")
    assert crontab("add") == shown
    lines = table.read_text().removeprefix(OTHERS).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("* * * * * ")
    assert f"{BASE_DIR}/manage.py crontab run " in lines[0]
    assert lines[0] in shown
    crontab("remove")
    assert table.read_text() == OTHERS


def test_a_first_line_is_added_where_there_is_no_crontab_yet(table: Path) -> None:
    crontab("add")
    assert table.read_text().count("\n") == 1


def test_a_last_line_without_an_end_stays_a_line(table: Path) -> None:
    table.write_text("0 3 * * * backup")
    crontab("add")
    assert table.read_text().startswith("0 3 * * * backup\n* * * * * ")


def test_a_crontab_that_can_not_be_read_is_not_written(table: Path) -> None:
    table.write_text(OTHERS)
    (table.parent / "broken").touch()
    for verb in ("add", "remove", "show"):
        with pytest.raises(CommandError, match="can't be read: crontab: can't open file"):
            crontab(verb)
    assert table.read_text() == OTHERS


def test_a_crontab_that_can_not_be_written_is_told(table: Path) -> None:
    table.write_text(OTHERS)
    (table.parent / "full").touch()
    with pytest.raises(CommandError, match="No space left"):
        crontab("add")
    assert table.read_text() == OTHERS


def test_a_machine_without_cron_is_told_what_to_install(settings: LazySettings) -> None:
    settings.CRONTAB_EXECUTABLE = "/nowhere/crontab"
    with pytest.raises(CommandError, match="apt-get install cron"):
        crontab("show")


def test_the_line_does_what_it_says(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def watch(*, start_stopped: bool) -> str:
        assert not start_stopped
        looked.append("looked")
        return "started"

    monkeypatch.setattr("tasks.daemon.watch", watch)
    line = crontab("add")
    crontab("run", line.split(" crontab run ")[1].split()[0])
    assert looked == ["looked"]
    with pytest.raises(CommandError, match="out of date"):
        crontab("run", "0" * 32)


def test_nothing_to_show_is_a_failure(table: Path) -> None:
    with pytest.raises(CommandError) as caught:
        crontab("show")
    assert caught.value.returncode == 1
