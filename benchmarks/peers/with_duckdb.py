"""DuckDB: its MySQL scanner, and COPY TO xlsx. Control characters would give invalid XML: its SQL removes them."""

import duckdb  # type: ignore[import-not-found,unused-ignore]
from duckdb_extensions import import_extension  # type: ignore[import-not-found,unused-ignore]

from benchmarks.peers import source

UNWRITABLE = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x{FFFE}\x{FFFF}]"
DIRTY = ("customer", "address", "remark")


def main() -> None:
    args = source.arguments()
    connection = duckdb.connect()
    for name in ("mysql_scanner", "excel"):
        import_extension(name, con=connection)
        connection.execute(f"LOAD {name}")
    place = f"host={args.host} port={args.port} user={args.user} password={args.password} database={args.database}"
    connection.execute(f"ATTACH '{place}' AS shop (TYPE mysql, READ_ONLY)")
    changed = ["order_no::VARCHAR AS order_no"]
    changed += [f"regexp_replace({name}, '{UNWRITABLE}', '', 'g') AS {name}" for name in DIRTY]
    connection.execute(
        f"COPY (SELECT * REPLACE ({', '.join(changed)}) FROM mysql_query('shop', '{source.query(args.rows)}')) "
        f"TO '{args.output}' (FORMAT xlsx, HEADER true, SHEET '{source.TABLE}')"
    )


if __name__ == "__main__":
    main()
