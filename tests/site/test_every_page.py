"""Every page in both languages: nothing is left in the other one."""

import re
from pathlib import Path

import pytest
from django.test import Client

from exporter_site.access.models import AuditEvent
from tests.access.world import MARK, World
from tests.site.pages import pages_of, texts_of

pytestmark = pytest.mark.django_db

# Names that are typed as they stand: {{ ds }}, {task_name}, export.query_timeout, https://…, and what is masked.
CODE = r"\{+[^{}]*\}+|[a-z_]+\.[a-z_]+|https://\S+|\S+\*{4,}|exp_\w+|[0-9.]+[KMGT]?B\b|pbkdf2_sha256"
# Said in Latin letters in Chinese, too: names of products, formats, protocols; what is typed as it stands.
SAME = set(
    re.findall(
        r"\S+",
        """
        AnalyticDB API Asia Bearer Chrome config Cron CSV csv CST Debian English Excel HMAC HTTP HTTPS ID IP JSON LDAP
        MariaDB Markdown MySQL NULL POST PostgreSQL SEC SELECT SHA Shanghai SMTP SQL SQLite SSL STARTTLS TLS URL User-Agent
        UTC UTF Webhook xlsx YAML yaml zip all big compact encoding en esc formula_guard gb gbk latin task test utf zh-hans
        """,
    )
)


def test_nothing_is_left_in_the_other_language(client: Client, tmp_path: Path) -> None:
    world = World(tmp_path)
    client.force_login(world.root)
    pages = list(pages_of(world))
    left: dict[str, list[str]] = {}
    names = sorted(map(re.escape, names_in(world)), key=len, reverse=True)
    carried = re.compile(rf"{CODE}|(?<!\w)(?:{'|'.join(names)})(?!\w)", re.IGNORECASE)
    for language, foreign in (
        ("zh-hans", re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*[A-Za-z]")),
        ("en", re.compile(r"[\u4e00-\u9fff]+")),
    ):
        for name, url in pages:
            page = client.get(url, headers={"accept-language": language})
            assert page.status_code in (200, 403, 404), (name, page.status_code)
            html = page.content.decode()
            assert f'lang="{language}"' in html, (name, language)
            for text in texts_of(html):
                words = set(foreign.findall(carried.sub(" ", text))) - SAME - {"简体中文"}
                if words:
                    left.setdefault(f"{language}: {text[:120]}", []).append(name)
    assert not left, "\n".join(f"{text}  ({', '.join(names[:3])})" for text, names in left.items())


def names_in(world: World) -> set[str]:
    """What the world's rows are called; no page can translate it."""
    found = {MARK, "admin", "viewer", "operator", "editor"}
    rows = [*world.named.values(), world.other_channel, world.unused, world.link, world.open_link]
    found |= {str(row) for row in rows}
    # What messages and the audit hold is in the language that it was written in.
    found |= {event.subject_name for event in AuditEvent.objects.exclude(subject_name="")}
    found.add(world.delivery.payload["title"])
    for row in rows:
        for field in row._meta.concrete_fields:
            value = getattr(row, field.attname)
            if isinstance(value, str) and value:
                found.add(value)
    return found
