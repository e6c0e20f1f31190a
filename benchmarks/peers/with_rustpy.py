"""rustpy-xlsxwriter (Rust) from a generator. It escapes what XML does not allow by itself; microseconds are cut."""

from collections.abc import Iterator
from typing import Any

from rustpy_xlsxwriter import FastExcel, Format  # type: ignore[import-not-found,unused-ignore]

from benchmarks.peers import source


def records(running: Any) -> Iterator[dict[str, Any]]:
    names = source.names(running)
    long_numbers = [names[index] for index in source.long_numbers(running)]
    for row in source.rows(running):
        record = dict(zip(names, row, strict=True))
        for name in long_numbers:
            record[name] = str(record[name])
        yield record


def main() -> None:
    args = source.arguments()
    dates = {"ordered_on": Format().set_num_format(source.DATE_FORMAT)}
    excel = FastExcel(str(args.output)).format(datetime_format=source.TIME_FORMAT)
    excel.sheet(source.TABLE, records(source.cursor(args)), column_formats=dates).save()


if __name__ == "__main__":
    main()
