"""Templates: filled, never evaluated; and what a name or an error says is text in every client."""

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications import messages
from notifications.messages import MARKDOWN, PLAIN, Event

VALUES = {
    "task_name": "用户数据导出",
    "execution_time": "2025-08-12 15:30:00",
    "rows_count": "1,000",
    "file_size": "2.5MB",
    "duration": "3.2秒",
    "filename": "export_20250812.xlsx",
    "download_url": messages.LINK_MARK,
    "status": "成功",
    "error": "",
    "scheduled_for": "2025-08-12 15:30:00",
}
OLDER_TEMPLATE = """### 📊 {task_name} 执行完成

**执行时间**: {execution_time}
**数据行数**: {rows_count}
**文件大小**: {file_size}
**执行耗时**: {duration}
**文件名称**: {filename}

> 🎉 任务执行成功，数据已准备就绪！
"""


def test_the_older_systems_template_is_filled_as_there() -> None:
    messages.check(OLDER_TEMPLATE)
    assert messages.fill(OLDER_TEMPLATE, VALUES, MARKDOWN) == (
        "### 📊 用户数据导出 执行完成\n\n**执行时间**: 2025-08-12 15:30:00\n**数据行数**: 1,000\n**文件大小**: 2.5MB\n"
        "**执行耗时**: 3.2秒\n**文件名称**: export_20250812.xlsx\n\n> 🎉 任务执行成功，数据已准备就绪！\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{0.__class__}",
        "{task_name!r}",
        "{x:>500000000}",
        "{unknown}",
        "{task_name.__class__}",
        "{}{task_nam}",
        "{self[x]}",
    ],
)
def test_what_is_no_variable_is_refused_at_save_and_literal_when_filled(template: str) -> None:
    with pytest.raises(ValueError, match="未知变量"):
        messages.check(template)
    tracemalloc.start()
    filled = messages.fill(template, VALUES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert filled == template
    assert peak < 100_000


def test_the_nearest_name_is_named() -> None:
    with pytest.raises(ValueError, match=r"\{rows_count\}"):
        messages.check("{row_count}")


@pytest.mark.parametrize("template", ['{ "a": 1 }', '{"a": 1}', "{\n}", "{}", "{{ ds }}", "100 {", ""])
def test_other_braces_are_text(template: str) -> None:
    messages.check(template)
    assert messages.fill(template, VALUES) == template


def test_a_template_has_an_end() -> None:
    messages.check("x" * 10_000)
    with pytest.raises(ValueError, match="10000"):
        messages.check("x" * 10_001)


def test_a_name_that_looks_like_a_link_and_a_call_is_text() -> None:
    shown = messages.fill("{task_name}", {"task_name": "[x](http://e) @all **b**\n# h"}, MARKDOWN)
    assert shown == "［x］(http://e) ＠all ＊＊b＊＊ ＃ h"


def test_an_address_stays_one() -> None:
    assert messages.harmless("an a@b.cn, @all 与@all", MARKDOWN) == "an a@b.cn, ＠all 与＠all"


@given(st.text(max_size=50))
def test_no_value_brings_markup_or_lines(value: str) -> None:
    shown = messages.harmless(value, MARKDOWN)
    assert not set(shown) & set("*`[]<>#~|\\\n\r\ue000\ue001\u2028")
    assert not re.search(r"(?<![A-Za-z0-9])@|@(?![A-Za-z0-9])", shown)
    assert all(
        0 < i < len(shown) - 1 and shown[i - 1].isalnum() | (shown[i - 1] == "_")
        for i, c in enumerate(shown)
        if c == "_"
    )


@given(st.text(max_size=50), st.sampled_from(list(messages.VARIABLES)))
def test_a_value_is_never_filled_again(value: str, name: str) -> None:
    values = VALUES | {"task_name": value + "{" + name + "}"}
    assert messages.fill("{task_name}", values) == messages.harmless(value + "{" + name + "}", PLAIN)


@pytest.mark.parametrize("event", list(Event))
def test_every_event_has_a_title_and_facts(event: Event) -> None:
    values = VALUES | {"error": "连不上", "channel": "群", "recipients": "a@example.com"}
    rendered = messages.render(event, values, "", MARKDOWN, 7)
    assert "用户数据导出" in rendered["title"]
    assert rendered["facts"]
    assert "#7" in rendered["text"]


def test_a_default_mail_leaves_everything_to_the_facts() -> None:
    rendered = messages.render(Event.SUCCESS, VALUES, "", PLAIN, 7)
    assert rendered["text"] == ""
    assert ("数据行数", "1,000") in rendered["facts"]


def test_a_digest_holds_what_fits_and_says_how_many() -> None:
    payloads = [{"title": f"任务 {n}", "number": n, "link": n % 2 or None, "url": "https://e/d/1"} for n in range(100)]
    title, text, count = messages.digest(payloads, 2_000)
    assert 10 < count < 100
    assert str(count) in title
    assert len(text.encode()) <= 2_000
    assert text.count("\n- ") == count


def test_without_a_file_nothing_leads_to_one() -> None:
    text = f"a [下载]({messages.LINK_MARK}) b {messages.LINK_MARK} [x](y)"
    assert messages.with_address(text, "") == "a  b  [x](y)"
    assert messages.with_address(text, "u") == "a [下载](u) b u [x](y)"
