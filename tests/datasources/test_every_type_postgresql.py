"""Every column type of PostgreSQL, at its limits: from the server to the cell of a file."""

from pathlib import Path

import pytest

from datasources.connectors.base import ColumnType
from datasources.connectors.postgresql import PostgreSQL
from tests.datasources import every_type
from tests.datasources.benches import read, rows
from tests.datasources.every_type import Kind
from tests.readback import assert_csv_holds, assert_xlsx_holds
from tests.servers import postgresql as servers

INTEGER, DECIMAL, FLOAT, TEXT = ColumnType.INTEGER, ColumnType.DECIMAL, ColumnType.FLOAT, ColumnType.TEXT
DATE, TIME, DATETIME, INSTANT = ColumnType.DATE, ColumnType.TIME, ColumnType.DATETIME, ColumnType.INSTANT

TYPES = (
    "CREATE TYPE mood AS ENUM ('开心', 'sad')",
    "CREATE TYPE pair AS (a integer, b text)",
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    "CREATE DOMAIN code AS varchar(10)",
    "CREATE DOMAIN price AS numeric(10,2)",
    "CREATE DOMAIN moods AS mood",
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
)


def same(*texts: str) -> list[tuple[str, str | bytes]]:
    """Values that the server shows as they are written."""
    return [("'" + text.replace("'", "''") + "'", text) for text in texts]


KINDS = (
    Kind("smallint_", "smallint", INTEGER, 0, same("-32768", "32767")),
    Kind("integer_", "integer", INTEGER, 0, same("-2147483648", "2147483647")),
    Kind("bigint_", "bigint", INTEGER, 0, same("-9223372036854775808", "9223372036854775807", "999999999999999")),
    Kind("oid_", "oid", INTEGER, 0, same("4294967295")),
    Kind(
        "numeric_",
        "numeric",
        DECIMAL,
        None,
        same("NaN", "Infinity", "-Infinity", "0.00000000000000000001", "1" + "0" * 40, "12.50"),
    ),
    Kind("numeric38", "numeric(38,10)", DECIMAL, 10, same("1234567890123456789012345678.0123456789", "-0.0000000001")),
    Kind("numeric_negative", "numeric(5,-2)", DECIMAL, 0, [("12345", "12300")]),
    Kind("real_", "real", FLOAT, None, same("1.1", "NaN", "Infinity", "-Infinity", "3.4028235e+38")),
    Kind("double_", "double precision", FLOAT, None, same("0.1", "1.7976931348623157e+308", "-Infinity", "2.5e-300")),
    Kind("boolean_", "boolean", ColumnType.BOOLEAN, None, [("true", "t"), ("false", "f")]),
    Kind("char_", "char(5)", TEXT, None, [("'ab'", "ab   ")]),
    Kind("char1", '"char"', TEXT, None, same("x")),
    Kind(
        "varchar_",
        "varchar(60)",
        TEXT,
        None,
        same("张三", "=1+1", "00123", "+86138", "emoji 😀", "\x01\x0b", "_x0041_", ""),
    ),
    Kind("text_", "text", TEXT, None, [("repeat('长', 40000)", "长" * 40000), ("'a,\"b\"\n;c\t'", 'a,"b"\n;c\t')]),
    Kind("name_", "name", TEXT, None, same("name")),
    Kind(
        "date_",
        "date",
        DATE,
        None,
        same(
            "2024-02-29",
            "infinity",
            "-infinity",
            "0044-03-15 BC",
            "0001-01-01",
            "9999-12-31",
            "12345-01-01",
            "1900-02-28",
        ),
    ),
    Kind("time_", "time", TIME, 6, same("00:00:00", "24:00:00", "23:59:59.999999", "12:30:00.5")),
    Kind("time3", "time(3)", TIME, 3, same("23:59:59.123")),
    Kind("timetz_", "timetz", TEXT, None, same("12:00:00+05:30")),
    Kind(
        "timestamp_",
        "timestamp",
        DATETIME,
        6,
        same(
            "2024-12-31 23:59:59.999999",
            "infinity",
            "-infinity",
            "0044-03-15 00:00:00 BC",
            "2000-03-15 00:00:00 BC",
            "12345-01-01 00:00:00",
            "0001-01-01 00:00:00",
            "9999-12-31 23:59:59",
        ),
    ),
    Kind("timestamp0", "timestamp(0)", DATETIME, 0, same("2024-01-01 00:00:00")),
    Kind(
        "timestamptz_",
        "timestamptz",
        INSTANT,
        6,
        [
            ("'2024-06-01 00:00:00.5+00'", "2024-06-01 08:00:00.5+08"),
            ("'infinity'", "infinity"),
            ("'-infinity'", "-infinity"),
            # Before 1901 Shanghai kept its own time.
            ("'1890-01-01 00:00:00+00'", "1890-01-01 08:05:43+08:05:43"),
            ("'2000-03-15 00:00:00+00 BC'", "2000-03-15 08:05:43+08:05:43 BC"),
            ("'12345-01-01 00:00:00+00'", "12345-01-01 08:00:00+08"),
            ("'1988-07-01 00:00:00+00'", "1988-07-01 09:00:00+09"),
        ],
    ),
    Kind(
        "timestamptz3", "timestamptz(3)", INSTANT, 3, [("'2024-06-01 00:00:00.1234+00'", "2024-06-01 08:00:00.123+08")]
    ),
    Kind("interval_", "interval", TEXT, None, same("1 year 2 mons 3 days 04:05:06.7", "-00:00:01", "00:00:00")),
    Kind("json_", "json", TEXT, None, same('{"a": 1,  "a": 2}', "null")),
    Kind("jsonb_", "jsonb", TEXT, None, same('{"a": "张", "b": [1, null]}')),
    Kind("uuid_", "uuid", TEXT, None, same("123e4567-e89b-12d3-a456-426655440000")),
    Kind("integers", "integer[]", TEXT, None, same("{1,NULL,3}", "{}", "{{1,2},{3,4}}")),
    Kind("bigints", "bigint[]", TEXT, None, same("{1}")),
    Kind("texts", "text[]", TEXT, None, same('{"a,b","c\\"d",NULL,"NULL",""}')),
    Kind("dates", "date[]", TEXT, None, same("{2024-01-01,NULL}")),
    Kind("bytea_array", "bytea[]", TEXT, None, same('{"\\\\x00ff"}')),
    Kind("boolean_array", "boolean[]", TEXT, None, same("{t,f}")),
    Kind("timestamptz_array", "timestamptz[]", TEXT, None, same('{"2024-06-01 08:00:00+08"}')),
    Kind(
        "bytea_", "bytea", ColumnType.BINARY, None, [("'\\x00ff'", "0x00FF"), ("''", "0x"), ("'张'::bytea", "0xE5BCA0")]
    ),
    Kind("inet_", "inet", TEXT, None, same("10.0.0.1/8", "::1")),
    Kind("cidr_", "cidr", TEXT, None, same("10.0.0.0/8")),
    Kind("macaddr_", "macaddr", TEXT, None, same("08:00:2b:01:02:03")),
    Kind("macaddr8_", "macaddr8", TEXT, None, same("08:00:2b:01:02:03:04:05")),
    Kind("bit_", "bit(4)", TEXT, None, same("0010")),
    Kind("varbit_", "varbit", TEXT, None, same("10", "")),
    Kind("money_", "money", TEXT, None, [("12.34", "$12.34"), ("-1234.5", "-$1,234.50")]),
    Kind("xml_", "xml", TEXT, None, same("<a>1 &amp; 2</a>")),
    Kind("enum_", "mood", TEXT, None, same("开心", "sad")),
    Kind("enum_array", "mood[]", TEXT, None, same("{开心,NULL}")),
    Kind("domain_integer", "positive", INTEGER, 0, same("5")),
    Kind("domain_text", "code", TEXT, None, same("abc")),
    Kind("domain_numeric", "price", DECIMAL, 2, [("1.5", "1.50")]),
    Kind("domain_enum", "moods", TEXT, None, same("sad")),
    Kind("composite", "pair", TEXT, None, same('(1,"x y")', "(,)")),
    Kind("range_", "int4range", TEXT, None, same("[1,5)", "empty")),
    Kind("multirange", "nummultirange", TEXT, None, same("{[1,2]}")),
    Kind("daterange_", "daterange", TEXT, None, same("[2024-01-01,2024-02-01)")),
    Kind("point_", "point", TEXT, None, same("(1,2)")),
    Kind("box_", "box", TEXT, None, same("(1,1),(0,0)")),
    Kind("circle_", "circle", TEXT, None, same("<(0,0),1>")),
    Kind("polygon_", "polygon", TEXT, None, same("((0,0),(1,1),(1,0))")),
    Kind("tsvector_", "tsvector", TEXT, None, same("'a' 'b'")),
    Kind("tsquery_", "tsquery", TEXT, None, same("'a' & 'b'")),
    Kind("regclass_", "regclass", TEXT, None, same("pg_class")),
    Kind("pg_lsn_", "pg_lsn", TEXT, None, same("16/B374D848")),
    Kind("hstore_", "hstore", TEXT, None, same('"a"=>"1", "b"=>NULL')),
    Kind("citext_", "citext", TEXT, None, same("AbC")),
)


@pytest.fixture(scope="module")
def database(postgresql: servers.PostgreSQL) -> str:
    name = postgresql.new_database()
    for statement in (*TYPES, *every_type.statements(KINDS, '"')):
        # Array literals of instants are read in the session's zone.
        postgresql.execute("SET timezone = 'Asia/Shanghai'; " + statement, database=name)
    return name


def test_every_type_arrives_in_its_canonical_form(postgresql: servers.PostgreSQL, database: str) -> None:
    columns, cells = every_type.read_all(PostgreSQL(postgresql.params(database)))
    assert every_type.differences(KINDS, columns, cells) == []


def test_people_see_the_servers_name_of_every_type_their_own_ones_too(
    postgresql: servers.PostgreSQL, database: str
) -> None:
    columns, _cells = every_type.read_all(PostgreSQL(postgresql.params(database)))
    names = {column.name: column.server_type for column in columns}
    wanted = ("bigint_", "integers", "enum_", "enum_array", "composite", "hstore_", "timestamptz_")
    assert [names[name] for name in wanted] == [
        "bigint",
        "integer[]",
        "mood",
        "mood[]",
        "pair",
        "hstore",
        "timestamp with time zone",
    ]


def test_the_accounts_own_settings_do_not_change_the_text(postgresql: servers.PostgreSQL) -> None:
    database = postgresql.new_database()
    for setting in (
        "datestyle = 'German'",
        "bytea_output = 'escape'",
        "extra_float_digits = -5",
        "intervalstyle = 'iso_8601'",
        "client_encoding = 'GBK'",
        "timezone = 'UTC'",
        "standard_conforming_strings = off",
    ):
        postgresql.execute(f"ALTER DATABASE {database} SET {setting}")
    sql = r"SELECT date '2024-02-29', '\x00'::bytea, 0.1::float8 + 0.2, interval '1 day', '张', 'a\b', timestamptz '2024-06-01 00:00:00+00'"
    assert rows(PostgreSQL(postgresql.params(database)), sql) == [
        (b"2024-02-29", b"0x00", b"0.30000000000000004", b"1 day", "张".encode(), b"a\\b", b"2024-06-01 08:00:00+08")
    ]


def test_a_database_in_another_encoding_arrives_as_utf8(postgresql: servers.PostgreSQL) -> None:
    postgresql.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    assert rows(PostgreSQL(postgresql.params("latin")), ("SELECT ", "::text AS v"), "é") == [("é".encode(),)]


@pytest.mark.parametrize(
    ("zone", "local"),
    [
        ("Asia/Shanghai", b"2024-06-01 08:00:00+08"),
        ("America/New_York", b"2024-05-31 20:00:00-04"),
        ("Asia/Kolkata", b"2024-06-01 05:30:00+05:30"),
        ("UTC", b"2024-06-01 00:00:00+00"),
    ],
)
def test_instants_come_in_the_zone_of_the_task(postgresql: servers.PostgreSQL, zone: str, local: bytes) -> None:
    connector = PostgreSQL(postgresql.params("postgres", timezone=zone))
    columns, cells = read(connector, "SELECT timestamptz '2024-06-01 00:00:00+00' AS at")
    assert (columns[0].type, cells) == (INSTANT, [[local]])


def test_an_excel_file_holds_every_value_or_counts_it(
    postgresql: servers.PostgreSQL, database: str, tmp_path: Path
) -> None:
    _columns, cells = every_type.read_all(PostgreSQL(postgresql.params(database)))
    writer = every_type.export(PostgreSQL(postgresql.params(database)), "xlsx", tmp_path)
    assert_xlsx_holds(writer, [_numbers(len(cells[0])), *cells])


def test_a_csv_file_holds_every_value_or_counts_it(
    postgresql: servers.PostgreSQL, database: str, tmp_path: Path
) -> None:
    _columns, cells = every_type.read_all(PostgreSQL(postgresql.params(database)))
    writer = every_type.export(PostgreSQL(postgresql.params(database)), "csv", tmp_path)
    assert_csv_holds(writer, [_numbers(len(cells[0])), *cells])


def _numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]
