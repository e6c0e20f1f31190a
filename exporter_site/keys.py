"""The installation's secret keys: made on first start, kept in one file of mode 0600, or given by the environment.

Encryption keys are a list, newest first, and apart from SECRET_KEY: each can be changed without the other.
Given by EXPORTER_SECRET_KEY, EXPORTER_ENCRYPTION_KEYS (comma separated) and EXPORTER_JWT_KEY, or made here.
EXPORTER_KEYS_FILE names another file than data/keys.json.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from exporter_site.config import BASE_DIR, ConfigError
from exporter_site.language import early_gettext as _


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    secret_key: str
    encryption_keys: tuple[str, ...]
    jwt_key: str


def keys_file(environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get("EXPORTER_KEYS_FILE") or BASE_DIR / "data" / "keys.json")


def new_key() -> str:
    return secrets.token_urlsafe(48)


def load_keys(environ: Mapping[str, str] = os.environ) -> Keys:
    """The keys in force; writes the file when it does not exist and the environment does not give all of them.

    Raises ConfigError when the file can't be read or made.
    """
    secret_key = environ.get("EXPORTER_SECRET_KEY", "")
    encryption_keys = tuple(
        key.strip() for key in environ.get("EXPORTER_ENCRYPTION_KEYS", "").split(",") if key.strip()
    )
    jwt_key = environ.get("EXPORTER_JWT_KEY", "")
    if secret_key and encryption_keys and jwt_key:
        return Keys(secret_key, encryption_keys, jwt_key)
    stored = _read_or_create(keys_file(environ))
    return Keys(
        secret_key or stored.secret_key,
        encryption_keys or stored.encryption_keys,
        jwt_key or stored.jwt_key,
    )


def add_encryption_key(file: Path) -> Keys:
    """Put a new encryption key in front of those in `file`; the old ones stay and still decrypt."""
    stored = _read_or_create(file)
    changed = replace(stored, encryption_keys=(new_key(), *stored.encryption_keys))
    _replace(file, changed)
    return changed


def forget_old_encryption_keys(file: Path) -> None:
    """Keep only the newest encryption key. What is still encrypted with an older one can't be read any more."""
    stored = _read_or_create(file)
    _replace(file, replace(stored, encryption_keys=stored.encryption_keys[:1]))


def _read_or_create(file: Path) -> Keys:
    try:
        if not file.exists():
            _create(file)
        return _checked(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            _(
                "The key file {file} can't be used ({error}). Restore it from the backup; without it no stored password can be read."
            ).format(file=file, error=exc)
        ) from None


def _checked(content: dict[str, Any]) -> Keys:
    """`content` of the file as keys. Raises KeyError, TypeError or ValueError when any is missing or is no text."""
    secret_key, encryption_keys, jwt_key = (content[name] for name in ("secret_key", "encryption_keys", "jwt_key"))
    if not isinstance(encryption_keys, list) or not encryption_keys:
        raise ValueError(_("encryption_keys must be a list of keys"))
    if not all(isinstance(key, str) and key for key in (secret_key, jwt_key, *encryption_keys)):
        raise ValueError(_("every key must be a text that is not empty"))
    return Keys(secret_key, tuple(encryption_keys), jwt_key)


def _create(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = _write_beside(file, Keys(new_key(), (new_key(),), new_key()))
    try:
        # A hard link appears whole or not at all, and only once: of two first starts one wins and both read its keys.
        os.link(fresh, file)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    _sync_directory(file.parent)


def _replace(file: Path, keys: Keys) -> None:
    os.replace(_write_beside(file, keys), file)
    # On the disk before any secret is encrypted with it.
    _sync_directory(file.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(file: Path, keys: Keys) -> Path:
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".keys-")  # mkstemp makes it 0600
    with os.fdopen(descriptor, "w") as handle:
        json.dump(asdict(keys), handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    return Path(name)
