"""The keys of the object storage in config.yaml and in the environment."""

from pathlib import Path

import pytest

from exporter_site.config import ConfigError, Export, load_config


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGUAGE", "en")


def loaded(tmp_path: Path, text: str, **environ: str) -> Export:
    file = tmp_path / "config.yaml"
    file.write_text(f"export:\n  {text}\n")
    return load_config(file, environ).export


def test_files_go_into_a_directory_unless_somebody_says_more(tmp_path: Path) -> None:
    export = loaded(tmp_path, "chunk_size: 10")
    assert (export.storage, export.s3_bucket, export.s3_addressing, export.s3_redirect) == ("local", "", "auto", False)


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("yes", True), ("false", False), ("'no'", False)])
def test_a_switch_is_yes_or_no_in_every_spelling(tmp_path: Path, text: str, meant: bool) -> None:
    export = loaded(tmp_path, f"s3_redirect: {text}")
    assert export.s3_redirect is meant
    over = loaded(tmp_path, "s3_redirect: true", EXPORTER_EXPORT__S3_REDIRECT="false")
    assert over.s3_redirect is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3_redirect: perhaps", "`export.s3_redirect` has a wrong value. Expected: true or false."),
        ("s3_bucket: yes", "`export.s3_bucket` has a wrong value. Expected: a number or a text, not yes or no"),
        ("retention_days: on", "`export.retention_days` has a wrong value. Expected: a number or a text"),
        ("storage: oss", "`export.storage` has a wrong value. Expected: 'local', 's3'"),
        ("s3_addressing: host", "`export.s3_addressing` has a wrong value."),
        ("s3_endpoint: minio:9000", "`export.s3_endpoint` has a wrong value. Expected: an address such as https://"),
        ("s3_endpoint: https://host/bucket", "`export.s3_endpoint` has a wrong value."),
        ("s3_prefix: ../other", "`export.s3_prefix` has a wrong value. Expected: names of folders"),
        ("s3_prefix: a//b", "`export.s3_prefix` has a wrong value."),
        ("s3_secret: x", "Did you mean `export.s3_secret_key`?"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert words in str(caught.value)


def test_the_secret_is_shown_nowhere(tmp_path: Path) -> None:
    export = loaded(tmp_path, "s3_secret_key: very-secret-words")
    assert "very-secret-words" not in f"{export!r} {export}"
