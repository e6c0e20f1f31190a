"""The fixed parts of an xlsx package (ECMA-376 part 1, 12 and 18): everything but the rows."""

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from datasources.connectors.base import Column, ColumnType
from tasks.writers.cells import Styles

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384

_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_DOCUMENT_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_CONTENT = "application/vnd.openxmlformats-officedocument.spreadsheetml"

RELATIONS = (
    f'{_HEAD}<Relationships xmlns="{_PACKAGE_RELATIONS}">'
    f'<Relationship Id="rId1" Type="{_DOCUMENT_RELATIONS}/officeDocument" Target="xl/workbook.xml"/>'
    '<Relationship Id="rId2" Type="http://schemas.openxmlformats.org/package/2006/relationships/metadata/core-properties" Target="docProps/core.xml"/>'
    f'<Relationship Id="rId3" Type="{_DOCUMENT_RELATIONS}/extended-properties" Target="docProps/app.xml"/>'
    "</Relationships>"
)
APP_PROPERTIES = (
    f'{_HEAD}<Properties xmlns="http://schemas.openxmlformats.org/officeDocument/2006/extended-properties">'
    "<Application>Microsoft Excel</Application></Properties>"
)


def core_properties(title: str) -> str:
    return (
        f'{_HEAD}<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{escape(_printable(title))}</dc:title></cp:coreProperties>'
    )


def content_types(sheets: int) -> str:
    overrides = "".join(
        f'<Override PartName="/xl/worksheets/sheet{number}.xml" ContentType="{_CONTENT}.worksheet+xml"/>'
        for number in range(1, sheets + 1)
    )
    return (
        f'{_HEAD}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_CONTENT}.sheet.main+xml"/>{overrides}'
        f'<Override PartName="/xl/styles.xml" ContentType="{_CONTENT}.styles+xml"/>'
        '<Override PartName="/docProps/core.xml" ContentType="application/vnd.openxmlformats-package.core-properties+xml"/>'
        '<Override PartName="/docProps/app.xml" ContentType="application/vnd.openxmlformats-officedocument.extended-properties+xml"/>'
        "</Types>"
    )


def workbook(names: Sequence[str], filters: Sequence[str]) -> str:
    """`names` of the sheets and the range of each one's filter, e.g. $A$1:$C$10."""
    sheets = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{number}" r:id="rId{number}"/>'
        for number, name in enumerate(names, start=1)
    )
    # Excel keeps a hidden name for each filter and repairs files that lack it when they are edited.
    defined = "".join(
        f'<definedName name="_xlnm._FilterDatabase" localSheetId="{index}" hidden="1">'
        f"{escape(_quoted_sheet(name))}!{span}</definedName>"
        for index, (name, span) in enumerate(zip(names, filters, strict=True))
    )
    return (
        f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_DOCUMENT_RELATIONS}"><sheets>{sheets}</sheets>'
        f"<definedNames>{defined}</definedNames></workbook>"
    )


def workbook_relations(sheets: int) -> str:
    relations = "".join(
        f'<Relationship Id="rId{number}" Type="{_DOCUMENT_RELATIONS}/worksheet" Target="worksheets/sheet{number}.xml"/>'
        for number in range(1, sheets + 1)
    )
    return (
        f'{_HEAD}<Relationships xmlns="{_PACKAGE_RELATIONS}">{relations}'
        f'<Relationship Id="rId{sheets + 1}" Type="{_DOCUMENT_RELATIONS}/styles" Target="styles.xml"/></Relationships>'
    )


class StyleSheet:
    """The cell formats of a workbook: one per column type and scale, shared by all its columns and sheets."""

    HEADER, TEXT, QUOTED = 1, 2, 3

    def __init__(self) -> None:
        self._formats: dict[str, int] = {}

    def for_column(self, column: Column, *, with_fraction: bool) -> Styles:
        """`with_fraction`: whether times of the column show milliseconds."""
        code = number_format(column, with_fraction=with_fraction)
        value = self._formats.setdefault(code, 4 + len(self._formats)) if code else 0
        return Styles(value=value, text=self.TEXT, quoted=self.QUOTED)

    def xml(self) -> str:
        codes = "".join(
            f"<numFmt numFmtId={quoteattr(str(164 + index))} formatCode={quoteattr(code)}/>"
            for index, code in enumerate(self._formats)
        )
        formats = "".join(
            f'<xf numFmtId="{164 + index}" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/>'
            for index in range(len(self._formats))
        )
        number_formats = f'<numFmts count="{len(self._formats)}">{codes}</numFmts>' if self._formats else ""
        return (
            f'{_HEAD}<styleSheet xmlns="{_MAIN}">{number_formats}'
            '<fonts count="2"><font><sz val="11"/><name val="Calibri"/><family val="2"/></font>'
            '<font><b/><sz val="11"/><name val="Calibri"/><family val="2"/></font></fonts>'
            '<fills count="3"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill>'
            '<fill><patternFill patternType="solid"><fgColor rgb="FFDCE6F1"/><bgColor indexed="64"/></patternFill></fill></fills>'
            '<borders count="2"><border><left/><right/><top/><bottom/><diagonal/></border>'
            '<border><left/><right/><top/><bottom style="thin"><color rgb="FF95B3D7"/></bottom><diagonal/></border></borders>'
            '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>'
            f'<cellXfs count="{4 + len(self._formats)}"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>'
            '<xf numFmtId="49" fontId="1" fillId="2" borderId="1" xfId="0" applyNumberFormat="1" applyFont="1" applyFill="1" applyBorder="1"/>'
            '<xf numFmtId="49" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/>'
            # quotePrefix: the cell stays text when somebody edits it.
            '<xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0" quotePrefix="1"/>'
            f"{formats}</cellXfs>"
            '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles>'
            '<dxfs count="0"/><tableStyles count="0"/></styleSheet>'
        )


def number_format(column: Column, *, with_fraction: bool) -> str:
    """Excel's format code for a column; "" for the general format. No thousands separators: ids are numbers too."""
    fraction = ".000" if with_fraction else ""
    match column.type:
        case ColumnType.INTEGER:
            return "0"
        case ColumnType.DECIMAL if column.scale is not None:
            # Excel shows at most 30 digits behind the point.
            return "0" if column.scale <= 0 else "0." + "0" * min(column.scale, 30)
        case ColumnType.DATE:
            return "yyyy-mm-dd"
        case ColumnType.TIME:
            return f"hh:mm:ss{fraction}"
        case ColumnType.DATETIME | ColumnType.INSTANT:
            return f"yyyy-mm-dd hh:mm:ss{fraction}"
    return ""


def column_letters(index: int) -> str:
    """A, B, … Z, AA, … for 0, 1, …"""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def sheet_name(title: str, number: int) -> str:
    """A legal sheet name: 31 UTF-16 units at most, none of []:*?/\\, no quote at its ends; numbered from the second on."""
    name = re.sub(r"[\[\]:*?/\\\x00-\x1f\ud800-\udfff\ufffe\uffff]", "_", title).strip("' ") or "Sheet1"
    suffix = f" ({number})" if number > 1 else ""
    room = 31 - len(suffix)
    name = name.encode("utf-16-le")[: room * 2].decode("utf-16-le", "ignore").rstrip("' ")
    if name.lower() == "history":  # Excel keeps this one for itself.
        name += "_"
    return name + suffix


def _quoted_sheet(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _printable(title: str) -> str:
    return re.sub(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]", " ", title)
