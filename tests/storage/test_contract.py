"""What every kind of store promises (tasks/storage/base.py), tried with each of them on a real one."""

import io
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.conf import LazySettings

from tasks import files, storage
from tasks.storage import StoredFile, stores
from tasks.storage.base import QUARANTINE, Storage, StorageError
from tasks.storage.s3 import PART
from tests.servers.objects import Objects
from tests.storage.conftest import configure

AUGUST = datetime(2025, 8, 12, 9, tzinfo=UTC)
NAMES = ("每日订单 #1 %41?&+'=.xlsx", "每日订单 #1 %41?&+'=_part2.xlsx")
SMALL = dict(zip(NAMES, (b"one", b"two!"), strict=True))


@pytest.fixture(params=list(stores))
def store(request: pytest.FixtureRequest, settings: LazySettings) -> Storage:
    if request.param == storage.S3:
        objects: Objects = request.getfixturevalue("objects")
        configure(settings, **objects.settings(objects.new_bucket()))
    assert settings.CONFIG.export.storage == request.param
    return storage.current()


def attempt(name: str = "7-1", contents: Mapping[str, bytes] = SMALL) -> Path:
    """The temporary directory of an attempt, with these files."""
    directory = files.temp_root() / name
    directory.mkdir(parents=True)
    for file, content in contents.items():
        (directory / file).write_bytes(content)
    return directory


def published(store: Storage, name: str = "7-1", contents: Mapping[str, bytes] = SMALL) -> str:
    return store.publish(attempt(name, contents), AUGUST, lambda arrived: None)


def read(store: Storage, key: str, span: range | None = None) -> bytes:
    with store.open(key, span) as file:
        return file.read()


def everything(store: Storage) -> dict[str, dict[str, int]]:
    return dict(store.contents())


def test_what_is_published_is_there_as_it_was(store: Storage) -> None:
    place = published(store)
    assert place == "2025-08/7-1"
    assert everything(store) == {place: {f"{place}/{NAMES[0]}": 3, f"{place}/{NAMES[1]}": 4}}
    assert [read(store, f"{place}/{name}") for name in NAMES] == [b"one", b"two!"]
    assert store.size(f"{place}/{NAMES[1]}") == 4


def test_a_file_of_several_pieces_is_one(store: Storage) -> None:
    content = random.Random(1).randbytes(2 * PART + 12_345)
    told: list[int] = []
    place = store.publish(attempt(contents={"a.csv": content, "b.csv": b"b"}), AUGUST, told.append)
    assert read(store, f"{place}/a.csv") == content
    assert told == sorted(told)
    if store.is_remote:
        assert {0, PART, 2 * PART, len(content), len(content) + 1} <= set(told)


def test_an_empty_file_is_a_file(store: Storage) -> None:
    place = published(store, contents={"a.csv": b""})
    assert store.size(f"{place}/a.csv") == 0
    assert read(store, f"{place}/a.csv") == read(store, f"{place}/a.csv", range(0)) == b""


@pytest.mark.parametrize("span", [range(10), range(3), range(3, 7), range(9, 10), range(5, 5)], ids=str)
def test_any_bytes_of_a_file_can_be_had(store: Storage, span: range) -> None:
    key = published(store, contents={"a.csv": b"0123456789"}) + "/a.csv"
    assert read(store, key, span) == b"0123456789"[span.start : span.stop]
    with store.open(key, span) as file:
        assert b"".join(iter(lambda: file.read(2), b"")) == b"0123456789"[span.start : span.stop]


def test_what_is_not_there_is_said_to_be_gone(store: Storage) -> None:
    assert store.size("2025-08/7-1/a.csv") is None
    for span in (None, range(1)):
        with pytest.raises(FileNotFoundError):
            store.open("2025-08/7-1/a.csv", span)


def test_removing_takes_this_place_and_no_other(store: Storage) -> None:
    for name in ("7-1", "7-10", "17-1", "7-2"):
        published(store, name)
    for _time in range(2):
        store.remove("2025-08/7-1")
    assert sorted(everything(store)) == ["2025-08/17-1", "2025-08/7-10", "2025-08/7-2"]


def test_listing_tells_of_our_places_only(store: Storage) -> None:
    place = published(store)
    for key in ("notes.txt", "2025-08/notes.txt", "2025-08/archive/a.csv", "2025-08/01-15/a.csv", "2025-08-old/1-1/a"):
        store.put(key, io.BytesIO(b"somebody else's"))
    store.put(f"{QUARANTINE}/8-1/a.csv", io.BytesIO(b"x"))
    store.put(f"{QUARANTINE}/notes/a.csv", io.BytesIO(b"somebody else's"))
    (found,) = store.places()
    assert (found.path, found.name, found.attempt) == (place, "7-1", (7, 1))
    assert 0 <= found.age < 600
    assert list(everything(store)) == [place]
    assert [aside.path for aside in store.quarantined()] == [f"{QUARANTINE}/8-1"]


def test_what_is_moved_is_whole_elsewhere_and_nothing_is_written_over(store: Storage) -> None:
    places = [published(store), published(store, "8-1")]
    where = [store.move(place, f"{QUARANTINE}/7-1") for place in places]
    assert where == [store.where(f"{QUARANTINE}/7-1"), store.where(f"{QUARANTINE}/7-1.1")]
    assert everything(store) == {}
    assert {aside.path for aside in store.quarantined()} == {f"{QUARANTINE}/7-1", f"{QUARANTINE}/7-1.1"}
    assert read(store, f"{QUARANTINE}/7-1.1/{NAMES[0]}") == b"one"


def test_a_stream_of_unknown_length_is_kept_whole(store: Storage) -> None:
    class Stream(io.RawIOBase):
        left = 3 * (1 << 20)

        def read(self, size: int = -1) -> bytes:
            given = min(self.left, size if size >= 0 else self.left)
            self.left -= given
            return b"x" * given

    store.put("2025-08/7-1/a.csv", Stream())
    assert read(store, "2025-08/7-1/a.csv") == b"x" * 3 * (1 << 20)


def test_what_ends_an_upload_leaves_nothing(two_stores: tuple[Storage, Storage]) -> None:
    """Whatever has arrived by then. (A rename can't be ended half way.)"""

    class Stop(BaseException):
        pass

    _local, store = two_stores
    directory = attempt(contents={"a.csv": b"a" * 100, "b.csv": bytes(3 * PART)})
    for most in (0, 100, 100 + PART, 100 + 3 * PART):

        def watch(arrived: int, most: int = most) -> None:
            if arrived >= most:
                raise Stop

        with pytest.raises(Stop):
            store.publish(directory, AUGUST, watch)
        assert everything(store) == {}
        backend = store._client  # type: ignore[attr-defined]  # nothing may be left behind that no listing shows
        assert "Uploads" not in backend.list_multipart_uploads(Bucket=store._bucket)  # type: ignore[attr-defined]
    assert sorted(path.name for path in directory.iterdir()) == ["a.csv", "b.csv"]


def test_sweeping_removes_one_dead_attempt_wherever_it_stopped(store: Storage) -> None:
    for name in ("7-1", "7-2", "7-3"):
        published(store, name)
        (files.temp_root() / name).mkdir(exist_ok=True)
    storage.sweep(7, [1, 2], AUGUST)
    storage.sweep(7, [1, 2], AUGUST)
    assert list(everything(store)) == ["2025-08/7-3"]
    assert [path.name for path in files.temp_root().iterdir()] == ["7-3"]


def test_a_file_is_found_by_its_entry_in_the_row(store: Storage) -> None:
    key = f"{published(store)}/{NAMES[0]}"
    part = storage.entry({"path": key, "rows": 1, "size": 3, "sha256": ""}, store.kind)
    assert ("storage" in part) == store.is_remote
    file = StoredFile.of(part)
    assert (file.name, file.place, file.size(), file.is_kept()) == (NAMES[0], "2025-08/7-1", 3, True)
    assert str(file) == store.where(key)
    with file.at_hand() as content:
        assert content.read() == b"one"
        assert content.seekable()


def test_a_store_that_can_be_used_says_nothing(store: Storage) -> None:
    store.probe()
    assert everything(store) == {}
    assert not store.keeps_removed()


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(StorageError, match="ftp"):
        StoredFile("ftp", "a").size()


@pytest.fixture
def two_stores(objects: Objects, settings: LazySettings) -> tuple[Storage, Storage]:
    configure(settings, **objects.settings(objects.new_bucket()) | {"storage": "local"})
    return storage.get(storage.LOCAL), storage.get(storage.S3)


def test_a_dead_attempt_is_swept_from_the_store_that_was_configured_before(
    two_stores: tuple[Storage, Storage],
) -> None:
    for store in two_stores:
        published(store)
    storage.sweep(7, [1], AUGUST)
    assert [everything(store) for store in two_stores] == [{}, {}]
