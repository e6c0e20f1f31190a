"""docs/operations.md and the scripts it calls, as far as they can be looked at without a machine of their own.

tests/deploy/production.py runs them on one.
"""

import re
import subprocess

import pytest

from exporter_site.config import BASE_DIR
from tests.deploy.production import DOCUMENT, Block, blocks

BLOCKS = list(blocks(DOCUMENT.read_text()))
SCRIPTS = ("deploy/upgrade.sh", "deploy/data-export", "deploy/docker/entrypoint.sh")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.text.split("\n")[0][:40])
def test_a_block_is_shell_for_a_machine_that_the_trial_knows(block: Block) -> None:
    assert block.tags <= {"network", "mysql", "postgresql", "upgrade", "back"}
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_both_databases_and_both_ways_of_an_upgrade_are_there() -> None:
    assert {tag for block in BLOCKS for tag in block.tags} == {"network", "mysql", "postgresql", "upgrade", "back"}


def test_the_files_that_the_document_names_are_there() -> None:
    named = re.findall(r"(?:current|source|\.\.)/(deploy/[\w./-]*\w)", DOCUMENT.read_text())
    assert named
    for name in {*named, "deploy/systemd/environment"}:
        assert (BASE_DIR / name).exists(), name


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_started_and_read_by_its_shell(script: str) -> None:
    assert (BASE_DIR / script).stat().st_mode & 0o111
    shell = (BASE_DIR / script).read_text().splitlines()[0].rpartition("/")[2].split()[-1]
    assert subprocess.run([shell, "-n", BASE_DIR / script], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize(("language", "word"), [("zh", "用法"), ("en", "Usage")])
def test_the_upgrade_says_how_it_is_used_and_refuses_what_it_does_not_know(language: str, word: str) -> None:
    script = BASE_DIR / "deploy/upgrade.sh"
    for option, code in (("--help", 0), ("--forward", 2)):
        done = subprocess.run(
            [script, option], env={"LANGUAGE": language, "PATH": "/usr/bin:/bin"}, capture_output=True
        )
        assert done.returncode == code
        assert word in (done.stdout + done.stderr).decode()
