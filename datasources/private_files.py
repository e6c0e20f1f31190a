"""The files that belong to this installation: no data source may read them, by whatever name they are reached."""

import os
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from exporter_site.config import BASE_DIR, resolve
from exporter_site.keys import keys_file


def check_file(path: str) -> None:
    """Raise ValueError, with a sentence, when `path` leads to one of our own files: links are followed."""
    if path.lower().startswith("file:"):
        raise ValueError(_("Give the path of the file alone, without “file:” in front and options behind."))
    if "\0" in path:
        raise ValueError(_("The path holds a NUL character. Remove it."))
    if any(_is_same(path, private) for private in private_files()):
        raise ValueError(_("{path} is one of this system's own files. Choose a database of yours.").format(path=path))


def private_files() -> Iterator[Path]:
    """The system database with what SQLite keeps beside it, the keys, the settings and the log; not all may exist."""
    database = settings.DATABASES.get("default", {})
    if database.get("ENGINE") == "django.db.backends.sqlite3":
        for suffix in ("", "-wal", "-shm", "-journal"):
            yield Path(f"{database['NAME']}{suffix}")
    yield keys_file()
    yield Path(os.environ.get("EXPORTER_CONFIG") or BASE_DIR / "config.yaml")
    yield BASE_DIR / ".env"
    if hasattr(settings, "CONFIG"):
        yield resolve(settings.CONFIG.logging.file)


def _is_same(path: str, private: Path) -> bool:
    if os.path.realpath(path) == os.path.realpath(private):
        return True
    try:
        return Path(path).samefile(private)  # a hard link, another mount
    except OSError:
        return False
