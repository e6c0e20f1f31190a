"""The encrypted field: clear text never reaches the database, and no secret is lost on the way."""

import copy
import pickle
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core import serializers
from django.db import connection, transaction
from django.db.models import F, Value
from fernet_fields.hkdf import derive_fernet_key
from pytest_django import Settings

from datasources.models import DataSource
from exporter_site.fields import Undecryptable, rotate
from tests import factories

pytestmark = pytest.mark.django_db
SECRET = "hunter2-很长"


@pytest.fixture(autouse=True)
def keys(settings: Settings) -> None:
    settings.FERNET_KEYS = ["old key"]


def stored(source: DataSource) -> bytes:
    with connection.cursor() as cursor:
        cursor.execute("SELECT password FROM datasources_datasource WHERE id = %s", [source.pk])
        return bytes(cursor.fetchone()[0])


def decrypted(source: DataSource, key: str) -> str:
    return Fernet(derive_fernet_key(key)).decrypt(stored(source)).decode()


def read(source: DataSource) -> str:
    return DataSource.objects.get(pk=source.pk).password


def test_the_database_holds_ciphertext_that_is_different_each_time() -> None:
    one, two = (factories.make_source(password=SECRET) for _number in range(2))
    assert read(one) == read(two) == SECRET
    assert stored(one) != stored(two)
    assert SECRET.encode() not in stored(one)
    assert decrypted(one, "old key") == SECRET


@pytest.mark.parametrize("secret", ["", "x", "a" * 10_000, "\x00\n", "😀"])
def test_any_text_comes_back(secret: str) -> None:
    assert read(factories.make_source(password=secret)) == secret


def test_a_wrong_key_gives_something_empty_that_is_never_saved_over(settings: Settings) -> None:
    source = factories.make_source(password=SECRET)
    before = stored(source)
    settings.FERNET_KEYS = ["another key"]
    lost = DataSource.objects.get(pk=source.pk)
    assert isinstance(lost.password, Undecryptable)
    assert lost.password == ""
    lost.description = "edited"
    lost.save()
    DataSource.objects.bulk_update([lost], ["password", "description"])
    DataSource.objects.filter(pk=lost.pk).update(password=lost.password)
    copy.deepcopy(lost).save()
    pickle.loads(pickle.dumps(lost)).save()
    assert stored(source) == before
    settings.FERNET_KEYS = ["old key"]
    assert read(source) == SECRET


def test_a_lost_secret_can_be_entered_again(settings: Settings) -> None:
    source = factories.make_source(password=SECRET)
    settings.FERNET_KEYS = ["another key"]
    lost = DataSource.objects.get(pk=source.pk)
    lost.password = "new one"
    lost.save()
    assert decrypted(source, "another key") == read(source) == "new one"


def test_a_list_with_one_lost_secret_is_still_readable(settings: Settings) -> None:
    factories.make_source(password=SECRET)
    settings.FERNET_KEYS = ["another key"]
    factories.make_source(password="fine")
    assert sorted(DataSource.objects.values_list("password", flat=True)) == ["", "fine"]


def test_bulk_update_and_bulk_create_keep_the_secret() -> None:
    source, other = factories.make_source(password=SECRET), factories.make_source(password="other")
    source.password = "changed"
    DataSource.objects.bulk_update([source, other], ["password"])
    (made,) = DataSource.objects.bulk_create([DataSource(name="bulk", kind="sqlite", database="/x", password=SECRET)])
    assert (read(source), read(other), read(made)) == ("changed", "other", SECRET)
    assert b"changed" not in stored(source)


def test_update_encrypts_and_copies_from_column_to_column() -> None:
    source = factories.make_source(password=SECRET)
    DataSource.objects.filter(pk=source.pk).update(password="changed")
    DataSource.objects.filter(pk=source.pk).update(password=F("password"))
    assert decrypted(source, "old key") == read(source) == "changed"


def attempts(source: DataSource) -> list[Any]:
    def save() -> None:
        source.password = Value("clear")  # type: ignore[assignment]
        source.save()

    return [
        save,
        lambda: DataSource.objects.filter(pk=source.pk).update(password=Value("clear")),
        lambda: DataSource.objects.create(name="v", kind="sqlite", database="/x", password=Value("clear")),  # type: ignore[misc]
    ]


@pytest.mark.parametrize("way", range(3), ids=["save", "update", "create"])
def test_value_is_refused_because_it_would_store_clear_text(way: int) -> None:
    source = factories.make_source(password=SECRET)
    with pytest.raises(ValueError, match="clear text"), transaction.atomic():
        attempts(source)[way]()
    assert read(source) == SECRET


def test_rotation_lets_the_old_key_be_dropped(settings: Settings) -> None:
    secret, empty = factories.make_source(password=SECRET), factories.make_source(password="")
    before = DataSource.objects.get(pk=secret.pk).updated_at
    settings.FERNET_KEYS = ["new key", "old key"]
    assert rotate(DataSource) == 1
    settings.FERNET_KEYS = ["new key"]
    assert read(secret) == SECRET
    assert read(empty) == ""
    assert not isinstance(read(empty), Undecryptable)
    assert DataSource.objects.get(pk=secret.pk).updated_at == before


def test_rotation_leaves_what_it_can_not_read(settings: Settings) -> None:
    lost = factories.make_source(password="lost")
    settings.FERNET_KEYS = ["middle key"]
    known = factories.make_source(password=SECRET)
    before = stored(lost)
    settings.FERNET_KEYS = ["new key", "middle key"]
    assert rotate(DataSource) == 1
    assert stored(lost) == before
    settings.FERNET_KEYS = ["new key", "old key"]
    assert (read(lost), read(known)) == ("lost", SECRET)


def test_a_dump_holds_no_secret() -> None:
    factories.make_source(password=SECRET)
    for form in ("json", "xml"):
        assert "hunter2" not in serializers.serialize(form, DataSource.objects.all())


def test_a_secret_that_was_read_is_masked_in_logs() -> None:
    from exporter_site.redact import redact

    read(factories.make_source(password="remember-me-please"))
    assert "remember-me" not in redact("refused: remember-me-please")
