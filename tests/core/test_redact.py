"""Secrets are masked: values this process knows, and what looks like one."""

import json
import threading
import traceback
from urllib.parse import quote

import pytest

from exporter_site import redact as module
from exporter_site.redact import MASK, redact, remember_secret


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_known", ())


def test_a_known_secret_is_masked_anywhere() -> None:
    remember_secret("correct horse")
    assert redact("it is correct horse, twice: correct horse") == f"it is {MASK}, twice: {MASK}"


@pytest.mark.parametrize("secret", ["p@ss/w:rd%", "back\\slash", "quo'te\"s", "新密码很长", "a b+c&d"])
def test_a_known_secret_is_masked_in_the_spellings_of_urls_tracebacks_and_json(secret: str) -> None:
    remember_secret(secret)
    for text in (secret, quote(secret, safe=""), repr({"x": secret}), json.dumps([secret])):
        assert secret not in redact(text)
        assert MASK in redact(text)


def test_a_secret_inside_another_does_not_leave_the_rest() -> None:
    for first, second in (("abcde", "abcdefgh"), ("vwxyz12", "vwxyz")):
        remember_secret(first)
        remember_secret(second)
    assert redact("abcdefgh vwxyz12") == f"{MASK} {MASK}"


def test_very_short_values_would_blank_out_innocent_words() -> None:
    remember_secret("root")
    remember_secret("")
    assert redact("root of the matter") == "root of the matter"


def test_a_secret_is_masked_in_a_traceback() -> None:
    remember_secret("hunter2hunter2")
    try:
        raise ValueError("access denied for hunter2hunter2")
    except ValueError:
        assert "hunter2" not in redact(traceback.format_exc())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mysql://reader:s3cret@db1:3306/shop", f"mysql://reader:{MASK}@db1:3306/shop"),
        ("redis://:s3cret@cache/0", f"redis://:{MASK}@cache/0"),
        ("amqp://u:p@ss@host/x", f"amqp://u:{MASK}@host/x"),
        (
            "https://oapi.dingtalk.com/robot/send?access_token=abc123&x=1",
            f"https://oapi.dingtalk.com/robot/send?access_token={MASK}&x=1",
        ),
        ("timestamp=1&sign=aB%2Bc%3D", f"timestamp=1&sign={MASK}"),
        ("?key=693a91f6-7xxx&debug=1", f"?key={MASK}&debug=1"),
        ("password='two words' host=x", f"password={MASK} host=x"),
        ('PASSWORD="x" user=y', f"PASSWORD={MASK} user=y"),
        ("password=abc, host=x", f"password={MASK}, host=x"),
        ('{"password": "x y", "host": "z"}', f'{{"password": "{MASK}", "host": "z"}}'),
        ("{'password': 'x y', 'host': 'z'}", f"{{'password': '{MASK}', 'host': 'z'}}"),
        ('{"access_token": "a\'b"}', f'{{"access_token": "{MASK}"}}'),
        ("'smtp_password': 'x'", f"'smtp_password': '{MASK}'"),
        ("Authorization: Bearer eyJhbGciOi.J9-_x==", f"Authorization: Bearer {MASK}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {MASK}"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Cannot reach MySQL at db1:3306 as reporter: connection refused",
        "SELECT token_count, secretary FROM t WHERE monkey='x'",
        "see https://example.cn/docs?page=2#top",
        "12:30:15 worker@host started",
        "Duplicate entry '5' for key 'PRIMARY'",
        "basic auth is off; the bearer of news",
    ],
)
def test_innocent_text_stays(text: str) -> None:
    assert redact(text) == text


def test_threads_may_learn_secrets_while_others_redact() -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def reader() -> None:
        try:
            while not stop.is_set():
                redact("nothing to see here")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=reader) for _number in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1000):
        remember_secret(f"secret number {number}")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert redact("secret number 7") == MASK
