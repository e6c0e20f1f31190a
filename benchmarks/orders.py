"""The table that the benchmarks export: `orders`, twelve columns, dirty on purpose, the same on every machine.

What is dirty in it is what real tables have: NULLs, empty remarks, markup, control characters, texts that look like
formulas or like NULL, order numbers of 19 digits, times with and without microseconds.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

COLUMNS = (
    "id",
    "order_no",
    "customer",
    "city",
    "address",
    "quantity",
    "amount",
    "discount",
    "status",
    "ordered_on",
    "paid_at",
    "remark",
)
MYSQL_TABLE = """
    CREATE TABLE orders (
        id INT NOT NULL PRIMARY KEY, order_no BIGINT NOT NULL, customer VARCHAR(60), city VARCHAR(40) NOT NULL,
        address VARCHAR(300), quantity INT NOT NULL, amount DECIMAL(12, 2), discount DOUBLE, status TINYINT NOT NULL,
        ordered_on DATE NOT NULL, paid_at DATETIME(6), remark TEXT
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""
POSTGRESQL_TABLE = """
    CREATE TABLE orders (
        id integer PRIMARY KEY, order_no bigint NOT NULL, customer varchar(60), city varchar(40) NOT NULL,
        address varchar(300), quantity integer NOT NULL, amount numeric(12, 2), discount double precision,
        status smallint NOT NULL, ordered_on date NOT NULL, paid_at timestamp(6), remark text
    )
"""

_SURNAMES = "王李张刘陈杨黄赵周吴徐孙马朱胡郭何高林罗"
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰鹏飞宇欣怡梓涵浩然"
_CITIES = ("北京", "上海", "广州", "深圳", "杭州", "成都", "武汉", "西安", "南京", "重庆", "呼和浩特", "Urumqi", "苏州")
_ROADS = ("人民路", "解放大道", "中山北路", "科技园南区", "环城西路", "长江中路", "Century Avenue", "建设三马路")
_PARTS = ("东区", "西区", "新村", "花园", "国际大厦", "Plaza", "小区", "公寓")
_REMARKS = (
    "请尽快发货",
    "周末送货，电话联系",
    "开发票：增值税普通发票",
    "gift wrap, please",
    "放在前台即可",
    "易碎品，轻拿轻放",
)
_FORMULAS = ("=1+1", "+86 138 0013 8000", "-备注", "@所有人", '=HYPERLINK("http://example.com")')
# One address in a hundred has one of these in it.
_DIRT = ("<b>&\"'", "\x01\x1f", "\r\n", "\ufffe", "_x0041_", "  ", "NULL", "\\N", "\t", "🚚")
_START = datetime(2019, 1, 1)


def rows(count: int, seed: int = 20261123) -> Iterator[tuple[str | None, ...]]:
    """`count` rows as text, by column; None is NULL."""
    random_ = random.Random(seed)
    pick: Callable[..., str] = random_.choice
    chance = random_.random
    for number in range(1, count + 1):
        ordered = _START + timedelta(seconds=random_.randrange(7 * 365 * 86_400))
        paid = ordered + timedelta(seconds=random_.randrange(86_400))
        if chance() < 0.2:
            paid += timedelta(microseconds=random_.randrange(1_000_000))
        yield (
            str(number),
            str(random_.randrange(10**18, 9 * 10**18)),
            pick(_SURNAMES) + pick(_GIVEN) + (pick(_GIVEN) if chance() < 0.7 else "") if chance() > 0.05 else None,
            pick(_CITIES),
            _address(random_) if chance() > 0.07 else None,
            str(random_.randrange(1, 200)),
            f"{random_.randrange(1, 99_999_999) / 100:.2f}" if chance() > 0.05 else None,
            repr(round(chance() * 0.5, random_.randrange(1, 6))) if chance() > 0.10 else None,
            str(random_.randrange(0, 6)),
            f"{ordered:%Y-%m-%d}",
            f"{paid:%Y-%m-%d %H:%M:%S.%f}" if chance() > 0.08 else None,
            _remark(random_),
        )


def _address(random_: random.Random) -> str:
    text = (
        f"{random_.choice(_CITIES)}市{random_.choice(_ROADS)}{random_.randrange(1, 3000)}号"
        f"{random_.choice(_PARTS)}{random_.randrange(1, 60)}栋{random_.randrange(1, 9)}单元{random_.randrange(101, 3302)}室"
    )
    if random_.random() < 0.01:
        dirt = random_.choice(_DIRT)
        text = random_.choice((dirt + text, text + dirt, text[:6] + dirt + text[6:], dirt))
    return text


def _remark(random_: random.Random) -> str | None:
    chance = random_.random()
    if chance < 0.40:
        return ""
    if chance < 0.45:
        return None
    if chance < 0.47:
        return random_.choice(_FORMULAS)
    return random_.choice(_REMARKS) + "。" * random_.randrange(0, 4) + random_.choice(_REMARKS)


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def write_tsv(path: Path, count: int) -> str:
    """The rows in the form that both LOAD DATA and COPY read. Returns the SHA-256 of the file."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for row in rows(count):
            line = "\t".join("\\N" if cell is None else cell.translate(_ESCAPES) for cell in row).encode() + b"\n"
            digest.update(line)
            file.write(line)
    return digest.hexdigest()
