"""Excel files, streamed: rows go through a compressor straight to the disk.

openpyxl and XlsxWriter make each cell an object and are 13 to 18 times slower; they also lose digits, take text for
formulas and stop at control characters. So the sheet is written here, by column and chunk: cells.py makes the cells,
rows.py puts them into rows, workbook.py has everything around them, zipstream.py compresses it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unicodedata import east_asian_width

from django.utils.translation import gettext as _

from datasources.connectors.base import Batch, Column, ColumnType
from tasks.writers import workbook
from tasks.writers.base import OpenPart, Writer, WriterError, WriterOptions
from tasks.writers.cells import Markup, Styles, convert, text
from tasks.writers.outfile import Data, HashedFile
from tasks.writers.rows import NUMBER, RowAssembler
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
        self._references = not self.option("compact")
        self._assembler = RowAssembler(self._leads(), end=b"</row>")
        self._stylesheet = workbook.StyleSheet()
        self._markup: list[Markup] = []  # of each column, once the first rows are known
        self._widths: list[int] = []

    def _leads(self) -> Iterator[tuple[bytes | None, ...]]:
        """What stands before each cell of a row (ECMA-376 part 1, 18.3.1.73 and 18.3.1.4)."""
        row: tuple[bytes | None, ...] = (b'<row r="', NUMBER, b'">')
        for index, letters in enumerate(self._letters):
            cell = (b'<c r="' + letters, NUMBER) if self._references else (b"<c",)
            yield (row if index == 0 else ()) + cell

    def _open(self, file: HashedFile) -> Callable[[Data], None]:
        self._zip = ZipStream(file)
        self._zip.add("_rels/.rels", workbook.RELATIONS.encode())
        self._zip.add("docProps/app.xml", workbook.APP_PROPERTIES.encode())
        self._zip.add("docProps/core.xml", workbook.core_properties(self.options.title).encode())
        self._sheets: list[int] = []  # rows of each finished sheet, with its header
        self._row = 0  # the last row of the open sheet; 0 while none is open
        self._sheet_size = 0  # bytes of the open sheet's XML
        return self._zip.write

    def write(self, batch: Batch) -> None:
        if not self._markup and batch.rows:
            self._learn(batch)
        super().write(batch)

    def _rows_left(self, part: OpenPart) -> int:
        if self._row and (self._row >= self.max_rows or self._sheet_size > MAX_ENTRY):
            self._end_sheet(part)
        if not self._row:
            self._begin_sheet(part)
        return self.max_rows - self._row

    def _encode(self, batch: Batch, fidelity: "Counter[str]") -> bytes:
        columns = [
            convert(column, values, markup, fidelity, as_text=index in batch.as_text)
            for index, (column, values, markup) in enumerate(
                zip(self.columns, batch.columns, self._markup, strict=True)
            )
        ]
        return self._assembler.rows(columns, self._row + 1, batch.rows)

    def _put(self, part: OpenPart, data: bytes, rows: int) -> None:
        super()._put(part, data, rows)
        self._row += rows
        self._sheet_size += len(data)

    def _learn(self, batch: Batch) -> None:
        """Take formats and widths from the first rows; they hold for the whole file."""
        for index, column in enumerate(self.columns):
            sample = [cell for cell in batch.columns[index][:SAMPLE_ROWS] if cell] if batch.rows else []
            digits = _TIMES.get(column.type)
            # A scale of 6 is often only the type's default: the fraction is shown when there is one.
            fraction = digits is not None and any(cell[digits : digits + 1] == b"." for cell in sample)
            styles = self._stylesheet.for_column(column, with_fraction=fraction)
            self._markup.append(Markup(styles, references=self._references))
            self._widths.append(_width(column.name, [cell.decode("utf-8", "replace") for cell in sample]))

    def _begin_sheet(self, part: OpenPart) -> None:
        part.behind.flush()  # the zip is in other hands until then
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
            + self._header()
        )
        self._row = 1
        self._sheet_size = 0

    def _header(self) -> bytes:
        markup = Markup(Styles(*[workbook.StyleSheet.HEADER] * 3), references=self._references)
        names = [text([column.name.encode() or b" "], markup, self.fidelity) for column in self.columns]
        return self._assembler.rows(names, 1, 1)

    def _end_sheet(self, part: OpenPart) -> None:
        part.behind.flush()
        self._zip.write(b'</sheetData><autoFilter ref="A1:%b%d"/></worksheet>' % (self._letters[-1], self._row))
        self._zip.end()
        self._sheets.append(self._row)
        self._row = 0

    def _close(self, part: OpenPart) -> None:
        if not self._markup:
            self._learn(Batch([[] for _column in self.columns], 0))
        if not self._row and not self._sheets:
            self._begin_sheet(part)
        if self._row:
            self._end_sheet(part)
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
