import os
import shutil

import pytest


@pytest.fixture(scope="session")
def libreoffice() -> str:
    program = shutil.which("soffice") or shutil.which("libreoffice")
    if program is None:
        sentence = "LibreOffice is not installed: apt-get install libreoffice-calc"
        # Nothing is skipped in silence: only who asked for it gets a skip.
        if os.environ.get("EXPORTER_TESTS_ALLOW_MISSING") == "1":
            pytest.skip(sentence)
        pytest.fail(sentence, pytrace=False)
    return program
