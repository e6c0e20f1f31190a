"""The demonstration: a shop's database made of nothing, a source that reads it, and three tasks.

The shop is the same on every machine (its numbers come from one seed) but for its dates, which end yesterday. It holds
what real tables hold and what spoils careless exports: order numbers of 19 digits, telephone numbers and article
numbers with zeros in front, remarks that look like formulas, line breaks, emoji, NULL.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from datasources.models import DataSource
from tasks.models import ExportTask

SEED = 20250812
DAYS = 120  # the orders' dates: so many days before today
CUSTOMERS = 8_000
ORDERS = 120_000

SOURCE = "演示商店"
DETAILS = "每日订单明细"

_SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, phone TEXT, city TEXT NOT NULL, level TEXT NOT NULL,
    registered_on DATE NOT NULL);
CREATE TABLE products (sku TEXT PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL, price DECIMAL(10,2) NOT NULL);
CREATE TABLE orders (order_no INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers,
    amount DECIMAL(12,2) NOT NULL, discount DECIMAL(10,2) NOT NULL, status TEXT NOT NULL, paid_at DATETIME,
    created_at DATETIME NOT NULL, address TEXT NOT NULL, remark TEXT);
CREATE TABLE order_items (order_no INTEGER NOT NULL REFERENCES orders, line INTEGER NOT NULL,
    sku TEXT NOT NULL REFERENCES products, quantity INTEGER NOT NULL, price DECIMAL(10,2) NOT NULL,
    PRIMARY KEY (order_no, line)) WITHOUT ROWID;
CREATE TABLE refunds (refund_no TEXT PRIMARY KEY, order_no INTEGER NOT NULL REFERENCES orders,
    amount DECIMAL(12,2) NOT NULL, reason TEXT NOT NULL, status TEXT NOT NULL, applied_at DATETIME NOT NULL,
    refunded_at DATETIME);
"""
_INDEXES = """
CREATE INDEX orders_by_time ON orders (created_at);
CREATE INDEX refunds_by_time ON refunds (applied_at);
"""

_SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾萧田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈"
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰梓涵浩宇欣怡子轩思远雨晨佳琪一诺若曦"
_RARE_NAMES = ("欧阳娜娜", "司马光", "O'Brien 李", "阿依古丽·买买提", "𠮷田先生", "Smith, John")
# City, area code, streets.
_CITIES = (
    ("北京", "010", ("朝阳区建国路", "海淀区中关村大街", "西城区金融街")),
    ("上海", "021", ("浦东新区世纪大道", "徐汇区漕溪北路", "静安区南京西路")),
    ("广州", "020", ("天河区体育西路", "越秀区北京路")),
    ("深圳", "0755", ("南山区科技园南路", "福田区深南大道")),
    ("杭州", "0571", ("西湖区文三路", "余杭区文一西路")),
    ("成都", "028", ("武侯区天府大道", "锦江区春熙路")),
    ("武汉", "027", ("武昌区中南路", "江汉区解放大道")),
    ("西安", "029", ("雁塔区小寨东路", "碑林区南大街")),
)
_PLACES = ("{}号", "{}号院 3#楼, 2单元", "{}号 <快递柜>", "{}号 A&B座 {}室", "{}号“幸福里”小区, 门牌 08-{}")
_LEVELS = ("普通会员", "银卡会员", "金卡会员", "钻石会员")
_PREFIXES = ("130", "135", "138", "139", "150", "158", "177", "186", "188", "199")
# Category, and its articles with their price in yuan.
_CATEGORIES = (
    ("手机数码", (("蓝牙耳机", 299), ("快充数据线", 29), ("移动电源", 129), ("智能手表", 1299), ("平板电脑", 2499))),
    (
        "食品生鲜",
        (("东北大米 5kg", 45), ("云南小粒咖啡", 59), ("山核桃仁", 68), ("大闸蟹礼券", 398), ("纯牛奶 24盒", 66)),
    ),
    ("家居日用", (("纯棉四件套", 329), ("保温杯", 89), ("垃圾袋 100只", 16), ("人体工学椅", 899), ("香薰蜡烛", 49))),
    ("服饰鞋包", (("羊毛大衣", 799), ("运动鞋", 459), ("双肩包", 199), ("真丝围巾", 268), ("速干 T恤", 79))),
    ("美妆个护", (("保湿面霜", 238), ("防晒霜 SPF50+", 119), ("电动牙刷", 349), ("洗发水 & 护发素套装", 99))),
    ("图书文具", (("《三体》全集", 93), ("钢笔", 158), ("A4 打印纸", 25), ("儿童绘本", 39), ("考研英语词汇", 45))),
)
# Variant, and what it costs beside the plain one.
_VARIANTS = (("标准装", 1.0), ("家庭装", 1.8), ("礼盒装", 1.5), ("旗舰款", 1.6), ("青春版", 0.85), ("限量版", 2.2))
_REMARKS = (
    None,
    "",
    "请尽快发货",
    "工作日送货，送前请电话联系",
    "=1+1 买一送一的那款",
    "+86 开头的是新号码",
    "-不要放门口，交给前台",
    "@店长 麻烦开发票",
    "生日礼物🎁，请包装得漂亮一点😊",
    "第一行：放快递柜\n第二行：取件码发短信",
    '要 12" 的，不要 10"',
    "赠品；卡片写：Happy <Birthday> & best wishes",
)
_REMARK_WEIGHTS = (50, 10, 9, 8, 2, 3, 3, 2, 5, 4, 2, 2)
_STATUSES = ("已完成", "已发货", "待发货", "待付款", "已取消")
_UNPAID = ("待付款", "已取消")
_REFUND_REASONS = ("七天无理由", "商品破损", "与描述不符", "发错货", "不想要了", "收到时已过期, 要求赔付")
_REFUND_STATUSES = ("已退款", "处理中", "已拒绝")


@dataclass(slots=True)
class Rows:
    """The rows of each table, in the order of its columns."""

    customers: list[tuple[Any, ...]] = field(default_factory=list)
    products: list[tuple[Any, ...]] = field(default_factory=list)
    orders: list[tuple[Any, ...]] = field(default_factory=list)
    order_items: list[tuple[Any, ...]] = field(default_factory=list)
    refunds: list[tuple[Any, ...]] = field(default_factory=list)


def make_shop(file: Path, today: date) -> None:
    """Write the shop's database, whole or not at all; the last order is of the day before `today`."""
    rows = make_rows(Random(SEED), today)  # noqa: S311  # the same shop everywhere, no secrets
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".demo-")
    os.close(descriptor)
    try:
        with closing(sqlite3.connect(name)) as connection:
            connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
            with connection:
                for table in Rows.__slots__:
                    _insert(connection, table, getattr(rows, table))
            connection.executescript(_INDEXES + "ANALYZE;")
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)


def _insert(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608  # our own table names


def make_rows(random: Random, today: date) -> Rows:
    rows = Rows(products=list(_products(random)))
    rows.customers = list(_customers(random, today))
    _add_orders(rows, random, _order_times(random, today))
    _add_refunds(rows, random, datetime.combine(today, time()))
    return rows


def _products(random: Random) -> Iterator[tuple[Any, ...]]:
    number = 0
    for category, articles in _CATEGORIES:
        for article, yuan in articles:
            for variant, factor in random.sample(_VARIANTS, 4):
                number += 1
                price = int(yuan * factor) + random.choice((0.0, 0.5, 0.9))
                yield f"{number * 37:08d}", f"{article} {variant}", category, price  # zeros in front, as on labels


def _customers(random: Random, today: date) -> Iterator[tuple[Any, ...]]:
    for number in range(1, CUSTOMERS + 1):
        city, area_code, _streets = random.choice(_CITIES)
        name = random.choice(_SURNAMES) + "".join(random.choices(_GIVEN, k=random.choice((1, 2, 2))))
        if number % 97 == 0:
            name = random.choice(_RARE_NAMES)
        level = random.choices(_LEVELS, (60, 25, 12, 3))[0]
        registered = today - timedelta(days=random.randrange(DAYS, 2500))
        yield number, name, _phone(random, area_code), city, level, registered.isoformat()


def _phone(random: Random, area_code: str) -> str | None:
    mobile = f"{random.choice(_PREFIXES)}{random.randrange(10**8):08d}"
    landline = f"{area_code}-{random.randrange(2, 9)}{random.randrange(10**7):07d}"
    forms = (mobile, landline, landline.replace("-", ""), f"+86 {mobile}", f"+86{mobile}", None)
    return random.choices(forms, (70, 12, 5, 6, 4, 3))[0]


def _order_times(random: Random, today: date) -> list[datetime]:
    """When each order came: more of them lately, at weekends and in the evening."""
    first = today - timedelta(days=DAYS)
    days = [datetime.combine(first + timedelta(days=number), time()) for number in range(DAYS)]
    weights = [(0.7 + 0.6 * number / DAYS) * (1.3 if day.weekday() >= 5 else 1.0) for number, day in enumerate(days)]
    hours = (2, 1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 9, 9, 8, 8, 8, 8, 8, 9, 11, 14, 14, 10, 5)
    chosen_days = random.choices(days, cum_weights=list(accumulate(weights)), k=ORDERS)
    chosen_hours = random.choices(range(24), hours, k=ORDERS)
    seconds = random.choices(range(3600), k=ORDERS)
    return sorted(
        day + timedelta(seconds=3600 * hour + second)
        for day, hour, second in zip(chosen_days, chosen_hours, seconds, strict=True)
    )


def _add_orders(rows: Rows, random: Random, times: list[datetime]) -> None:
    # Drawn for all orders at once: one by one it takes three times as long.
    customers = random.choices(rows.customers, k=len(times))
    item_counts = random.choices((1, 2, 3, 4), (55, 27, 12, 6), k=len(times))
    discounts = random.choices((0, 0.05, 0.1, 0.12), (50, 20, 20, 10), k=len(times))
    statuses = random.choices(_STATUSES, (78, 9, 5, 3, 5), k=len(times))
    remarks = random.choices(_REMARKS, _REMARK_WEIGHTS, k=len(times))
    addresses = {customer[0]: _address(random, customer[3]) for customer in rows.customers}
    drawn = zip(times, customers, item_counts, discounts, statuses, remarks, strict=True)
    for number, (created, customer, item_count, discount, status, remark) in enumerate(drawn, start=1):
        # 19 digits, as shops have them: a spreadsheet keeps only the first 15 of such a number.
        order_no = int(f"{created:%Y%m%d}{number * 7:011d}")
        total = _add_items(rows, random, order_no, item_count)
        off = round(total * discount, 2)
        paid = None if status in _UNPAID else created + timedelta(seconds=int(random.random() * 1500) + 5)
        address = addresses[customer[0]]
        order = (
            order_no,
            customer[0],
            round(total - off, 2),
            off,
            status,
            _text(paid),
            _text(created),
            address,
            remark,
        )
        rows.orders.append(order)


def _add_items(rows: Rows, random: Random, order_no: int, count: int) -> float:
    """`count` items of one order. Returns what they cost."""
    total = 0.0
    for line in range(1, count + 1):
        # Squared: some articles sell much better than others.
        sku, _name, _category, price = rows.products[int(random.random() ** 2 * len(rows.products))]
        quantity = 1 if random.random() < 0.8 else int(random.random() * 5) + 2
        rows.order_items.append((order_no, line, sku, quantity, price))
        total += quantity * price
    return total


def _add_refunds(rows: Rows, random: Random, end: datetime) -> None:
    """A refund for some of the paid orders, none later than `end`."""
    for order_no, _customer, paid_amount, _discount, _status, paid_at, *_rest in rows.orders:
        if paid_at is None or random.random() > 0.04:
            continue
        applied = datetime.fromisoformat(paid_at) + timedelta(hours=random.random() * 72)
        refunded = applied + timedelta(hours=1 + random.random() * 40)
        status = random.choices(_REFUND_STATUSES, (80, 12, 8))[0]
        if applied >= end:
            continue
        if status == "已退款" and refunded >= end:
            status = "处理中"
        amount = paid_amount if random.random() < 0.7 else round(paid_amount * random.random(), 2)
        refund_no = f"{len(rows.refunds) + 1:012d}"
        refunded_at = _text(refunded) if status == "已退款" else None
        reason = random.choice(_REFUND_REASONS)
        rows.refunds.append((refund_no, order_no, amount, reason, status, _text(applied), refunded_at))


def _address(random: Random, city: str) -> str:
    streets = next(streets for name, _code, streets in _CITIES if name == city)
    number = random.randint(1, 900)
    return f"{city}市{random.choice(streets)}{random.choice(_PLACES).format(number, number % 30 + 101)}"


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(" ", "seconds") if moment else None


TASKS: tuple[dict[str, Any], ...] = (
    {
        "name": DETAILS,
        "description": "最近 30 天的全部订单明细，每天早上 9 点导出。订单号有 19 位，编码和电话保留前面的零。",
        "cron": "0 9 * * *",
        "tags": ["演示", "订单"],
        "sql": """\
-- {{ ds }} 是计划日期：取它之前 30 天的订单，不含当天
SELECT o.order_no      AS 订单号,
       o.created_at    AS 下单时间,
       o.paid_at       AS 付款时间,
       o.status        AS 状态,
       c.name          AS 客户,
       c.phone         AS 电话,
       c.level         AS 会员等级,
       c.registered_on AS 注册日期,
       p.sku           AS 商品编码,
       p.name          AS 商品,
       i.quantity      AS 数量,
       i.price         AS 单价,
       o.amount        AS 订单金额,
       o.discount      AS 优惠金额,
       o.address       AS 收货地址,
       o.remark        AS 备注
FROM orders AS o
JOIN customers AS c ON c.id = o.customer_id
JOIN order_items AS i ON i.order_no = o.order_no
JOIN products AS p ON p.sku = i.sku
WHERE o.created_at >= {{ ds - 30 }}
  AND o.created_at < {{ ds }}
ORDER BY o.created_at, o.order_no, i.line""",
    },
    {
        "name": "月度商品销售排行",
        "description": "上个月每种商品的销量和销售额，每月 1 日早上 8 点导出。",
        "cron": "0 8 1 * *",
        "tags": ["演示", "商品"],
        "filename_template": "{{ task }}_{{ last_month_start }}_{{ last_month_end }}",
        "sql": """\
SELECT row_number() OVER (ORDER BY sum(i.quantity * i.price) DESC) AS 排名,
       p.sku                         AS 商品编码,
       p.name                        AS 商品,
       p.category                    AS 类目,
       count(DISTINCT o.order_no)    AS 订单数,
       sum(i.quantity)               AS 销量,
       round(sum(i.quantity * i.price), 2) AS 销售额
FROM orders AS o
JOIN order_items AS i ON i.order_no = o.order_no
JOIN products AS p ON p.sku = i.sku
WHERE o.paid_at >= {{ last_month_start }}
  AND o.paid_at < {{ month_start }}
GROUP BY p.sku, p.name, p.category
ORDER BY 排名""",
    },
    {
        "name": "退款清单",
        "description": "最近 7 天申请的退款，工作日早上 9 点半导出为 GB18030 编码的 CSV，供财务系统导入。",
        "cron": "30 9 * * 1-5",
        "tags": ["演示", "财务"],
        "format": "csv",
        "format_options": {"encoding": "gb18030"},
        "on_empty": "notice",
        "sql": """\
SELECT r.refund_no                AS 退款单号,
       r.order_no                 AS 订单号,
       c.name                     AS 客户,
       c.phone                    AS 电话,
       printf('%.2f', r.amount)   AS 退款金额,
       r.reason                   AS 原因,
       r.status                   AS 状态,
       r.applied_at               AS 申请时间,
       r.refunded_at              AS 退款时间
FROM refunds AS r
JOIN orders AS o ON o.order_no = r.order_no
JOIN customers AS c ON c.id = o.customer_id
WHERE r.applied_at >= {{ yesterday - 6 }}
  AND r.applied_at < {{ ds }}
ORDER BY r.applied_at""",
    },
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What load() made; what was there already is not listed."""

    shop: Path | None
    source: bool
    tasks: tuple[str, ...]


def load(file: Path, today: date, *, refresh: bool = False) -> Loaded:
    """Make what is missing of the demonstration. What is there stays as it is, edited or not; only `refresh` writes the
    shop's database anew, with orders up to the day before `today`."""
    make = refresh or not file.exists()
    if make:
        make_shop(file, today)
    source, new_source = DataSource.objects.get_or_create(
        name=SOURCE,
        defaults={"kind": "sqlite", "database": str(file), "description": "随系统提供的演示数据，可以随时删除。"},
    )
    made = []
    for fields in TASKS:
        if not ExportTask.objects.filter(name=fields["name"]).exists():
            task = ExportTask(data_source=source, **fields)
            task.full_clean()
            task.save()
            made.append(task.name)
    return Loaded(file if make else None, new_source, tuple(made))
