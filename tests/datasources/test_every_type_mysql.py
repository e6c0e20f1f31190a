"""Every column type of MySQL and MariaDB, at its limits: from the server to the cell of a file."""

from pathlib import Path
from typing import Any

import MySQLdb
import pytest
from MySQLdb.constants import ER

from datasources.connectors.adb import AnalyticDB
from datasources.connectors.base import ColumnType, ConnectorError
from datasources.connectors.mysql import MySQL
from tests.datasources import every_type
from tests.datasources.benches import read, rows
from tests.datasources.every_type import Kind
from tests.readback import assert_csv_holds, assert_xlsx_holds
from tests.servers.mariadb import MariaDB

INTEGER, DECIMAL, FLOAT, TEXT = ColumnType.INTEGER, ColumnType.DECIMAL, ColumnType.FLOAT, ColumnType.TEXT
DATE, TIME, DATETIME, BINARY = ColumnType.DATE, ColumnType.TIME, ColumnType.DATETIME, ColumnType.BINARY


def same(*literals: str) -> list[tuple[str, str | bytes]]:
    """Values that the server shows as they are written, without the quotes."""
    return [(literal, literal.strip("'")) for literal in literals]


KINDS = (
    Kind("tinyint", "TINYINT", INTEGER, 0, same("-128", "127", "0")),
    Kind("tinyint_u", "TINYINT UNSIGNED", INTEGER, 0, same("0", "255")),
    Kind("smallint", "SMALLINT", INTEGER, 0, same("-32768", "32767")),
    Kind("smallint_u", "SMALLINT UNSIGNED", INTEGER, 0, same("65535")),
    Kind("mediumint", "MEDIUMINT", INTEGER, 0, same("-8388608", "8388607")),
    Kind("mediumint_u", "MEDIUMINT UNSIGNED", INTEGER, 0, same("16777215")),
    Kind("int_", "INT", INTEGER, 0, same("-2147483648", "2147483647")),
    Kind("int_u", "INT UNSIGNED", INTEGER, 0, same("4294967295")),
    Kind("bigint", "BIGINT", INTEGER, 0, same("-9223372036854775808", "9223372036854775807", "999999999999999")),
    Kind("bigint_u", "BIGINT UNSIGNED", INTEGER, 0, same("18446744073709551615")),
    Kind("zerofill", "INT(8) ZEROFILL", TEXT, 0, [("42", "00000042"), ("123456789", "123456789")]),
    Kind("year", "YEAR", INTEGER, 0, same("1901", "2155", "2024")),
    Kind("boolean", "BOOLEAN", INTEGER, 0, [("TRUE", "1"), ("FALSE", "0")]),
    Kind("bit1", "BIT(1)", INTEGER, 0, [("b'1'", "1"), ("b'0'", "0")]),
    Kind("bit12", "BIT(12)", INTEGER, 0, [("b'101010101010'", "2730")]),
    Kind("bit64", "BIT(64)", INTEGER, 0, [("~0", "18446744073709551615"), ("0", "0")]),
    Kind("decimal_", "DECIMAL(10,0)", DECIMAL, 0, same("-9999999999", "0")),
    Kind(
        "decimal38",
        "DECIMAL(38,10)",
        DECIMAL,
        10,
        same("1234567890123456789012345678.0123456789", "-0.0000000001", "12.5000000000"),
    ),
    Kind("decimal65", "DECIMAL(65,30)", DECIMAL, 30, same("99999999999999999999999999999999999." + "9" * 30)),
    Kind("float_", "FLOAT", FLOAT, None, same("1.5", "-3.40282e38", "1.17549e-38")),
    Kind("float_fixed", "FLOAT(10,2)", FLOAT, 2, [("3.14159", "3.14")]),
    Kind("double_", "DOUBLE", FLOAT, None, same("1.7976931348623157e308", "-0.1", "0.30000000000000004")),
    Kind(
        "date_",
        "DATE",
        DATE,
        None,
        same(
            "'2024-02-29'",
            "'1000-01-01'",
            "'9999-12-31'",
            "'0000-00-00'",
            "'2024-00-00'",
            "'1900-02-28'",
            "'1900-03-01'",
        ),
    ),
    Kind("time_", "TIME", TIME, 0, same("'-838:59:59'", "'838:59:59'", "'00:00:00'", "'24:00:00'", "'23:59:59'")),
    Kind("time6", "TIME(6)", TIME, 6, same("'23:59:59.999999'", "'00:00:00.000001'", "'12:30:00.500000'")),
    Kind(
        "datetime_",
        "DATETIME",
        DATETIME,
        0,
        same("'0000-00-00 00:00:00'", "'9999-12-31 23:59:59'", "'2024-02-29 12:00:00'"),
    ),
    Kind("datetime6", "DATETIME(6)", DATETIME, 6, same("'2024-12-31 23:59:59.999999'", "'1000-01-01 00:00:00.000000'")),
    Kind(
        "timestamp3", "TIMESTAMP(3) NULL", DATETIME, 3, same("'2038-01-19 11:14:07.999'", "'0000-00-00 00:00:00.000'")
    ),
    Kind("timestamp6", "TIMESTAMP(6) NULL", DATETIME, 6, same("'2024-06-01 12:00:00.123456'")),
    Kind("char_", "CHAR(10)", TEXT, None, [("'ab  '", "ab"), ("'张三'", "张三"), ("''", "")]),
    Kind(
        "varchar_",
        "VARCHAR(200)",
        TEXT,
        None,
        same(
            "'=1+1'", "'00123'", "'+8613800000000'", "'-x'", "'@x'", "'emoji 😀'", "'a,b\n\"c\"'", "'_x000D_'", "' x '"
        ),
    ),
    Kind("varchar_bin", "VARCHAR(20) COLLATE utf8mb4_bin", TEXT, None, same("'ÄB'", "'中文'")),
    Kind("char_bin", "CHAR(3) COLLATE utf8mb4_bin", TEXT, None, same("'c'")),
    Kind("tinytext", "TINYTEXT", TEXT, None, same("'tiny'")),
    Kind(
        "text_", "TEXT", TEXT, None, [("'plain'", "plain"), ("REPEAT('长', 20000)", "长" * 20000), ("X'0141'", "\x01A")]
    ),
    Kind("text_bin", "TEXT COLLATE utf8mb4_bin", TEXT, None, same("'bin'")),
    Kind("mediumtext", "MEDIUMTEXT", TEXT, None, [("REPEAT('x', 40000)", "x" * 40000)]),
    Kind("longtext", "LONGTEXT", TEXT, None, same("'long'")),
    Kind("enum_", "ENUM('甲','b','')", TEXT, None, same("'甲'", "'b'", "''")),
    Kind("enum_bin", "ENUM('a') COLLATE utf8mb4_bin", TEXT, None, same("'a'")),
    Kind("set_", "SET('x','y')", TEXT, None, same("'x,y'", "''")),
    Kind("json_", "JSON", TEXT, None, same('\'{"a": "张"}\'', "'[1,2,null]'")),
    Kind("uuid_", "UUID", TEXT, None, same("'123e4567-e89b-12d3-a456-426655440000'")),
    Kind("inet6", "INET6", TEXT, None, same("'::1'", "'2001:db8::ff00:42:8329'")),
    Kind("binary_", "BINARY(4)", BINARY, None, [("X'00FF'", "0x00FF0000")]),
    Kind("varbinary_", "VARBINARY(8)", BINARY, None, [("X'6162'", "0x6162"), ("''", "0x")]),
    Kind("tinyblob", "TINYBLOB", BINARY, None, [("X'00'", "0x00")]),
    Kind("blob_", "BLOB", BINARY, None, [("X'89504E470D0A1A0A'", "0x89504E470D0A1A0A")]),
    Kind("mediumblob", "MEDIUMBLOB", BINARY, None, [("'text'", "0x74657874")]),
    Kind("longblob", "LONGBLOB", BINARY, None, [("X'FFFE'", "0xFFFE")]),
    Kind(
        "point_",
        "POINT",
        BINARY,
        None,
        [("POINT(1, 2)", "0x000000000101000000000000000000F03F0000000000000040")],
    ),
    Kind(
        "geometry_",
        "GEOMETRY",
        BINARY,
        None,
        [("ST_GeomFromText('POINT(0 0)')", "0x00000000010100000000000000000000000000000000000000")],
    ),
    Kind("latin1", "VARCHAR(10) CHARACTER SET latin1", TEXT, None, same("'é€'")),
    Kind("gbk", "VARCHAR(10) CHARACTER SET gbk", TEXT, None, same("'张三'")),
    Kind("utf16", "VARCHAR(10) CHARACTER SET utf16", TEXT, None, same("'宽😀'")),
)


@pytest.fixture(scope="module")
def database(mariadb: MariaDB) -> str:
    name = mariadb.new_database()
    for statement in every_type.statements(KINDS, "`", prefix="SET STATEMENT sql_mode = '', time_zone = '+08:00' FOR "):
        mariadb.execute(statement, database=name)
    return name


@pytest.mark.parametrize("connector_class", [MySQL, AnalyticDB])
def test_every_type_arrives_in_its_canonical_form(
    mariadb: MariaDB, database: str, connector_class: type[MySQL]
) -> None:
    columns, cells = every_type.read_all(connector_class(mariadb.params(database)))
    assert every_type.differences(KINDS, columns, cells) == []


class OldServer(MySQL):
    """As if the server were older than MySQL 5.5.3, which brought utf8mb4."""

    def _dial(self, host: str, charset: str, seconds: int) -> Any:
        if charset == "utf8mb4":
            raise MySQLdb.OperationalError(ER.UNKNOWN_CHARACTER_SET, "Unknown character set: 'utf8mb4'")
        return super()._dial(host, charset, seconds)


CHINESE = {"utf8mb4": "张三", "utf8": "张三", "gbk": "张三", "gb2312": "张三", "gb18030": "张三", "big5": "三中文"}


@pytest.mark.parametrize("connector_class", [MySQL, OldServer])
@pytest.mark.parametrize("charset", CHINESE)
def test_chinese_text_names_and_bound_values_survive_every_character_set(
    mariadb: MariaDB, database: str, charset: str, connector_class: type[MySQL]
) -> None:
    if connector_class is OldServer and charset in ("utf8mb4", "gb18030"):
        return  # an old server knows neither, nor does MariaDB know gb18030
    text = CHINESE[charset]
    sql = ("SELECT ", f" AS `{text}`, '{text}' FROM every_type WHERE '{text}' = ", " AND row_number_ = 0")
    columns, cells = read(connector_class(mariadb.params(database, charset=charset)), sql, text, text)
    assert columns[0].name == text
    assert cells == [[text.encode()], [text.encode()]]


@pytest.mark.parametrize("charset", ["gbk", "latin1", "utf8"])
def test_numbers_dates_and_bytes_do_not_depend_on_the_character_set(
    mariadb: MariaDB, database: str, charset: str
) -> None:
    plain = [kind for kind in KINDS if kind.type is not TEXT]
    names = ", ".join(f"`{kind.name}`" for kind in plain)
    connector = OldServer(mariadb.params(database, charset=charset))
    got = rows(connector, f"SELECT {names} FROM every_type ORDER BY row_number_ LIMIT 1")
    assert got == [tuple(kind.cell(0) for kind in plain)]


@pytest.mark.parametrize(
    ("charset", "value"),
    [
        # In GBK and Big5 a character's second byte can be 0x5C, the backslash: the old hole of addslashes().
        ("gbk", "縗' OR '1'='1"),
        ("gbk", "誠\\"),
        ("big5", "許功蓋"),
        ("big5", "功' OR 1=1 -- "),
        ("utf8", "\\' OR 1=1 -- "),
    ],
)
def test_a_value_whose_last_byte_looks_like_a_backslash_stays_a_value(
    mariadb: MariaDB, database: str, charset: str, value: str
) -> None:
    connector = OldServer(mariadb.params(database, charset=charset))
    assert rows(connector, ("SELECT ", " AS v"), value) == [(value.encode(),)]


@pytest.mark.parametrize("charset", ["gbk", "big5", "latin1", "utf8"])
def test_what_the_connections_character_set_can_not_hold_is_refused_never_a_question_mark(
    mariadb: MariaDB, database: str, charset: str
) -> None:
    connector = OldServer(mariadb.params(database, charset=charset))
    for parts, values in ((("SELECT ", " AS v"), ("😀",)), (("SELECT '😀' AS v",), ())):
        with pytest.raises(ConnectorError, match="😀") as caught:
            rows(connector, parts, *values)
        assert caught.value.reason == "sql_error"


@pytest.mark.parametrize("charset", ["gbk", "big5", "latin1", "utf8", "gb18030"])
def test_stored_text_arrives_whole_whatever_character_set_is_configured(
    mariadb: MariaDB, database: str, charset: str
) -> None:
    connector = MySQL(mariadb.params(database, charset=charset))
    assert rows(connector, "SELECT utf16, gbk, json_ FROM every_type WHERE row_number_ = 0") == [
        ("宽😀".encode(), "张三".encode(), '{"a": "张"}'.encode())
    ]


@pytest.mark.parametrize("mode", ["ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ORACLE,NO_BACKSLASH_ESCAPES", "ANSI"])
def test_a_server_that_reads_quotes_otherwise_is_told_to_read_them_as_we_do(
    mariadb: MariaDB, database: str, mode: str
) -> None:
    [(before,)] = mariadb.execute("SELECT @@GLOBAL.sql_mode")
    mariadb.execute(f"SET GLOBAL sql_mode = '{mode}'")
    value = "back\\slash' OR 1=1 -- "
    try:
        got = rows(MySQL(mariadb.params(database)), ("SELECT ", """, "text" AS t, 'it\\'s' AS s"""), value)
    finally:
        mariadb.execute(f"SET GLOBAL sql_mode = '{before}'")
    assert got == [(value.encode(), b"text", b"it's")]


@pytest.mark.parametrize(
    ("zone", "local"),
    [
        ("Asia/Shanghai", b"2024-06-01 12:00:00.123456"),
        ("America/New_York", b"2024-06-01 00:00:00.123456"),
        # The test server has no tables for these two; they keep their offset all year, which is as good.
        ("Asia/Kolkata", b"2024-06-01 09:30:00.123456"),
        ("America/Bogota", b"2024-05-31 23:00:00.123456"),
    ],
)
def test_timestamps_come_in_the_zone_of_the_task(mariadb: MariaDB, database: str, zone: str, local: bytes) -> None:
    connector = MySQL(mariadb.params(database, timezone=zone))
    assert rows(connector, "SELECT timestamp6 FROM every_type WHERE row_number_ = 0") == [(local,)]


def test_a_zone_with_summer_time_that_the_server_does_not_know_is_refused_in_words(
    mariadb: MariaDB, database: str
) -> None:
    with pytest.raises(ConnectorError, match="Europe/Paris"):
        rows(MySQL(mariadb.params(database, timezone="Europe/Paris")), "SELECT 1")


def test_an_excel_file_holds_every_value_or_counts_it(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    _columns, cells = every_type.read_all(MySQL(mariadb.params(database)))
    writer = every_type.export(MySQL(mariadb.params(database)), "xlsx", tmp_path)
    assert_xlsx_holds(writer, [_numbers(len(cells[0])), *cells])


def test_a_csv_file_holds_every_value_or_counts_it(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    _columns, cells = every_type.read_all(MySQL(mariadb.params(database)))
    writer = every_type.export(MySQL(mariadb.params(database)), "csv", tmp_path)
    assert_csv_holds(writer, [_numbers(len(cells[0])), *cells])


def _numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]
