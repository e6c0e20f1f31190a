"""Every text that people can read is there in Chinese, and Chinese is what they get unless they ask for English."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import django
import pytest
from babel.messages import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.apps import apps
from django.test import Client
from django.utils.translation import override
from django.utils.translation.template import templatize

from datasources.models import DataSource
from exporter_site.config import BASE_DIR
from tasks.models import Execution, ExportTask
from tasks.states import Status

CATALOGUE = BASE_DIR / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
KEYWORDS = {
    **dict.fromkeys(("_", "_t", "gettext", "gettext_lazy", "gettext_noop", "early_gettext")),
    **dict.fromkeys(("ngettext", "ngettext_lazy"), (1, 2)),
    **dict.fromkeys(("pgettext", "pgettext_lazy"), ((1, "c"), 2)),
    **dict.fromkeys(("npgettext", "npgettext_lazy"), ((1, "c"), 2, 3)),
}
# Parts of the theme for other packages, which are not installed here.
FOREIGN_PARTS = ("contrib", "unfold_crispy")


class Text(NamedTuple):
    """A text in a source file; of a text with a plural, the singular, by which a catalogue knows it."""

    where: str
    context: str | None
    text: str


def texts_in(folder: Path, *, without: tuple[str, ...] = ()) -> Iterator[Text]:
    """The translatable texts of the Python files and templates below `folder`."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.suffix not in (".py", ".html", ".txt") or {"migrations", "static", *without} & set(parts):
            continue
        source = file.read_text(encoding="utf-8")
        if file.suffix != ".py":
            # In brackets, or the tokenizer would read the template's indentation as Python's.
            source = f"({templatize(source, origin=str(file))}\n)"
        for line, found, _comments, context in extract("python", BytesIO(source.encode()), KEYWORDS):
            yield Text(f"{file}:{line}", context, found if isinstance(found, str) else found[0])


def our_texts() -> list[Text]:
    ours = [Path(app.path) for app in apps.get_app_configs() if Path(app.path).parent == BASE_DIR]
    return [text for folder in (*ours, BASE_DIR / "templates") for text in texts_in(folder)]


def theme_texts() -> list[Text]:
    theme = [app for app in apps.get_app_configs() if app.name.partition(".")[0] == "unfold"]
    return [text for app in theme for text in texts_in(Path(app.path), without=FOREIGN_PARTS)]


@cache
def catalogue() -> Catalog:
    with CATALOGUE.open("rb") as file:
        return read_po(file)


def translations(source: Catalog) -> dict[tuple[str | None, str], tuple[str, ...]]:
    """(context, English) -> (Chinese,); what has a plural has one form in Chinese too."""
    return {
        (message.context, english(message.id)): (message.string,)
        if isinstance(message.string, str)
        else tuple(message.string or ())
        for message in source
        if message.id
    }


def english(message_id: str | tuple[str, ...] | list[str]) -> str:
    return message_id if isinstance(message_id, str) else message_id[0]


def test_every_text_of_the_sources_has_its_chinese() -> None:
    chinese = translations(catalogue())
    missing = [text for text in our_texts() if not all(chinese.get((text.context, text.text), ("",)))]
    assert not missing, "Run makemessages, translate and compile with msgfmt."


def test_the_extraction_sees_every_kind_of_call() -> None:
    seen = {text.text for text in our_texts()}
    kinds = {
        "gettext": "The SQL is empty. Write a SELECT.",
        "_t": "Only by hand.",
        "ngettext": "{count} row",
        "early_gettext": "{file}: `{key}` is needed.",
    }
    assert set(kinds.values()) <= seen


def test_every_text_of_the_theme_has_its_chinese_from_django_or_from_us() -> None:
    chinese = set(translations(catalogue()))
    for file in Path(django.__file__).parent.glob("**/locale/zh_Hans/LC_MESSAGES/django.mo"):
        with file.open("rb") as compiled:
            chinese |= set(translations(read_mo(compiled)))
    found = theme_texts()
    assert len(found) > 50
    missing = [text for text in found if (text.context, text.text) not in chinese]
    assert not missing, "Name them in exporter_site/theme_messages.py."


def test_nothing_in_the_catalogue_is_guessed_or_left_over() -> None:
    used = {(text.context, text.text) for text in our_texts()}
    assert not [message.id for message in catalogue() if message.id and message.fuzzy]
    assert not catalogue().obsolete
    assert not set(translations(catalogue())) - used


def test_the_catalogue_says_what_it_is() -> None:
    headers = dict(catalogue().mime_headers)
    assert headers["Language"] == "zh_Hans"
    assert headers["Plural-Forms"] == "nplurals=1; plural=0;"
    assert headers["Content-Type"].lower() == "text/plain; charset=utf-8"


def placeholders(text: str) -> tuple[set[str], set[str], Counter[str]]:
    """What a translation must keep: values to fill in, code in backticks, braces in their number."""
    return (
        set(re.findall(r"%\(\w+\)[a-z]|%[a-z]|\{\w*\}|\{\{ [^{}`]+ \}\}", text)),
        set(re.findall(r"`[^`]+`", text)),
        Counter(re.findall(r"[{}]+", text)),
    )


def test_a_translation_keeps_every_placeholder() -> None:
    changed = [
        (text, chinese)
        for (_context, text), forms in translations(catalogue()).items()
        for chinese in forms
        if placeholders(text) != placeholders(chinese)
    ]
    assert not changed


def test_chinese_has_chinese_punctuation() -> None:
    half_width = re.compile(r"[\u4e00-\u9fff][,;:?!]|[,;:?!][\u4e00-\u9fff]")
    forms = [form for forms in translations(catalogue()).values() for form in forms]
    assert not [form for form in forms if half_width.search(form)]


def test_the_compiled_catalogue_says_exactly_what_the_readable_one_says() -> None:
    with CATALOGUE.with_suffix(".mo").open("rb") as file:
        compiled = read_mo(file)
    assert translations(compiled) == translations(catalogue()), "Run msgfmt --check -o django.mo django.po."
    assert dict(compiled.mime_headers)["Plural-Forms"] == "nplurals=1; plural=0;"


def test_the_words_of_the_contract_are_the_ones_in_the_interface() -> None:
    with override("zh-hans"):
        assert [str(label) for label in Status.labels] == [
            "排队中",
            "运行中",
            "成功",
            "失败",
            "已超时",
            "已取消",
            "已错过",
            "已跳过",
        ]
        for model, word in ((DataSource, "数据源"), (ExportTask, "导出任务"), (Execution, "执行日志")):
            assert str(model._meta.verbose_name) == str(model._meta.verbose_name_plural) == word


@pytest.mark.django_db
@pytest.mark.parametrize("language", [None, "zh-CN", "zh-CN,zh;q=0.9,en;q=0.8", "fr"])
def test_the_login_page_is_chinese_for_whoever_does_not_ask_for_english(client: Client, language: str | None) -> None:
    page = client.get("/admin/login/", headers={"accept-language": language} if language else None).content.decode()
    assert all(word in page for word in ("数据导出系统", "欢迎使用", "用户名", "密码", "登录"))
    assert "Data Export System" not in page


@pytest.mark.django_db
def test_the_login_page_is_english_for_whoever_asks(client: Client) -> None:
    page = client.get("/admin/login/", headers={"accept-language": "en"}).content.decode()
    assert all(word in page for word in ("Data Export System", "Welcome back to", "Username", "Password", "Log in"))
    assert "数据导出系统" not in page
