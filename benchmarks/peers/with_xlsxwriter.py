"""XlsxWriter in constant_memory mode. It escapes what XML does not allow by itself."""

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import xlsxwriter  # type: ignore[import-not-found,unused-ignore]

from benchmarks.peers import source


def main() -> None:
    args = source.arguments()
    running = source.cursor(args)
    workbook = xlsxwriter.Workbook(str(args.output), {"constant_memory": True})
    sheet = workbook.add_worksheet(source.TABLE)
    dates = workbook.add_format({"num_format": source.DATE_FORMAT})
    times = workbook.add_format({"num_format": source.TIME_FORMAT})
    # By type, and not through write(): that would guess, and take "=1+1" for a formula.
    writers: dict[type, Callable[[int, int, Any], Any]] = {
        str: sheet.write_string,
        int: sheet.write_number,
        float: sheet.write_number,
        Decimal: sheet.write_number,
        datetime: lambda row, column, cell: sheet.write_datetime(row, column, cell, times),
        date: lambda row, column, cell: sheet.write_datetime(row, column, cell, dates),
    }
    long_numbers = set(source.long_numbers(running))
    for index, name in enumerate(source.names(running)):
        sheet.write_string(0, index, name)
    for number, row in enumerate(source.rows(running), start=1):
        for index, cell in enumerate(row):
            if cell is None:
                continue
            if index in long_numbers:
                sheet.write_string(number, index, str(cell))
            else:
                writers[type(cell)](number, index, cell)
    workbook.close()


if __name__ == "__main__":
    main()
