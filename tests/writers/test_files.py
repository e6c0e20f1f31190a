"""Names that can't leave their directory; files that appear whole, in one step, or not at all."""

import os
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks import files

AUGUST = datetime(2025, 8, 12, tzinfo=UTC)
NASTY = [
    "", " ", ".", "..", "...", "../", "../../etc/passwd", "..\\..\\windows", "/etc/passwd", "C:\\x", "C:", "\\\\host\\share",
    "a/b", "a\\b", "a\x00b", "\x00", "a\nb", "a\rb", "a\tb", "\x1b[2J", "\x7f", "\x85", "a\u2028b", "a\u2029b",
    "\u202egpj.exe", "a\u202db", "\u2066x\u2069", "\u200e", "\u200f", "\u061c", "\ufeffx", "\ud800", "a\udfffb",
    "CON", "con", "Con.txt", "NUL", "nul.tar.gz", "PRN", "AUX", "COM1", "com9.x", "COM¹", "LPT1", "lpt³", "CON ", "CON .x",
    "CONIN$", "conout$", "a.", "a ", "a. . .", " a", ".hidden", "~", "-rf", "$(id)", "`id`", "%00", "%2e%2e%2f", "a:b", "a*b?",
    'a"b', "<a>", "a|b", "中" * 500, "😀" * 100, "x" * 10_000, "e\u0301" * 300, "é", "👨\u200d👩\u200d👧", "日报 2025-08-12", "a" * 179 + "é", "；：／",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_a_name_never_leaves_its_directory(tmp_path: Path, name: str) -> None:
    stem = files.safe_stem(name)
    assert stem == unicodedata.normalize("NFC", stem) == stem.strip(" ")
    assert 0 < len(stem.encode()) <= files.MAX_NAME_BYTES + 1
    assert not stem.startswith(".")
    assert all(character.isprintable() or character == "\u200d" for character in stem)
    assert not set('/\\:*?"<>|') & set(stem)
    inside = tmp_path / "inside"
    inside.mkdir()
    target = inside / f"{stem}_part99.xlsx"
    target.write_text("x")
    assert [path.parent for path in inside.iterdir()] == [inside]
    assert target.resolve().parent == inside.resolve()
    assert os.listdir(tmp_path) == ["inside"]


@pytest.mark.parametrize("name", ["con", "CON.txt", "NUL", "COM1.x", "LPT9", "aux", "COM¹", "con .x"])
def test_names_that_windows_keeps_for_itself_are_changed(name: str) -> None:
    assert files.safe_stem(name) == f"_{name}"


@pytest.mark.parametrize(
    "name", ["每日订单_20250812_0900", "report (final) v1.2", "console", "COM10", "a_b-c", "nullable"]
)
def test_good_names_stay(name: str) -> None:
    assert files.safe_stem(name) == name


def test_a_long_name_is_cut_between_characters(tmp_path: Path) -> None:
    assert files.safe_stem("中" * 500) == "中" * (files.MAX_NAME_BYTES // 3)
    assert files.safe_stem("x" * 5_000_000) == "x" * files.MAX_NAME_BYTES


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    temp, output = tmp_path / "temp", tmp_path / "exports"
    monkeypatch.setattr(files, "temp_root", lambda: temp)
    monkeypatch.setattr(files, "output_root", lambda: output)
    return temp, output


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_publishing_is_one_rename(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    temp, output = roots
    renames: list[tuple[str, str]] = []
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        renames.append((str(source), str(target)))
        assert not Path(target).exists()
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with files.temp_directory(7, 1) as directory:
        assert directory == temp / "7-1"
        assert directory.stat().st_mode & 0o777 == 0o700
        for name in ("a.xlsx", "a_part2.xlsx"):
            (directory / name).write_text(name)
        place = files.publish(directory, AUGUST)
    assert place == output / "2025-08" / "7-1"
    assert renames == [(str(temp / "7-1"), str(place))]
    assert tree(output) == ["2025-08", "2025-08/7-1", "2025-08/7-1/a.xlsx", "2025-08/7-1/a_part2.xlsx"]
    assert tree(temp) == []


def test_what_is_published_already_is_not_replaced(roots: tuple[Path, Path]) -> None:
    _temp, output = roots
    (output / "2025-08" / "7-1").mkdir(parents=True)
    (output / "2025-08" / "7-1" / "a.xlsx").write_text("first")
    with files.temp_directory(7, 1) as directory:
        (directory / "a.xlsx").write_text("second")
        with pytest.raises(OSError, match="7-1"):
            files.publish(directory, AUGUST)
    assert (output / "2025-08" / "7-1" / "a.xlsx").read_text() == "first"


def test_an_attempt_that_fails_leaves_nothing(roots: tuple[Path, Path]) -> None:
    temp, _output = roots
    attempt = files.temp_directory(7, 1)
    (attempt.__enter__() / "a.xlsx").write_text("half")
    assert not attempt.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert tree(temp) == []


def test_two_workers_can_not_share_an_attempt(roots: tuple[Path, Path]) -> None:
    temp, _output = roots
    with files.temp_directory(7, 1):
        with pytest.raises(FileExistsError), files.temp_directory(7, 1):
            pass
        assert tree(temp) == ["7-1"]


def test_withdrawing_removes_what_was_published_and_may_be_done_twice(roots: tuple[Path, Path]) -> None:
    _temp, output = roots
    with files.temp_directory(7, 1) as directory:
        (directory / "a.xlsx").write_text("x")
        place = files.publish(directory, AUGUST)
    files.withdraw(place)
    files.withdraw(place)
    assert tree(output) == ["2025-08"]


def test_sweeping_removes_one_dead_attempt_wherever_it_stopped(roots: tuple[Path, Path]) -> None:
    temp, output = roots
    for directory in (
        temp / "7-1",
        temp / "7-2",
        temp / "17-1",
        output / "2025-07" / "7-1",
        output / "2025-08" / "7-2",
    ):
        directory.mkdir(parents=True)
        (directory / "a.xlsx").write_text("x")
    files.sweep(7, 1, datetime(2025, 7, 3, tzinfo=UTC))
    files.sweep(7, 1, datetime(2025, 7, 3, tzinfo=UTC))
    assert [path for path in tree(temp) if "xlsx" in path] == ["17-1/a.xlsx", "7-2/a.xlsx"]
    assert [path for path in tree(output) if "xlsx" in path] == ["2025-08/7-2/a.xlsx"]


def test_free_space_is_known_before_the_first_export(roots: tuple[Path, Path]) -> None:
    assert files.free_bytes() > 0
