"""Every part of a workbook against the ECMA-376 schemas (part 1, annex A; part 2, annexes B to D; transitional).

The schemas themselves are not ours to hand on, so the complex types that the writer uses are written down here as
tables: which attributes an element has and what may stand in them, which elements are in it, how often, and in which
order (all of these types are sequences).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

from datasources.connectors.base import Column, ColumnType
from tests.writers.sheets import batches, columns_of, make_writer, parts_of, small_sheets, write
from tests.writers.test_xlsx_package import NASTY

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
EXTENDED = "http://schemas.openxmlformats.org/officeDocument/2006/extended-properties"
DC = "http://purl.org/dc/elements/1.1/"
XML = "http://www.w3.org/XML/1998/namespace"

# Simple types (part 1, A.2 and 22.9.2), as patterns of their lexical forms.
UINT, INT, BOOL = r"\d{1,10}", r"-?\d{1,10}", "0|1|true|false"
DOUBLE = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
CELL_REF = r"[A-Z]{1,3}[1-9]\d{0,6}"
REF = rf"{CELL_REF}(?::{CELL_REF})?"
ARGB = "[0-9A-F]{8}"
ANY = r"[\s\S]*"


@dataclass(frozen=True)
class Type:
    """A complex type: `attributes` name -> pattern ("!" in front of the name: required); `children` in their order,
    name -> (type, least, most); `text` is the pattern of what stands in it, "" for nothing."""

    attributes: dict[str, str] = field(default_factory=dict)
    children: dict[str, "tuple[Type, int, int]"] = field(default_factory=dict)
    text: str = ""


def once(kind: Type) -> tuple[Type, int, int]:
    return kind, 1, 1


def maybe(kind: Type) -> tuple[Type, int, int]:
    return kind, 0, 1


def many(kind: Type, least: int = 0, most: int = 1 << 32) -> tuple[Type, int, int]:
    return kind, least, most


EMPTY = Type()
VALUE = Type(text=ANY)
UNUSED = maybe(Type())  # in the schema, not in our files: its place is all that matters

# ST_Xstring; xml:space is not in the schema of CT_Rst, but Excel writes it (18.4.12 has it in its example).
TEXT = Type({f"{{{XML}}}space": "preserve"}, text=ANY)
INLINE = Type(children={"t": maybe(TEXT), "r": UNUSED, "rPh": UNUSED, "phoneticPr": UNUSED})  # CT_Rst, 18.3.1.53
# CT_Cell, 18.3.1.4. What a value looks like depends on t, see below.
CELL = Type(
    {"r": CELL_REF, "s": UINT, "t": "b|d|n|e|s|str|inlineStr", "cm": UINT, "vm": UINT, "ph": BOOL},
    {"f": UNUSED, "v": maybe(VALUE), "is": maybe(INLINE), "extLst": UNUSED},
)
ROW = Type(  # CT_Row, 18.3.1.73
    {
        "r": UINT,
        "spans": r"\d+:\d+",
        "s": UINT,
        "customFormat": BOOL,
        "ht": DOUBLE,
        "hidden": BOOL,
        "customHeight": BOOL,
    },
    {"c": many(CELL), "extLst": UNUSED},
)
PANE = Type(  # CT_Pane, 18.3.1.66
    {
        "xSplit": DOUBLE,
        "ySplit": DOUBLE,
        "topLeftCell": CELL_REF,
        "activePane": "bottomRight|topRight|bottomLeft|topLeft",
        "state": "split|frozen|frozenSplit",
    }
)
SELECTION = Type(
    {"pane": "bottomRight|topRight|bottomLeft|topLeft", "activeCell": CELL_REF, "activeCellId": UINT, "sqref": REF}
)
SHEET_VIEW = Type(  # CT_SheetView, 18.3.1.87
    {"tabSelected": BOOL, "showGridLines": BOOL, "zoomScale": UINT, "!workbookViewId": UINT},
    {"pane": maybe(PANE), "selection": many(SELECTION, most=4), "pivotSelection": UNUSED, "extLst": UNUSED},
)
COL = Type({"!min": UINT, "!max": UINT, "width": DOUBLE, "style": UINT, "hidden": BOOL, "customWidth": BOOL})
FORMAT = Type({"baseColWidth": UINT, "defaultColWidth": DOUBLE, "!defaultRowHeight": DOUBLE, "customHeight": BOOL})
# CT_Worksheet, 18.3.1.99: all of its elements, in the order of the sequence.
_BEHIND = [
    "sheetCalcPr",
    "sheetProtection",
    "protectedRanges",
    "scenarios",
    "autoFilter",
    "sortState",
    "dataConsolidate",
    "customSheetViews",
    "mergeCells",
    "phoneticPr",
    "conditionalFormatting",
    "dataValidations",
    "hyperlinks",
    "printOptions",
    "pageMargins",
    "pageSetup",
    "headerFooter",
    "rowBreaks",
    "colBreaks",
    "customProperties",
    "cellWatches",
    "ignoredErrors",
    "smartTags",
    "drawing",
    "legacyDrawing",
    "legacyDrawingHF",
    "drawingHF",
    "picture",
    "oleObjects",
    "controls",
    "webPublishItems",
    "tableParts",
    "extLst",
]
WORKSHEET = Type(
    children={
        "sheetPr": UNUSED,
        "dimension": maybe(Type({"!ref": REF})),
        "sheetViews": maybe(Type(children={"sheetView": many(SHEET_VIEW, 1), "extLst": UNUSED})),
        "sheetFormatPr": maybe(FORMAT),
        "cols": many(Type(children={"col": many(COL, 1)})),
        "sheetData": once(Type(children={"row": many(ROW)})),
        **dict.fromkeys(_BEHIND, UNUSED),
        "autoFilter": maybe(Type({"ref": REF})),
    }
)
SHEET = Type(  # CT_Sheet, 18.2.19; a name has at most 31 characters and none of these
    {
        "!name": r"(?!')[^\[\]:*?/\\\x00-\x1f]{1,31}(?<!')",
        "!sheetId": UINT,
        "state": "visible|hidden|veryHidden",
        f"!{{{R}}}id": "rId[0-9]+",
    }
)
DEFINED_NAME = Type(
    {"!name": ANY, "localSheetId": UINT, "hidden": BOOL, "comment": ANY},
    text=r"'(?:[^']|'')+'!\$[A-Z]+\$1:\$[A-Z]+\$\d+",
)
_WORKBOOK = [
    "fileVersion",
    "fileSharing",
    "workbookPr",
    "workbookProtection",
    "bookViews",
    "sheets",
    "functionGroups",
    "externalReferences",
    "definedNames",
    "calcPr",
    "oleSize",
    "customWorkbookViews",
    "pivotCaches",
    "smartTagPr",
    "smartTagTypes",
    "webPublishing",
    "fileRecoveryPr",
    "webPublishObjects",
    "extLst",
]
WORKBOOK = Type(  # CT_Workbook, 18.2.27
    children={
        **dict.fromkeys(_WORKBOOK, UNUSED),
        "sheets": once(Type(children={"sheet": many(SHEET, 1)})),
        "definedNames": maybe(Type(children={"definedName": many(DEFINED_NAME)})),
    }
)
COLOR = Type({"auto": BOOL, "indexed": UINT, "rgb": ARGB, "theme": UINT, "tint": DOUBLE})
# CT_Font, 18.8.22, is a choice in the transitional schema; Excel itself keeps this order and stops at others.
FONT = Type(
    children={
        **{
            name: maybe(Type({"val": BOOL})) for name in ("b", "i", "strike", "condense", "extend", "outline", "shadow")
        },
        "u": UNUSED,
        "vertAlign": UNUSED,
        "sz": maybe(Type({"!val": DOUBLE})),
        "color": maybe(COLOR),
        "name": maybe(Type({"!val": ANY})),
        "family": maybe(Type({"!val": r"\d|1[0-4]"})),
        "charset": UNUSED,
        "scheme": UNUSED,
    }
)
PATTERN = Type({"patternType": "none|solid|gray125"}, {"fgColor": maybe(COLOR), "bgColor": maybe(COLOR)})
EDGE = maybe(Type({"style": "none|thin|medium|dashed|dotted|thick|double|hair"}, {"color": maybe(COLOR)}))
BORDER = Type(
    {"diagonalUp": BOOL, "diagonalDown": BOOL, "outline": BOOL},
    dict.fromkeys(("start", "end", "left", "right", "top", "bottom", "diagonal", "vertical", "horizontal"), EDGE),
)
_APPLY = {f"apply{what}": BOOL for what in ("NumberFormat", "Font", "Fill", "Border", "Alignment", "Protection")}
XF = Type(  # CT_Xf, 18.8.45
    dict.fromkeys(("numFmtId", "fontId", "fillId", "borderId", "xfId"), UINT)
    | {"quotePrefix": BOOL, "pivotButton": BOOL}
    | _APPLY,
    {"alignment": UNUSED, "protection": UNUSED, "extLst": UNUSED},
)


def counted(child: str, kind: Type, least: int = 0) -> tuple[Type, int, int]:
    return maybe(Type({"count": UINT, "defaultTableStyle": ANY, "defaultPivotStyle": ANY}, {child: many(kind, least)}))


STYLES = Type(  # CT_Stylesheet, 18.8.39
    children={
        "numFmts": counted("numFmt", Type({"!numFmtId": UINT, "!formatCode": ".+"})),
        "fonts": counted("font", FONT),
        "fills": counted("fill", Type(children={"patternFill": maybe(PATTERN), "gradientFill": UNUSED})),
        "borders": counted("border", BORDER),
        "cellStyleXfs": counted("xf", XF, 1),
        "cellXfs": counted("xf", XF, 1),
        "cellStyles": counted("cellStyle", Type({"name": ANY, "!xfId": UINT, "builtinId": UINT}), 1),
        "dxfs": counted("dxf", EMPTY),
        "tableStyles": counted("tableStyle", EMPTY),
        "colors": UNUSED,
        "extLst": UNUSED,
    }
)
RELATION = Type(
    {"!Id": "[A-Za-z_][A-Za-z0-9_.-]*", "!Type": "http://.+", "!Target": "[^ ]+", "TargetMode": "External|Internal"}
)
RELATIONS = Type(children={"Relationship": many(RELATION)})
MEDIA = r"[\w!#$&^.+-]+/[\w!#$&^.+-]+"
CONTENT_TYPES = Type(
    children={
        "Default": many(Type({"!Extension": r"[\w.-]+", "!ContentType": MEDIA})),
        "Override": many(Type({"!PartName": r"/[\w./-]+", "!ContentType": MEDIA})),
    }
)
CORE = Type(children={f"{{{DC}}}title": maybe(VALUE)})
APP = Type(children={"Template": UNUSED, "Application": maybe(VALUE), "AppVersion": maybe(VALUE)})

# Which part is of which type: a pattern of its name -> namespace, root element and type.
PARTS: dict[str, tuple[str, str, Type]] = {
    r"xl/worksheets/sheet\d+\.xml": (MAIN, "worksheet", WORKSHEET),
    r"xl/workbook\.xml": (MAIN, "workbook", WORKBOOK),
    r"xl/styles\.xml": (MAIN, "styleSheet", STYLES),
    r".*\.rels": (f"{PACKAGE}/relationships", "Relationships", RELATIONS),
    r"\[Content_Types\]\.xml": (f"{PACKAGE}/content-types", "Types", CONTENT_TYPES),
    r"docProps/core\.xml": (f"{PACKAGE}/metadata/core-properties", "coreProperties", CORE),
    r"docProps/app\.xml": (EXTENDED, "Properties", APP),
}


def breaches(name: str, content: bytes) -> list[str]:
    """Where the part breaks its schema, in words. Raises ParseError when it is not well-formed."""
    root = ElementTree.fromstring(content)
    [(space, tag, kind)] = [kind for pattern, kind in PARTS.items() if re.fullmatch(pattern, name)]
    if root.tag != f"{{{space}}}{tag}":
        return [f"{name} is a {root.tag}"]
    found = _breaches(root, kind, space)
    return found + _breaches_of_cells(root) if kind is WORKSHEET else found


def _breaches(element: ElementTree.Element, kind: Type, space: str) -> list[str]:
    known = {name.removeprefix("!"): pattern for name, pattern in kind.attributes.items()}
    found = [
        f"{element.tag}: no {name[1:]}" for name in kind.attributes if name[0] == "!" and name[1:] not in element.attrib
    ]
    for name, value in element.attrib.items():
        if name not in known or not re.fullmatch(known[name], value):
            found.append(f'{element.tag}: {name}="{value}"')
    if not re.fullmatch(kind.text, element.text or "") or any(child.tail for child in element):
        found.append(f"{element.tag}: text {element.text!r}")
    order = [name if name[0] == "{" else f"{{{space}}}{name}" for name in kind.children]
    types = dict(zip(order, kind.children.values(), strict=True))
    tags = [child.tag for child in element]
    strange = [tag for tag in tags if tag not in types]
    if strange:
        return [*found, f"{element.tag}: holds {strange[0]}"]
    if sorted(tags, key=order.index) != tags:
        found.append(f"{element.tag}: order {list(dict.fromkeys(tags))}")
    for tag, (_type, least, most) in types.items():
        if not least <= tags.count(tag) <= most:
            found.append(f"{element.tag}: {tags.count(tag)} × {tag}")
    for child in element:
        found += _breaches(child, types[child.tag][0], space)
    return found


def _breaches_of_cells(sheet: ElementTree.Element) -> list[str]:
    """What the schema says in words only: t decides what stands in a cell; rows and cells are in their order."""
    found = []
    numbers = [int(row.get("r", "0")) for row in sheet.iter(f"{{{MAIN}}}row")]
    if sorted(set(numbers)) != numbers:
        found.append("rows out of order")
    for row in sheet.iter(f"{{{MAIN}}}row"):
        letters = [re.sub(r"\d", "", cell.get("r", "")) for cell in row]
        if all(letters) and sorted(set(letters), key=lambda text: (len(text), text)) != letters:
            found.append(f"row {row.get('r')}: cells out of order")
        for cell in row:
            if cell.get("r") and not str(cell.get("r")).endswith(str(row.get("r"))):
                found.append(f"cell {cell.get('r')} in row {row.get('r')}")
            found += _breaches_of_a_cell(cell)
    return found


def _breaches_of_a_cell(cell: ElementTree.Element) -> list[str]:
    kind = cell.get("t", "n")
    inside = [child.tag.rpartition("}")[2] for child in cell]
    value = cell.findtext(f"{{{MAIN}}}v", "")
    patterns = {"n": DOUBLE, "b": "0|1"}
    if kind == "inlineStr":
        good = inside == ["is"] and len(cell[0]) == 1
    elif kind in patterns:
        good = (inside == ["v"] and bool(re.fullmatch(patterns[kind], value))) or (kind == "n" and not inside)
    else:
        good = False  # the writer has no shared strings, formulas or errors
    text = "".join(cell.itertext())
    # ST_Xstring, 22.9.2.19: what XML can't hold is escaped; Excel takes 32,767 characters.
    length = len(re.sub("_x[0-9A-F]{4}_", "?", text).encode("utf-16-le")) // 2
    return [] if good and length <= 32_767 else [f"cell {cell.get('r')}: t={kind}, {inside}, {text[:40]!r}"]


def breaches_of_workbook(path: Path) -> list[str]:
    return [f"{name}: {breach}" for name, content in parts_of(path).items() for breach in breaches(name, content)]


COLUMNS = [Column(f"<{kind.value} \"&'>", kind, 2) for kind in ColumnType]
VALUES: list[str | bytes | None] = [
    *NASTY, "x" * 40_000, "\x00" * 40_000, "1", "-1.50", "9" * 30, "1e5", "t", "f", "2024-02-29", "23:59:59.999999",
    "2024-02-29 12:00:00.5", "2024-02-29 12:00:00+08", "0000-00-00", "\ud83d", "_x000D_\r", "0xCAFE",
]  # fmt: skip


@pytest.mark.parametrize("compact", [False, True])
def test_every_part_of_a_dirty_workbook_keeps_to_the_schema(tmp_path: Path, compact: bool) -> None:
    written = write(tmp_path, COLUMNS, [VALUES for _column in COLUMNS], compact=compact, title="<&>'\"\x01 [a]:b?")
    assert breaches_of_workbook(written.path) == []


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("compact", [False, True])
def test_so_does_each_column_alone(tmp_path: Path, compact: bool, as_text: bool) -> None:
    usual = {
        ColumnType.INTEGER: ["1", "-2", "007"],
        ColumnType.DECIMAL: ["1.50", "-0.01"],
        ColumnType.FLOAT: ["1e-07", "-2.5", "1E+20"],
        ColumnType.BOOLEAN: ["t", "f"],
        ColumnType.DATE: ["2024-02-29"],
        ColumnType.TIME: ["00:00:00", "23:59:59.999999"],
        ColumnType.DATETIME: ["2024-02-29 23:59:59.999999"],
        ColumnType.INSTANT: ["2024-02-29 12:00:00+05:30"],
        ColumnType.TEXT: ["a", " b", "=c"],
        ColumnType.BINARY: ["0xCAFE"],
    }
    assert usual.keys() == set(ColumnType)
    for kind, texts in usual.items():
        values: Sequence[str | None] = [*texts, None, ""]
        for name, some in (("usual", texts), ("blank", values)):
            directory = tmp_path / f"{kind.value}-{name}"
            path = write(
                directory, [Column("c", kind, 3)], [some], compact=compact, as_text=[0] if as_text else []
            ).path
            assert breaches_of_workbook(path) == []


@pytest.mark.parametrize("compact", [False, True])
def test_several_sheets_and_none_at_all_keep_to_it_too(tmp_path: Path, compact: bool) -> None:
    writer = small_sheets(tmp_path / "several", columns_of(*[ColumnType.TEXT] * 30), 11)
    for batch in batches(30, 25):
        writer.write(batch)
    empty = make_writer(tmp_path / "empty", COLUMNS, compact=compact)
    for path in (writer.finish()[0].path, empty.finish()[0].path):
        assert breaches_of_workbook(path) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<sheetData>", b"<sheetData/><sheetData>"),
        (b"</sheetData>", b"</sheetData><cols><col min='1' max='1'/></cols>"),
        (b"<sheetFormatPr", b"<autoFilter ref='A1:B2'/><sheetFormatPr"),
        (b' defaultRowHeight="15"', b""),
        (b' workbookViewId="0"', b""),
        (b'<c r="A2"', b'<c r="A02"'),
        (b'<c r="A2"', b'<c r="B2"'),
        (b'<c r="A2"', b'<c ref="A2"'),
        (b'<row r="2">', b'<row r="1">'),
        (b"<v>7</v>", b"<v></v>"),
        (b"<v>7</v>", b"<v>NaN</v>"),
        (b"<v>7</v>", b"<v>7</v><f/>"),
        (b"<v>7</v>", b"<is><t>7</t></is>"),
        (b' t="inlineStr"', b""),
        (b"<is><t>word</t></is>", b"<is>word</is>"),
        (b"</row>", b" </row>"),
    ],
)
def test_the_table_finds_what_a_schema_would(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = write(tmp_path, columns_of(ColumnType.INTEGER, ColumnType.TEXT), [["7"], ["word"]]).path
    name = "xl/worksheets/sheet1.xml"
    content = parts_of(path)[name]
    assert old in content
    assert breaches(name, content) == []
    assert breaches(name, content.replace(old, new, 1)) != []


def test_strange_parts_and_broken_ones_are_found(tmp_path: Path) -> None:
    with pytest.raises(ElementTree.ParseError):
        breaches("xl/workbook.xml", b"<workbook>\x01</workbook>")
    assert breaches("xl/workbook.xml", b"<workbook/>") == ["xl/workbook.xml is a workbook"]
    with pytest.raises(ValueError, match="not enough values"):
        breaches("xl/theme/theme1.xml", b"<a/>")
