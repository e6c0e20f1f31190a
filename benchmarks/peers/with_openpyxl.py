"""openpyxl in write-only mode, with lxml. It raises on control characters, and takes "=1+1" for a formula."""

from typing import Any

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell

from benchmarks.peers import source


def main() -> None:
    args = source.arguments()
    running = source.cursor(args)
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet(source.TABLE)

    def text(cell: str) -> Any:
        cell = source.writable(cell)
        if not cell.startswith("="):
            return cell
        marked = WriteOnlyCell(sheet, cell)
        marked.data_type = "s"
        return marked

    sheet.append(source.names(running))
    long_numbers = source.long_numbers(running)
    for row in source.rows(running):
        # Dates get their formats from openpyxl itself.
        cells = [text(cell) if type(cell) is str else cell for cell in row]
        for index in long_numbers:
            cells[index] = str(cells[index])
        sheet.append(cells)
    workbook.save(args.output)


if __name__ == "__main__":
    main()
