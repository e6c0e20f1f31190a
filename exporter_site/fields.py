"""The encrypted model field: django-fernet-fields with the gaps that would lose a secret closed."""

from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from fernet_fields.hkdf import derive_fernet_key

from exporter_site.redact import remember_secret

if TYPE_CHECKING:
    _EncryptedText = models.TextField[str, str]  # the library has no type hints
else:
    from fernet_fields import EncryptedTextField as _EncryptedText


class Undecryptable(str):
    """Stands for a stored secret that none of the keys can read: empty to look at, and never saved over the original."""

    def __new__(cls, stored: bytes) -> "Undecryptable":
        return super().__new__(cls, "")

    def __init__(self, stored: bytes) -> None:
        self.stored = stored


def ciphers() -> list[Fernet]:
    """One for each of settings.FERNET_KEYS, newest first."""
    return [Fernet(derive_fernet_key(key)) for key in settings.FERNET_KEYS]


def fernet() -> MultiFernet:
    """Encrypts with the newest of settings.FERNET_KEYS, decrypts with any of them."""
    return MultiFernet(ciphers())


class SecretField(_EncryptedText):
    """Text that is encrypted in the database. Reads as `str`; as `Undecryptable` when the key is gone."""

    @property
    def fernet(self) -> MultiFernet:
        return fernet()  # Not cached: rotatekeys and tests change the keys of a running process.

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        _refuse_clear_text(value)
        if hasattr(value, "resolve_expression"):
            # bulk_update() passes CASE expressions; the library would encrypt their text and lose the secret.
            return value
        if isinstance(value, Undecryptable):
            return connection.Database.Binary(value.stored)  # type: ignore[attr-defined]
        if value:
            remember_secret(str(value))
        return super().get_db_prep_save(value, connection)

    def get_placeholder(self, value: Any, compiler: Any, connection: BaseDatabaseWrapper) -> str:
        # UPDATE compiles an expression without asking get_db_prep_save() for its value.
        _refuse_clear_text(value)
        return "%s"

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper, *args: Any) -> str | None:
        if value is None:
            return None
        try:
            text = self.fernet.decrypt(bytes(value)).decode()
        except InvalidToken:
            # One lost key must not make a whole list page fail.
            return Undecryptable(bytes(value))
        remember_secret(text)
        return text

    def value_to_string(self, obj: models.Model) -> str:
        return ""  # dumpdata writes files: secrets stay out of them.


def _refuse_clear_text(value: Any) -> None:
    if isinstance(value, models.Value):
        raise ValueError("Value() would store the secret in clear text; assign the string itself.")


def secret_names(model: type[models.Model]) -> list[str]:
    """The fields of `model` that are encrypted."""
    return [field.name for field in model._meta.get_fields() if isinstance(field, SecretField)]


def unreadable(model: type[models.Model]) -> int:
    """How many secrets of `model` none of the keys can read."""
    rows = (row for name in secret_names(model) for row in model._base_manager.values_list(name, flat=True))
    return sum(isinstance(secret, Undecryptable) for secret in rows)


def rotate(model: type[models.Model]) -> int:
    """Re-encrypt every secret of `model` with the newest key. Returns the number of rows that have one.

    A secret that no key can read stays as it is. Each row is locked while it is read and written, so that an edit at
    the same moment is not undone.
    """
    names = secret_names(model)
    rotated = 0
    for pk in model._base_manager.values_list("pk", flat=True):
        with transaction.atomic():
            row = model._base_manager.select_for_update().only("pk", *names).filter(pk=pk).first()
            if row is None:
                continue
            # Empty ones too: they are encrypted like any other, and would be unreadable without the old key.
            readable = [name for name in names if _is_readable(getattr(row, name))]
            if readable:
                row.save(update_fields=readable)
            rotated += any(getattr(row, name) for name in readable)
    return rotated


def _is_readable(secret: str | None) -> bool:
    return secret is not None and not isinstance(secret, Undecryptable)
