"""Finished files in a bucket: Amazon S3, and what speaks as it does (Aliyun OSS, MinIO, Ceph, …).

django-storages configures the client and signs addresses; what it writes and reads with knows no progress and no end
before the end, so that is done here with the same client. Only what all of these stores know is used: Content-MD5 for
what is sent, and one request for each file that is removed, since some want a checksum of a removal of many that boto3
no longer makes.
"""

import base64
import hashlib
import io
import logging
import posixpath
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from storages.backends.s3 import S3Storage

from exporter_site.config import Export
from tasks import files
from tasks.storage import withdraw
from tasks.storage.base import ATTEMPT, MONTH, QUARANTINE, SET_ASIDE, Place, Readable, Storage, StorageError, Watch

logger = logging.getLogger(__name__)

PART = 8 << 20  # bytes
MOST_PARTS = 10_000  # of one file, as S3 has it
CONNECTING, ANSWERING = 3.0, 15.0  # seconds; with all tries, less than a scheduler may be silent
TRIES = 3
SIGNED_FOR = 60  # seconds: an address is used at once
_PROBE = b"data export system"
_PLACE = re.compile(rf"{MONTH.pattern}/{ATTEMPT.pattern}")
_QUARANTINED = re.compile(rf"{re.escape(QUARANTINE)}/{SET_ASIDE.pattern}")
_GONE = ("404", "NoSuchKey", "NotFound")
_DENIED = gettext_lazy("Let this account put, get, list and delete objects in the bucket.")
# What to do about what the store says, where its own words do not tell.
_REMEDIES = {
    "RequestTimeTooSkewed": gettext_lazy("Set this machine's clock by NTP: timedatectl set-ntp true, or chrony."),
    "SignatureDoesNotMatch": gettext_lazy("Check export.s3_secret_key, export.s3_region and this machine's clock."),
    "InvalidAccessKeyId": gettext_lazy("Check export.s3_access_key."),
    "AccessDenied": _DENIED,
    "403": _DENIED,  # when only the head was asked for
    "NoSuchBucket": gettext_lazy("Make the bucket, or check export.s3_bucket, s3_endpoint and s3_addressing."),
}


class _Backend(S3Storage):  # type: ignore[misc]  # it has no types
    """With one client for all threads: clients are made for that, and each costs some ten megabytes."""

    @cached_property
    def connection(self) -> Any:
        return super().connection


@lru_cache(maxsize=4)
def _backend(bucket: str, endpoint: str, region: str, key: str, secret: str, addressing: str) -> _Backend:
    """Without a key the credentials come from the environment or from the role of the machine, as boto3 finds them."""
    return _Backend(
        bucket_name=bucket,
        endpoint_url=endpoint or None,
        region_name=region or None,
        access_key=key or None,
        secret_key=secret or None,
        client_config=Config(
            s3={"addressing_style": addressing},
            signature_version="s3v4",
            connect_timeout=CONNECTING,
            read_timeout=ANSWERING,
            retries={"mode": "standard", "total_max_attempts": TRIES},
            # The checksums that boto3 puts behind the content by itself are refused by OSS and older stores.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class _Listed(NamedTuple):
    """A file in the bucket, by its key below our prefix. `age` in seconds, by the clock of the store."""

    key: str
    size: int
    age: float


class ObjectStorage(Storage):
    kind = "s3"
    is_remote = True

    def __init__(self) -> None:
        export: Export = settings.CONFIG.export
        if not export.s3_bucket:
            raise StorageError(_("export.s3_bucket of config.yaml names no bucket."))
        self._backend = _backend(
            export.s3_bucket,
            export.s3_endpoint,
            export.s3_region,
            export.s3_access_key,
            export.s3_secret_key.get_secret_value(),
            export.s3_addressing,
        )
        self._bucket = export.s3_bucket
        self._root = f"{export.s3_prefix.strip('/')}/".removeprefix("/")
        self._redirects = export.s3_redirect
        with self._explained():
            self._client = self._backend.connection.meta.client

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what boto3 raises into a StorageError."""
        try:
            yield
        except ClientError as exc:
            found = exc.response.get("Error", {})
            code = str(found.get("Code", ""))
            words = f"{code}: {found.get('Message', '')}".strip(": ")
            raise self._error(words, str(_REMEDIES.get(code, ""))) from exc
        except BotoCoreError as exc:
            raise self._error(str(exc)) from exc

    def _error(self, words: str, remedy: str = "") -> StorageError:
        text = _("The bucket {bucket} can't be used: {error}").format(bucket=self._bucket, error=words)
        return StorageError(f"{text} {remedy}".strip())

    def publish(self, directory: Path, planned_at: datetime, watch: Watch) -> str:
        place = files.place_of(directory.name, planned_at)
        arrived = 0
        try:
            for path in sorted(directory.iterdir()):
                with path.open("rb") as file:
                    arrived += self._upload(f"{place}/{path.name}", file, watch, arrived)
            watch(arrived)  # Whoever ended it a moment ago has the last word.
        except BaseException:
            withdraw(self, place)
            raise
        return place

    def _upload(self, key: str, file: BinaryIO, watch: Watch, before: int = 0) -> int:
        """Put a whole file there, after so many bytes of others. Returns its size."""
        size = file.seek(0, io.SEEK_END)
        target = {"Bucket": self._bucket, "Key": self._root + key}
        with self._explained():
            if size <= PART:
                self._client.put_object(**target, **_piece(file, range(size), partial(watch, before)))
            else:
                self._upload_in_parts(target, file, size, watch, before)
        return size

    def _upload_in_parts(self, target: dict[str, str], file: BinaryIO, size: int, watch: Watch, before: int) -> None:
        step = max(PART, -(-size // MOST_PARTS))
        target = target | {"UploadId": self._client.create_multipart_upload(**target)["UploadId"]}
        done: list[dict[str, Any]] = []
        try:
            for number, start in enumerate(range(0, size, step), start=1):
                piece = _piece(file, range(start, min(start + step, size)), partial(watch, before + start))
                answer = self._client.upload_part(**target, PartNumber=number, **piece)
                done.append({"PartNumber": number, "ETag": answer["ETag"]})
            watch(before + size)
            self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": done})
        except BaseException:
            self._abort(target)
            raise

    def _abort(self, target: dict[str, str]) -> None:
        try:
            self._client.abort_multipart_upload(**target)
        except (ClientError, BotoCoreError) as exc:  # The bucket's own rule removes it in some days.
            logger.warning("an unfinished upload of %s stays in the bucket: %s", target["Key"], exc)

    def remove(self, place: str) -> None:
        for listed in self._listed(f"{place}/"):
            self._delete(listed.key)
        prefix = f"{self._root}{place}/"
        try:
            found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix).get("Uploads", ())
        except (ClientError, BotoCoreError):
            return  # Not every account may ask, and not every store answers.
        for upload in found:
            self._abort({"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]})

    def _delete(self, key: str) -> None:
        with self._explained():
            self._client.delete_object(Bucket=self._bucket, Key=self._root + key)

    def size(self, key: str) -> int | None:
        try:
            with self._explained():
                found = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
        except StorageError as exc:
            if _is_gone(exc):
                return None
            raise
        return int(found["ContentLength"])

    def open(self, key: str, span: range | None = None) -> BinaryIO:
        if span is not None and not span:
            return io.BytesIO()
        asked = {} if span is None else {"Range": f"bytes={span.start}-{span.stop - 1}"}
        try:
            with self._explained():
                body = self._client.get_object(Bucket=self._bucket, Key=self._root + key, **asked)["Body"]
        except StorageError as exc:
            if _is_gone(exc):
                raise FileNotFoundError(self.where(key)) from exc
            raise
        return io.BufferedReader(_Stream(body, self._explained))

    def put(self, key: str, content: Readable) -> None:
        files.temp_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=files.temp_root()) as copy:  # It must be as long as it says, and be read twice.
            shutil.copyfileobj(content, copy)
            self._upload(key, copy, lambda sent: None)

    def places(self) -> Iterator[Place]:
        for path, listed in self._by_place("", _PLACE):
            yield Place(path, min(file.age for file in listed))

    def quarantined(self) -> Iterator[Place]:
        for path, listed in self._by_place(f"{QUARANTINE}/", _QUARANTINED):
            yield Place(path, min(file.age for file in listed))

    def contents(self) -> Iterator[tuple[str, dict[str, int]]]:
        for path, listed in self._by_place("", _PLACE):
            yield path, {file.key: file.size for file in listed}

    def _by_place(self, below: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, list[_Listed]]]:
        """The files of each place that is called so; keys come in their order, so those of a place are together."""
        for path, listed in groupby(self._listed(below), key=lambda file: posixpath.dirname(file.key)):
            if pattern.fullmatch(path):
                yield path, list(listed)

    def _listed(self, prefix: str) -> Iterator[_Listed]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self._explained():
            for page in pages:
                now = _time_of(page)
                for found in page.get("Contents", ()):
                    age = (now - found["LastModified"]).total_seconds()
                    yield _Listed(found["Key"].removeprefix(self._root), found["Size"], age)

    def move(self, place: str, target: str) -> str:
        to, number = target, 1
        while next(self._listed(f"{to}/"), None) is not None:
            to, number = f"{target}.{number}", number + 1
        for listed in list(self._listed(f"{place}/")):
            source = {"Bucket": self._bucket, "Key": self._root + listed.key}
            key = self._root + to + listed.key.removeprefix(place)
            with self._explained():
                self._client.copy_object(Bucket=self._bucket, Key=key, CopySource=source)
            self._delete(listed.key)
        return self.where(to)

    def where(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._root}{path}"

    def address(self, key: str, name: str, content_type: str) -> str:
        if not self._redirects:
            return ""
        answer = {
            "ResponseContentDisposition": content_disposition_header(True, name) or "attachment",
            "ResponseContentType": content_type,
            "ResponseCacheControl": "no-store, private",
        }
        with self._explained():
            return str(self._backend.url(self._root + key, parameters=answer, expire=SIGNED_FOR))

    def probe(self) -> None:
        """Put, read, list and delete a small file, as runs, their readers and housekeeping do."""
        key = f".probe/{secrets.token_hex(8)}"
        self._upload(key, io.BytesIO(_PROBE), lambda sent: None)
        with self.open(key) as file:
            content = file.read()
        listed = [found.key for found in self._listed(".probe/")]
        self._delete(key)
        if content != _PROBE or key not in listed:
            raise self._error(_("a file is not found there as it was written"))

    def keeps_removed(self) -> bool:
        """Whether removed files stay in the bucket as older versions; False also when it does not say."""
        try:
            return bool(self._client.get_bucket_versioning(Bucket=self._bucket).get("Status") == "Enabled")
        except (ClientError, BotoCoreError):
            return False


def _is_gone(exc: StorageError) -> bool:
    cause = exc.__cause__
    return isinstance(cause, ClientError) and cause.response.get("Error", {}).get("Code") in _GONE


def _time_of(page: dict[str, Any]) -> datetime:
    """The store's time: ours may differ, and ages are told by its times."""
    try:
        return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _piece(file: BinaryIO, span: range, watch: Callable[[], None]) -> dict[str, Any]:
    """The parameters that send the bytes `span` of `file`: the store refuses them when they arrive otherwise."""
    digest = hashlib.md5(usedforsecurity=False)
    piece = _Piece(file, span, watch)
    while chunk := piece.read(1 << 20):
        digest.update(chunk)
    piece.seek(0)
    return {"Body": piece, "ContentMD5": base64.b64encode(digest.digest()).decode(), "ContentLength": len(span)}


class _Piece(io.RawIOBase):
    """The bytes `span` of an open file. Whoever sends them reads a few at a time, and asks `watch` each time whether
    to go on."""

    def __init__(self, file: BinaryIO, span: range, watch: Callable[[], None]) -> None:
        self._file, self._span, self._watch = file, span, watch
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._span)}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        self._watch()
        left = len(self._span) - self._at
        self._file.seek(self._span.start + self._at)
        chunk = self._file.read(left if size < 0 else min(size, left))
        self._at += len(chunk)
        return chunk


class _Stream(io.RawIOBase):
    """A file as it comes from the store."""

    def __init__(self, body: Any, explained: Callable[[], Any]) -> None:
        self._body, self._explained = body, explained

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._explained():
            chunk = self._body.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._body.close()
        super().close()
