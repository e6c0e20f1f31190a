"""The SQL editor of the task form, in a real browser and, for what it asks, on real databases."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from datasources.sqltext import MYSQL, POSTGRESQL, SQLITE, Dialect, Kind, tokens
from tests.api import live
from tests.factories import make_sqlite_file
from tests.instance import Instance
from tests.site.test_browser import PASSWORD, chromium  # noqa: F401  # fixture

SHOP = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, amount DECIMAL(10,2), created DATE)",
    "INSERT INTO orders VALUES (1, '张三', 12.5, '2025-01-31'), (2, '', 99.99, '2025-02-01'), (3, NULL, NULL, NULL)",
    'CREATE TABLE "订单 明细" ("编号" INTEGER, "group" TEXT, "<img src=x onerror=alert(1)>" TEXT)',
    "INSERT INTO \"订单 明细\" VALUES (1, '<script>alert(1)</script>', '\"><img src=x onerror=alert(2)>')",
)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
MAKE = """
from datasources.models import DataSource
from django.contrib.auth.models import Permission
from tests.factories import make_admin, make_task, make_user
source = DataSource.objects.create(name="商店", kind="sqlite", database={file!r})
for kind in ("mysql", "postgresql"):
    DataSource.objects.create(name=kind, kind=kind, host="127.0.0.1", port=1, database="x")
make_admin("admin")
reader = make_user("reader", role="viewer", sources=[source])
reader.user_permissions.add(Permission.objects.get(codename="view_sql"))
task = make_task(name="每日订单", data_source=source, sql="SELECT id\\nFROM orders -- all of them", params={{"shop": "001"}})
"""


class Site:
    """A running installation with the task 1 on the SQLite source 1, and the users admin and reader."""

    def __init__(self, instance: Instance, file: Path, url: str) -> None:
        self.instance, self.file, self.url = instance, file, url

    def queries(self) -> int:
        """How many connections to the source's file are open now."""
        found = 0
        for pid in self.instance.processes():
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    found += handle.readlink() == self.file
                except OSError:
                    pass  # closed in this moment
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    instance = Instance(home / "instance")
    file = make_sqlite_file(home / "shop.db", SHOP)
    instance.python(MAKE.format(file=str(file)))
    with live.gunicorn(instance) as url:
        yield Site(instance, file, url)
    instance.close()


@pytest.fixture(scope="module")
def login(chromium: Browser, site: Site) -> Iterator[Callable[..., Page]]:  # noqa: F811  # the fixture
    """Pages of who has logged in; each must be left without a word in the browser's console."""
    states: dict[str, Any] = {}
    troubles: list[str] = []

    def log_in(user: str = "admin", **options: Any) -> Page:
        context = chromium.new_context(locale="en-US", storage_state=states.get(user), **options)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        if user not in states:
            page.goto(site.url)
            page.fill("#id_username", user)
            page.fill("#id_password", PASSWORD)
            page.press("#id_password", "Enter")
            page.wait_for_url("**/admin/")
            states[user] = context.storage_state()
        return page

    yield log_in
    for context in chromium.contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(site: Site, login: Callable[..., Page]) -> Iterator[Page]:
    """The form of the task, with its editor."""
    page = login()
    open_task(page, site)
    yield page
    page.context.close()


def open_task(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/admin/tasks/exporttask/1/change/")
    expect(part(page, "tables")).to_have_text("2 tables and 7 columns for suggestions.")


def part(page: Page, name: str) -> Any:
    return page.locator(f'[data-sql="{name}"]')


def write(page: Page, sql: str) -> None:
    """Put `sql` in the editor's place of what is there, and the cursor behind it."""
    page.locator(".cm-content").focus()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(sql)
    expect(page.locator("#id_sql")).to_have_value(sql)


def suggestions(page: Page, *, wanted: str) -> list[str]:
    """What is suggested at the cursor, once `wanted` is among it."""
    page.keyboard.press("Control+Space")
    expect(page.locator(".cm-completionLabel").get_by_text(wanted, exact=True)).to_be_visible()
    return page.locator(".cm-completionLabel").all_inner_texts()


def choose(page: Page, label: str) -> str:
    """The text after a suggestion was taken."""
    page.locator(".cm-tooltip-autocomplete li").filter(has_text=label).first.click()
    return page.locator("#id_sql").input_value()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


# In the browser.


def test_the_editor_is_the_forms_field(page: Page, site: Site) -> None:
    assert page.locator(".cm-content").inner_text() == "SELECT id\nFROM orders -- all of them"
    assert page.locator(".cm-content").get_attribute("aria-label") == "SQL*"
    write(page, "SELECT id FROM orders WHERE id > 1")
    page.get_by_role("button", name="Save and continue editing").click()
    page.get_by_text("was changed successfully").wait_for()
    expect(page.locator(".cm-content")).to_have_text("SELECT id FROM orders WHERE id > 1")
    write(page, "SELECT id\nFROM orders -- all of them")
    page.get_by_role("button", name="Save and continue editing").click()
    page.get_by_text("was changed successfully").wait_for()


@pytest.mark.parametrize("broken", ["**/codemirror.js", "**/sql_editor.js"])
def test_without_a_script_there_is_a_textarea(site: Site, login: Callable[..., Page], broken: str) -> None:
    page = login().context.new_page()  # its console may complain
    page.route(broken, lambda route: route.abort())
    page.goto(f"{site.url}/admin/tasks/exporttask/1/change/")
    box = page.locator("#id_sql").bounding_box()
    assert box is not None
    assert box["width"] > 300
    assert page.locator(".cm-editor").count() == 0
    expect(page.get_by_role("button", name="Preview", exact=True)).to_be_hidden()
    page.context.close()


def test_names_are_marked_within_sql_that_stays_coloured(page: Page) -> None:
    write(page, "-- {{ ds }}\nSELECT '{{ ds }} 00:00' AS a, {{ ds - 7 }} AS b FROM orders")
    assert page.locator(".exporter-sql-name").all_inner_texts() == ["{{ ds }}", "{{ ds - 7 }}"]
    colours = page.evaluate(
        """[...document.querySelectorAll(".cm-line span")].filter((span) => ["SELECT", "AS", "FROM"].includes(span.textContent))
            .map((span) => getComputedStyle(span).color)"""
    )
    assert len(colours) == 4
    assert set(colours) == {"rgb(29, 78, 216)"}


def test_columns_tables_and_names_are_suggested_and_quoted_where_needed(page: Page) -> None:
    write(page, "SELECT  FROM orders AS o")
    for _step in range(len(" FROM orders AS o")):
        page.keyboard.press("ArrowLeft")
    assert {"id", "customer", "amount", "created", "订单 明细"} <= set(suggestions(page, wanted="customer"))
    page.keyboard.press("Escape")
    write(page, "SELECT * FROM 订")
    suggestions(page, wanted="订单 明细")
    assert choose(page, "订单 明细") == 'SELECT * FROM "订单 明细"'
    write(page, 'SELECT 1 FROM "订单 明细" d JOIN orders o ON d.')
    assert suggestions(page, wanted="编号") == ["<img src=x onerror=alert(1)>", "group", "编号"]
    assert choose(page, "group").endswith('ON d."group"')
    write(page, 'SELECT 1 FROM orders WHERE "cust')
    suggestions(page, wanted="customer")
    assert choose(page, "customer") == 'SELECT 1 FROM orders WHERE "customer"'
    write(page, "SELECT {{ yes")
    suggestions(page, wanted="{{ yesterday }}")
    assert choose(page, "yesterday") == "SELECT {{ yesterday }}"
    write(page, "SELECT {{ sh")
    suggestions(page, wanted="{{ params.shop }}")


def test_the_dates_of_today_follow_the_zone_and_are_put_in_by_a_click(page: Page) -> None:
    now = part(page, "names").locator("li").filter(has_text="{{ now }}").locator("span")
    before = now.inner_text()
    page.fill("#id_timezone", "Pacific/Honolulu")
    page.locator("#id_timezone").blur()
    expect(part(page, "zone")).to_have_text("Pacific/Honolulu")
    expect(now).not_to_have_text(before)
    write(page, "SELECT ")
    part(page, "names").get_by_role("button", name="{{ last_month_end }}").click()
    expect(page.locator("#id_sql")).to_have_value("SELECT {{ last_month_end }}")


def test_a_preview_shows_what_is_in_the_form(page: Page) -> None:
    write(page, "SELECT id, customer, '{{ params.shop }}' AS shop FROM orders ORDER BY id")
    page.fill("#id_params", '{"shop": "007"}')
    page.locator(".cm-content").focus()
    page.keyboard.press("Control+Enter")
    expect(part(page, "status")).to_contain_text("3 rows, all of them")
    table = part(page, "result").locator("table")
    assert table.locator("th").all_inner_texts() == ["id\ninteger", "customer\ntext", "shop\ntext"]
    assert table.locator("tbody td").all_inner_texts() == [
        "1",
        "张三",
        "007",
        "2",
        "empty text",
        "007",
        "3",
        "NULL",
        "007",
    ]
    assert table.locator(".exporter-sql-null, .exporter-sql-empty").count() == 2
    part(page, "result").get_by_text("SQL as it ran").click()
    expect(part(page, "result").locator("pre")).to_have_text(
        "SELECT id, customer, '007' AS shop FROM orders ORDER BY id"
    )
    write(page, "SELECT o.id FROM orders o, orders p, orders q, orders r, orders s")
    page.get_by_role("button", name="Preview", exact=True).click()
    expect(part(page, "status")).to_contain_text("The first 100 rows, and there are more")
    assert part(page, "result").locator("tbody tr").count() == 100


def test_nothing_of_the_database_becomes_markup(page: Page) -> None:
    write(page, 'SELECT * FROM "订单 明细"')
    page.keyboard.press("Control+Enter")
    cells = part(page, "result").locator("table")
    expect(cells).to_contain_text("<script>alert(1)</script>")
    expect(cells.locator("th")).to_contain_text(["编号", "group", "<img src=x onerror=alert(1)>"])
    write(page, 'SELECT "<img src=x onerror=alert(3)>".a FROM orders')
    page.keyboard.press("Control+Enter")
    expect(part(page, "status")).to_contain_text("<img src=x onerror=alert(3)>")
    assert page.locator(".exporter-sql img, .exporter-sql tbody script").count() == 0


def test_an_error_is_said_and_marked_at_its_line(page: Page) -> None:
    write(page, "SELECT id,\n  o.nowhere\nFROM orders o")
    page.keyboard.press("Control+Enter")
    expect(part(page, "status")).to_have_text("Line 2: SQLite refused the SQL: no such column: o.nowhere")
    expect(page.locator(".cm-lintRange-error")).to_have_text("o.nowhere")
    assert part(page, "result").is_hidden()
    write(page, "SELECT id\nFROM orders")
    expect(page.locator(".cm-lintRange-error")).to_have_count(0)
    page.get_by_role("button", name="Check").click()
    expect(part(page, "status")).to_have_text("No fault found: the database accepts the SQL.")
    # While somebody writes, without a click.
    write(page, "SELECT id\nFROM orders\nWHERE created = {{ dss }}")
    expect(page.locator(".cm-lintRange-error")).to_have_text("WHERE created = {{ dss }}")
    expect(part(page, "status")).to_contain_text("Did you mean `{{ ds }}`?")


def test_a_cancelled_preview_ends_the_query(page: Page, site: Site) -> None:
    wait_until(lambda: site.queries() == 0)
    write(page, ENDLESS)
    page.keyboard.press("Control+Enter")
    expect(part(page, "status")).to_contain_text("Running… 1 s")
    assert site.queries() == 1
    page.get_by_role("button", name="Cancel").click()
    expect(part(page, "status")).to_contain_text("Cancelled.")
    expect(page.get_by_role("button", name="Preview", exact=True)).to_be_visible()
    wait_until(lambda: site.queries() == 0)


def test_the_keyboard_gets_out(page: Page) -> None:
    write(page, "SELECT id FROM orders")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    expect(page.locator("#id_sql")).to_have_value("  SELECT id FROM orders")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.sql") == "preview"
    described = page.locator(".cm-content").get_attribute("aria-describedby") or ""
    assert "Esc, then Tab" in page.locator(f"#{described.split()[0]}").inner_text()
    page.locator("label[for=id_sql]").click()
    assert page.evaluate("document.activeElement.className").startswith("cm-content")


def test_on_a_telephone_and_in_the_dark(site: Site, login: Callable[..., Page]) -> None:
    page = login(viewport={"width": 390, "height": 800}, color_scheme="dark")
    open_task(page, site)
    page.evaluate("document.documentElement.classList.add('dark')")
    write(page, 'SELECT * FROM orders, "订单 明细"')
    page.get_by_role("button", name="Preview", exact=True).click()
    expect(part(page, "status")).to_contain_text("3 rows")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    keyword = page.locator(".cm-line span").get_by_text("SELECT", exact=True)
    assert keyword.evaluate("(span) => getComputedStyle(span).color") == "rgb(147, 197, 253)"
    page.context.close()


def test_the_policy_of_the_page_is_kept(page: Page) -> None:
    page.evaluate(
        "window.broken = []; document.addEventListener('securitypolicyviolation', (e) => broken.push(e.blockedURI))"
    )
    write(page, "SELECT id FROM orders o WHERE o.")
    suggestions(page, wanted="customer")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+f")
    page.locator(".cm-search").wait_for()
    page.keyboard.press("Escape")
    write(page, "SELECT id FROM orders")
    page.get_by_role("button", name="Format").click()
    expect(part(page, "status")).to_have_text("Formatted.")
    assert page.evaluate("broken") == []


def test_who_may_only_look_sees_the_sql_in_colours(site: Site, login: Callable[..., Page]) -> None:
    page = login("reader")
    page.goto(f"{site.url}/admin/tasks/exporttask/1/change/")
    content = page.locator(".exporter-sql-shown .cm-content")
    expect(content).to_have_text("SELECT id\nFROM orders -- all of them".replace("\n", ""))
    assert content.get_attribute("contenteditable") == "false"
    assert page.get_by_role("button", name="Preview", exact=True).count() == 0
    page.context.close()


STATEMENTS = {
    SQLITE: (
        "SELECT id,customer FROM orders WHERE created={{ ds }} AND amount>10 ORDER BY id DESC LIMIT 5",
        "select Id, Count(*) as N from orders group by id having count(*)>1",
        "SELECT '{{ ds }} 00:00:00' AS a, {{ ds - 7 }}, {{ds}}, '  two  blanks -- no comment ' FROM orders",
        "SELECT id -- the   number  \n, customer /* a\n   long  one */ FROM orders -- {{ ds }} end",
        "WITH a AS (SELECT 1 AS n), b AS (SELECT n+1 AS m FROM a) SELECT * FROM a JOIN b ON a.n<b.m",
        'SELECT [订单 编号], "a  b", `c  d` FROM "订单 明细" WHERE x IN (1,2,3) AND y BETWEEN 1 AND 2',
        "SELECT CASE WHEN amount>=100 THEN '大''单' ELSE '' END AS 等级 FROM orders",
        "SELECT a||'x'||b, -1, - -1, 1e-5, x'AB' FROM t WHERE a<>b AND NOT EXISTS(SELECT 1 FROM u WHERE u.id=t.id)",
    ),
    MYSQL: (
        "SELECT `a  b`, \"text  here\", 'it\\'s  so' FROM `订单` WHERE d >= {{ month_start }} # the  end",
        "SELECT DATE_FORMAT(created,'%Y-%m-%d  %H') d, SUM(IF(paid,amount,0)) FROM orders GROUP BY 1 WITH ROLLUP",
        "SELECT DATE_ADD({{ ds }}, INTERVAL 1 DAY), CAST(x AS DECIMAL(10,2)) FROM t LEFT JOIN u USING(id) LIMIT 10,20",
        "SELECT ROW_NUMBER() OVER (PARTITION BY shop ORDER BY amount DESC) rn, j->>'$.a  b', @@version, a <=> b FROM t",
        "SELECT 1 UNION ALL SELECT 2 -- \u4e2d\u6587  注释\nUNION SELECT {{ params.shop }}",
        "SELECT GROUP_CONCAT(DISTINCT name ORDER BY name SEPARATOR ' , ') FROM t WHERE name LIKE '%{{ ds_nodash }}%'",
    ),
    POSTGRESQL: (
        "SELECT a::date, b::numeric(10,2), c->>'k  v', d#>>'{a,b}', e @> ARRAY[1,2] FROM public.\"Orders  X\"",
        "SELECT $$ a  'b' $$ || $tag$ -- no comment\n  x $tag$, E'it\\'s  \\n' FROM t WHERE d = {{ ds }}::date",
        "SELECT * FROM generate_series(1,10) WITH ORDINALITY AS g(n,o) WHERE n % 2 = 0 OFFSET 1",
        "SELECT DISTINCT ON (a) a, b FILTER (WHERE c) FROM t, LATERAL (SELECT 1) x ORDER BY a NULLS LAST",
        "SELECT count(*) FILTER (WHERE amount > 0), now() AT TIME ZONE 'Asia/Shanghai', t.* FROM s.t",
        "SELECT a FROM t WHERE b ~* '^x  y' AND c !~ 'z' AND d ILIKE '%{{ yesterday }}%' AND (a,b) IN (SELECT 1,2)",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount) FROM t /* one /* in another */ */",
    ),
}


def words(sql: str, dialect: Dialect) -> list[str]:
    return [token.text for token in tokens(sql, dialect) if token.kind is not Kind.SPACE]


def test_formatting_changes_blanks_only(page: Page) -> None:
    for number, (dialect, statements) in enumerate(STATEMENTS.items(), start=1):
        page.evaluate(
            "(number) => django.jQuery('#id_data_source').append(new Option('x', number, true, true)).trigger('change')",
            number,
        )
        if number > 1:  # nobody listens there
            expect(part(page, "tables")).to_contain_text("No tables for suggestions")
        for sql in statements:
            write(page, sql)
            page.keyboard.press("Control+Shift+F")
            expect(page.locator("#id_sql")).not_to_have_value(sql)
            expect(part(page, "status")).to_have_text("Formatted.")
            assert words(page.locator("#id_sql").input_value(), dialect) == words(sql, dialect)
