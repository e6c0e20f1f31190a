"""Translation before Django is ready: configuration errors are read by people too.

Django's own gettext can't be used while settings are still being made, so this reads the same catalogue directly.
"""

import gettext as stdlib_gettext
import os
from functools import cache
from pathlib import Path

LOCALE_DIR = Path(__file__).resolve().parent.parent / "locale"


def cli_language() -> str:
    """The language of the command line: Chinese, unless gettext's own LANGUAGE variable asks for English."""
    return "en" if os.environ.get("LANGUAGE", "").lower().startswith("en") else "zh-hans"


@cache
def _catalogue(language: str) -> stdlib_gettext.NullTranslations:
    locale = "zh_Hans" if language == "zh-hans" else language
    return stdlib_gettext.translation("django", LOCALE_DIR, [locale], fallback=True)


def early_gettext(message: str) -> str:
    """Translate `message` without Django, into the language of the command line."""
    return _catalogue(cli_language()).gettext(message)
