"""Excel files, streamed: rows go through a compressor straight to the disk.

openpyxl and XlsxWriter make each cell an object and are 13 to 18 times slower; they also lose digits, take text for
formulas and stop at control characters. So the sheet is written here, by column and chunk: cells.py makes the cells,
this module puts them into rows, workbook.py has everything around them.
"""

from collections.abc import Sequence
from pathlib import Path
from unicodedata import east_asian_width

from django.utils.translation import gettext as _

from datasources.connectors.base import Batch, Column, ColumnType
from tasks.writers import workbook
from tasks.writers.base import HashedFile, Writer, WriterError, WriterOptions
from tasks.writers.cells import Cells, Styles, convert, text
from tasks.writers.zipstream import MAX_ENTRY, ZipStream

SAMPLE_ROWS = 200
_TIMES = {ColumnType.TIME: 8, ColumnType.DATETIME: 19, ColumnType.INSTANT: 19}


class XlsxWriter(Writer):
    extension = ".xlsx"
    content_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    # compact: cells without their references (r="A1"); a quarter smaller, and Excel itself does not need them.
    option_values = {"compact": (False, (True, False))}
    slack = 256 * 1024
    largest_file = MAX_ENTRY  # a zip without Zip64 ends at 4 GiB

    def __init__(self, directory: Path, stem: str, columns: Sequence[Column], options: WriterOptions) -> None:
        super().__init__(directory, stem, columns, options)
        if not columns:
            raise WriterError("sql_error", _("The result has no columns."))
        if len(columns) > workbook.MAX_COLUMNS:
            raise WriterError(
                "file_too_large",
                _("The result has {count} columns; an Excel sheet holds {limit}.").format(
                    count=len(columns), limit=workbook.MAX_COLUMNS
                ),
            )
        self.max_rows = workbook.MAX_ROWS  # with the header; tests make it smaller
        self._letters = [workbook.column_letters(index).encode() for index in range(len(columns))]
        self._compact: bool = self.option("compact")
        self._stylesheet = workbook.StyleSheet()
        self._styles: list[Styles] | None = None
        self._widths: list[int] = []
        self._templates: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}

    def _open(self, file: HashedFile) -> None:
        self._zip = ZipStream(file)
        self._zip.add("_rels/.rels", workbook.RELATIONS.encode())
        self._zip.add("docProps/app.xml", workbook.APP_PROPERTIES.encode())
        self._zip.add("docProps/core.xml", workbook.core_properties(self.options.title).encode())
        self._sheets: list[int] = []  # rows of each finished sheet, with its header
        self._row = 0  # the last row of the open sheet; 0 while none is open

    def _write_rows(self, file: HashedFile, batch: Batch) -> None:
        if self._styles is None:
            self._learn(batch)
        start = 0
        while start < batch.rows:
            if self._row and (self._row >= self.max_rows or self._zip.entry_size > MAX_ENTRY):
                self._end_sheet()
            if not self._row:
                self._begin_sheet()
            count = min(batch.rows - start, self.max_rows - self._row)
            self._write_slice(batch, start, count)
            start += count

    def _learn(self, batch: Batch) -> None:
        """Take formats and widths from the first rows; they hold for the whole file."""
        self._styles = []
        for index, column in enumerate(self.columns):
            sample = [cell for cell in batch.columns[index][:SAMPLE_ROWS] if cell] if batch.rows else []
            digits = _TIMES.get(column.type)
            # A scale of 6 is often only the type's default: the fraction is shown when there is one.
            fraction = digits is not None and any(cell[digits : digits + 1] == b"." for cell in sample)
            self._styles.append(self._stylesheet.for_column(column, with_fraction=fraction))
            self._widths.append(_width(column.name, [cell.decode("utf-8", "replace") for cell in sample]))

    def _begin_sheet(self) -> None:
        self._zip.begin(f"xl/worksheets/sheet{len(self._sheets) + 1}.xml")
        widths = "".join(
            f'<col min="{index}" max="{index}" width="{width}" customWidth="1"/>'
            for index, width in enumerate(self._widths, start=1)
        )
        selected = ' tabSelected="1"' if not self._sheets else ""
        self._zip.write(
            (
                '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
                '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
                f'<sheetViews><sheetView{selected} workbookViewId="0">'
                '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>'
                '<selection pane="bottomLeft" activeCell="A2" sqref="A2"/></sheetView></sheetViews>'
                f'<sheetFormatPr defaultRowHeight="15"/><cols>{widths}</cols><sheetData>'
            ).encode()
        )
        header = Styles(*[workbook.StyleSheet.HEADER] * 3)
        names = text([column.name.encode() or b" " for column in self.columns], header, self.fidelity)
        cells = (names.prefix + name + names.suffix for name in names.values)
        row = b"".join(b'<c r="%b1"%b' % (letter, cell) for letter, cell in zip(self._letters, cells, strict=True))
        self._zip.write(b'<row r="1">' + row + b"</row>")
        self._row = 1

    def _write_slice(self, batch: Batch, start: int, count: int) -> None:
        assert self._styles is not None
        whole = start == 0 and count == batch.rows
        columns = [
            convert(
                column,
                values if whole else values[start : start + count],
                styles,
                self.fidelity,
                as_text=index in batch.as_text,
            )
            for index, (column, values, styles) in enumerate(
                zip(self.columns, batch.columns, self._styles, strict=True)
            )
        ]
        self._zip.write(b"".join(self._rows(columns, self._row + 1, count)))
        self._row += count

    def _rows(self, columns: list[Cells], first: int, count: int) -> list[bytes]:
        """`count` rows of XML. One template serves a whole chunk, and filling it is one operation per row."""
        template = self._template(columns)
        numbers = [b"%d" % number for number in range(first, first + count)]
        if self._compact:
            return [template % row for row in zip(numbers, *(cells.values for cells in columns), strict=True)]
        pairs = (items for cells in columns for items in (numbers, cells.values))
        return [template % row for row in zip(numbers, *pairs, strict=True)]

    def _template(self, columns: list[Cells]) -> bytes:
        shape = tuple((cells.prefix, cells.suffix) for cells in columns)
        if shape not in self._templates:
            if len(self._templates) > 256:
                self._templates.clear()
            reference = (
                (b"" for _letter in self._letters) if self._compact else (b' r="%b%%b"' % x for x in self._letters)
            )
            pieces = (
                b"<c%b%b%%b%b" % (place, prefix, suffix)
                for place, (prefix, suffix) in zip(reference, shape, strict=True)
            )
            self._templates[shape] = b'<row r="%b">' + b"".join(pieces) + b"</row>"
        return self._templates[shape]

    def _end_sheet(self) -> None:
        self._zip.write(b'</sheetData><autoFilter ref="A1:%b%d"/></worksheet>' % (self._letters[-1], self._row))
        self._zip.end()
        self._sheets.append(self._row)
        self._row = 0

    def _close(self, file: HashedFile) -> None:
        if self._styles is None:
            self._learn(Batch([[] for _column in self.columns], 0))
        if not self._row and not self._sheets:
            self._begin_sheet()
        if self._row:
            self._end_sheet()
        count = len(self._sheets)
        names = [workbook.sheet_name(self.options.title, number) for number in range(1, count + 1)]
        last = self._letters[-1].decode()
        filters = [f"$A$1:${last}${rows}" for rows in self._sheets]
        self._zip.add("xl/workbook.xml", workbook.workbook(names, filters).encode())
        self._zip.add("xl/_rels/workbook.xml.rels", workbook.workbook_relations(count).encode())
        self._zip.add("xl/styles.xml", self._stylesheet.xml().encode())
        self._zip.add("[Content_Types].xml", workbook.content_types(count).encode())
        self._zip.close()


def _width(name: str, sample: list[str]) -> int:
    """A column width in characters that shows the header and most of the sample; Chinese characters take two."""
    longest = max((_columns(cell.split("\n", 1)[0][:60]) for cell in sample), default=0)
    return max(8, min(60, max(longest, _columns(name) + 2) + 2))


def _columns(characters: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in characters)
