"""The file as a package: every part well-formed, in its order, known to the others; the same bytes each time."""

import csv
import random
import shutil
import subprocess
import zipfile
import zlib
from datetime import date, timedelta
from pathlib import Path
from xml.parsers import expat

import pytest

from datasources.connectors.base import Batch, Column, ColumnType
from tasks.writers import workbook, zipstream
from tests.writers.sheets import (
    MAIN,
    Written,
    batches,
    columns_of,
    parts_of,
    sheet_xml,
    small_sheets,
    write,
)

NASTY = ["=1+1", "<b>&amp;</b>", " x ", "a\r\nb", "\x00\x1f", "_x0041_", "😀", "\ufffe", b"\xff", None, "", "]]>"]
FIXED = ["[Content_Types].xml", "_rels/.rels", "docProps/app.xml", "docProps/core.xml"]


def dirty_workbook(directory: Path) -> Written:
    columns = [Column(f"<{kind.value} \"&'>", kind, 2) for kind in ColumnType]
    return write(directory, columns, [NASTY for _column in columns], title="<&>'\"\x01\ufffe")


def two_sheets(directory: Path) -> Path:
    writer = small_sheets(directory, columns_of(*ColumnType), 11)
    for batch in batches(len(ColumnType), 15):
        writer.write(batch)
    return writer.finish()[0].path


def test_every_part_is_well_formed(tmp_path: Path) -> None:
    for path in (dirty_workbook(tmp_path / "dirty").path, two_sheets(tmp_path / "sheets")):
        for content in parts_of(path).values():
            expat.ParserCreate().Parse(content, True)


def test_the_parts_and_their_relations_agree(tmp_path: Path) -> None:
    parts = parts_of(two_sheets(tmp_path))
    sheets = ["xl/worksheets/sheet1.xml", "xl/worksheets/sheet2.xml"]
    assert sorted(parts) == sorted([*FIXED, "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/styles.xml", *sheets])
    types, relations = parts["[Content_Types].xml"].decode(), parts["xl/_rels/workbook.xml.rels"].decode()
    for name in parts:
        assert f'PartName="/{name}"' in types or name.endswith(".rels") or name.startswith("[")
    for name in (*sheets, "xl/styles.xml"):
        assert f'Target="{name.removeprefix("xl/")}"' in relations


def test_the_elements_of_a_sheet_stand_in_the_order_of_the_schema(tmp_path: Path) -> None:
    sheet = sheet_xml(dirty_workbook(tmp_path).path)
    assert [child.tag.removeprefix(MAIN) for child in sheet] == [
        "sheetViews",
        "sheetFormatPr",
        "cols",
        "sheetData",
        "autoFilter",
    ]
    references = [cell.get("r") for row in sheet.iter(f"{MAIN}row") for cell in row]
    letters = "ABCDEFGHIJ"[: len(ColumnType)]
    assert references == [f"{letter}{row}" for row in range(1, len(NASTY) + 2) for letter in letters]


def test_only_the_first_sheet_is_selected(tmp_path: Path) -> None:
    path = two_sheets(tmp_path)
    views = [sheet_xml(path, number).find(f"{MAIN}sheetViews/{MAIN}sheetView") for number in (1, 2)]
    assert [view.get("tabSelected") for view in views if view is not None] == ["1", None]


def test_every_style_that_a_cell_names_exists(tmp_path: Path) -> None:
    path = dirty_workbook(tmp_path).path
    styles = parts_of(path)["xl/styles.xml"].decode()
    count = int(styles.partition('<cellXfs count="')[2].partition('"')[0])
    assert styles.partition("<cellXfs")[2].partition("</cellXfs>")[0].count("<xf ") == count
    assert {int(cell.get("s", "0")) for cell in sheet_xml(path).iter(f"{MAIN}c")} <= set(range(count))


def test_the_archive_is_good(tmp_path: Path) -> None:
    path = dirty_workbook(tmp_path).path
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {entry.create_version for entry in archive.infolist()} == {20}  # no Zip64
    if shutil.which("unzip"):
        assert subprocess.run(["unzip", "-tq", path], capture_output=True).returncode == 0


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (dirty_workbook(tmp_path / name) for name in ("first", "second"))
    assert first.parts[0].sha256 == second.parts[0].sha256


def test_without_isal_the_content_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = two_sheets(tmp_path / "fast")
    assert zipstream.deflate is not zlib, "isal is not installed: requirements.txt names it"
    monkeypatch.setattr(zipstream, "deflate", zlib)
    slow = two_sheets(tmp_path / "slow")
    assert parts_of(fast) == parts_of(slow)


def test_the_layouts_of_rows_do_not_pile_up(tmp_path: Path) -> None:
    writer = small_sheets(tmp_path, columns_of(*[ColumnType.TEXT] * 12), workbook.MAX_ROWS)
    chance = random.Random(1)
    for _number in range(400):
        writer.write(Batch([[chance.choice([b"x", b" x", b"=1", None])] for _column in range(12)], 1))
    writer.finish()
    assert len(writer._assembler._layouts) <= 256


@pytest.mark.slow
def test_libreoffice_opens_a_dirty_workbook_without_repair(tmp_path: Path, libreoffice: str) -> None:
    chance = random.Random(5)
    # What CSV can hold and LibreOffice keeps: CR becomes LF there, and C0 controls are its own affair.
    texts = [
        "=1+1",
        "+86",
        "-1",
        "@x",
        "00123",
        " lead",
        "trail ",
        'a "quote"',
        "a,b",
        "line\nfeed",
        "<&>",
        "😀",
        "_x0041_",
        "",
    ]
    values = [
        [str(chance.randrange(-(10**14), 10**14)) for _row in range(300)],
        [chance.choice(texts) for _row in range(300)],
        [str(date(1950, 1, 1) + timedelta(days=chance.randrange(40_000))) for _row in range(300)],
        [f"{chance.randrange(10**6)}.{chance.randrange(100):02d}" for _row in range(300)],
        [str(10**18 + chance.randrange(10**17)) for _row in range(300)],
    ]
    kinds = (ColumnType.INTEGER, ColumnType.TEXT, ColumnType.DATE, ColumnType.DECIMAL, ColumnType.INTEGER)
    columns = [Column(kind.value, kind, 2) for kind in kinds]
    path = write(tmp_path, columns, values).path
    # Comma, double quote, UTF-8; cells as they are shown.
    options = "csv:Text - txt - csv (StarCalc):44,34,76"
    subprocess.run(
        [
            libreoffice,
            "--headless",
            f"-env:UserInstallation=file://{tmp_path}/profile",
            "--convert-to",
            options,
            path,
            "--outdir",
            tmp_path,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with (tmp_path / "result.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [column.name for column in columns]
    assert rows == [list(row) for row in zip(*values, strict=True)]
