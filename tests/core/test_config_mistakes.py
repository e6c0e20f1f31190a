"""A mistake in config.yaml or in the environment stops the start with a sentence that names it."""

from pathlib import Path

import pytest

from exporter_site.config import ConfigError
from tests.core.test_config import load

pytestmark = pytest.mark.usefixtures("english")


def complaint(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("export:\n  chunk_sise: 5", "`export.chunk_sise` is not a known key. Did you mean `export.chunk_size`?"),
        ("exprt: {}", "`exprt` is not a known key. Did you mean `export`?"),
        ("email: {max_workers: 5}", "Did you mean `scheduler.max_workers`?"),
        ("flask: {permanent_session_lifetim: 3}", "`flask.permanent_session_lifetim` is not a known key."),
        ("data_sources: {a: {type: mysql, database: x, pasword: y}}", "Did you mean `data_sources.a.password`?"),
        ("data_sources: {a: {type: mysql}}", "`data_sources.a.database` is needed."),
        ("data_sources: {a: }", "`data_sources.a` has a wrong value."),
        ("export: {chunk_size: many}", "`export.chunk_size` has a wrong value."),
        ("export: {chunk_size: 0}", "`export.chunk_size` has a wrong value."),
        ("export: {chunk_size: 1.5}", "`export.chunk_size` has a wrong value."),
        ("export: {chunk_size: yes}", "`export.chunk_size` has a wrong value."),
        ("web: {port: on}", "`web.port` has a wrong value."),
        ("web: {port: 65536}", "`web.port` has a wrong value."),
        ("flask: {permanent_session_lifetime: x}", "`flask.permanent_session_lifetime` has a wrong value."),
        ("email: {password: 12345}", "`email.password` has a wrong value."),
        ("logging: {level: loud}", "`logging.level` has a wrong value. Expected: 'DEBUG'"),
        ("logging: {max_size: 10XB}", "Expected: a size such as 10MB"),
        ("logging: {max_size: -1}", "`logging.max_size` has a wrong value."),
        ("system_database: {type: oracle}", "Expected: 'sqlite', 'mysql', 'postgresql'"),
        ("scheduler: {timezone: Mars/Olympus}", "`scheduler.timezone` has a wrong value. Expected: an IANA time zone"),
        ("scheduler: {timezone: ''}", "Expected: an IANA time zone"),
        ("scheduler: {timezone: ../../etc/passwd}", "Expected: an IANA time zone"),
        ("export: 5", "`export` has a wrong value."),
        ("flask: 5", "`flask` has a wrong value."),
        ("web: 5", "`web` has a wrong value."),
        ("1: x", "`1`"),
        ("- a\n- b", "expected sections"),
        ("just text", "expected sections"),
        ("export:\n  chunk_size: [\n", "line 3: this is not valid YAML"),
        ("export:\n\tchunk_size: 1\n", "line 2: this is not valid YAML"),
        ("a: \x01", "not valid YAML (special characters are not allowed)"),
        ("web: {port: 1}\nflask: {port: 2}", "`port` stands under both `web` and `flask`"),
        ("email: {password: '${SMTP_PASSWORD}'}", "`email.password` needs the environment variable SMTP_PASSWORD"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    found = complaint(tmp_path, text)
    assert says in found
    assert found.startswith("config.yaml")


def test_all_mistakes_are_told_at_once_and_without_values(tmp_path: Path) -> None:
    lines = complaint(
        tmp_path, "export: {chunk_sise: 5, query_timeout: hunter2}\nemail: {password: [hunter2]}"
    ).splitlines()
    assert len(lines) == 3
    assert "hunter2" not in "".join(lines)


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("EXPORTER_EXPORT__CHUNK_SISE", "`export.chunk_sise` is not a known key. Did you mean `export.chunk_size`?"),
        ("EXPORTER_EXPORT__CHUNK_SIZE", "`export.chunk_size` has a wrong value."),
        ("EXPORTER_EXPORTS__CHUNK_SIZE", "`exports` is not a known key. Did you mean `export`?"),
        ("EXPORTER_EXPORT__A__B", "is not of the form EXPORTER_<SECTION>__<KEY>"),
        ("EXPORTER_DATA_SOURCES__A", "is not of the form"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, variable: str, says: str) -> None:
    found = complaint(tmp_path, "", **{variable: "x"})
    assert says in found
    assert variable in found
