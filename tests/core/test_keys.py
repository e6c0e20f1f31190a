"""The installation's keys: made once, private, the same for everybody."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from exporter_site.config import BASE_DIR, ConfigError
from exporter_site.keys import Keys, add_encryption_key, forget_old_encryption_keys, keys_file, load_keys

pytestmark = pytest.mark.usefixtures("english")


def environ(file: Path, **more: str) -> dict[str, str]:
    return {"EXPORTER_KEYS_FILE": str(file), **more}


def test_the_first_start_makes_a_private_file_and_the_next_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "data" / "keys.json"
    keys = load_keys(environ(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_keys(environ(file)) == keys
    assert len({keys.secret_key, keys.jwt_key, *keys.encryption_keys}) == 3
    assert all(len(key) >= 60 for key in (keys.secret_key, keys.jwt_key, *keys.encryption_keys))
    assert os.listdir(file.parent) == ["keys.json"]


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_keys(environ(tmp_path / "keys.json"))
    finally:
        os.umask(before)
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_processes_that_start_for_the_first_time_together_get_the_same_keys(tmp_path: Path) -> None:
    code = "import time, sys; from exporter_site.keys import load_keys; time.sleep(max(0, float(sys.argv[1]) - time.time())); print(load_keys().secret_key)"
    import time

    start = str(time.time() + 0.7)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, start],
            cwd=BASE_DIR,
            env=os.environ | environ(tmp_path / "keys.json"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _number in range(4)
    ]
    printed = [process.communicate()[0] for process in processes]
    assert len(set(printed)) == 1
    assert len(printed[0]) > 60
    assert os.listdir(tmp_path) == ["keys.json"]


def test_keys_of_the_environment_win_and_no_file_is_made_when_all_are_given(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    given = {"EXPORTER_SECRET_KEY": "s", "EXPORTER_ENCRYPTION_KEYS": " new , old,", "EXPORTER_JWT_KEY": "j"}
    assert load_keys(environ(file, **given)) == Keys("s", ("new", "old"), "j")
    assert not file.exists()
    partly = load_keys(environ(file, EXPORTER_JWT_KEY="j"))
    assert partly.jwt_key == "j"
    assert partly.secret_key == load_keys(environ(file)).secret_key


def test_the_default_place_is_the_projects_data() -> None:
    assert keys_file({}) == BASE_DIR / "data" / "keys.json"


GOOD = {"secret_key": "s", "encryption_keys": ["e"], "jwt_key": "j"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "5",
        "{}",
        json.dumps(GOOD | {"encryption_keys": "one text"}),
        json.dumps(GOOD | {"encryption_keys": []}),
        json.dumps(GOOD | {"encryption_keys": [5]}),
        json.dumps(GOOD | {"encryption_keys": [""]}),
        json.dumps(GOOD | {"secret_key": ""}),
        json.dumps(GOOD | {"jwt_key": None}),
        "\udcff",
    ],
)
def test_a_broken_file_stops_the_start_and_is_not_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    before = content.encode("utf-8", "surrogateescape")
    file.write_bytes(before)
    with pytest.raises(ConfigError, match=r"The key file .*keys\.json can't be used .* Restore it from the backup"):
        load_keys(environ(file))
    assert file.read_bytes() == before


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be used"):
        load_keys(environ(tmp_path / "file" / "keys.json"))


def test_a_new_encryption_key_comes_first_and_old_ones_stay_until_they_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = load_keys(environ(file))
    changed = add_encryption_key(file)
    assert changed.encryption_keys[1:] == first.encryption_keys
    assert load_keys(environ(file)) == changed
    assert (changed.secret_key, changed.jwt_key) == (first.secret_key, first.jwt_key)
    forget_old_encryption_keys(file)
    assert load_keys(environ(file)).encryption_keys == changed.encryption_keys[:1]
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["keys.json"]


def test_keys_do_not_show_when_printed(tmp_path: Path) -> None:
    keys = load_keys(environ(tmp_path / "keys.json"))
    assert not [value for value in (keys.secret_key, keys.jwt_key) if value in repr(keys) + str(keys)]
    assert asdict(keys)["secret_key"] == keys.secret_key
