"""Sending the files of an execution: one of them, or a range of it, or all in one zip. Each download is on record.

With web.accel_prefix a single file is sent by nginx: we say which, and it reads the range for itself. With
export.s3_redirect a single file is fetched from its bucket. The zip stays ours.
"""

import re
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import quote

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.utils.http import content_disposition_header

from exporter_site.access.audit import address_of
from tasks.files import Member, zip_of
from tasks.models import Download, DownloadLink, Execution
from tasks.storage import LOCAL, StoredFile
from tasks.writers import writers

CHUNK = 1 << 18  # bytes
# One range, RFC 9110, 14.1.2. Longer numbers are no positions in a file, and int() refuses them some day.
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A file of an execution that is really there; `number` counts from 1, `size` is in bytes."""

    number: int
    file: StoredFile
    rows: int
    size: int
    etag: str

    @property
    def name(self) -> str:
        return self.file.name


def has_files(execution: Execution) -> bool:
    """Whether there is something to download, as far as can be told at once."""
    stored = execution.stored_files()
    return bool(stored) and all(file.is_kept() for file in stored)


def parts_of(execution: Execution, number: str = "") -> list[Part]:
    """All parts, or the one with this `number`. Empty when there is none such or when a file is gone. May raise
    StorageError."""
    found = []
    for count, (file, entry) in enumerate(zip(execution.stored_files(), execution.files, strict=False), start=1):
        if number in ("", str(count)):
            size = file.size()
            if size is None:
                return []
            etag = f'"{entry["sha256"]}"' if entry["sha256"] else ""
            found.append(Part(count, file, entry["rows"], size, etag))
    return found


def send(
    request: HttpRequest, execution: Execution, link: DownloadLink | None = None, *, may_redirect: bool = True
) -> HttpResponseBase | None:
    """The file of `execution`; one zip when it has several parts, a single part with ?part=N. None when it is gone.
    `may_redirect`: whether who asks can be sent on to the bucket. May raise StorageError."""
    parts = parts_of(execution, request.GET.get("part", ""))
    if not parts:
        return None
    part = parts[0] if len(parts) == 1 else None
    span = requested_range(request, part) if part else None
    if span is not None and not span:
        assert part is not None
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{part.size}", "Accept-Ranges": "bytes"})
    only_head = request.method == "HEAD"
    address = _address(part, execution) if part and may_redirect and not only_head else ""
    response: HttpResponseBase
    if part is None:
        response = _zip_response(parts, only_head=only_head)
    elif address:
        response = HttpResponseRedirect(address)
    elif part.file.kind == LOCAL and settings.CONFIG.web.accel_prefix:
        response = _accelerated_response(part, _content_type(execution.format))
    else:
        response = _part_response(part, span, _content_type(execution.format), only_head=only_head)
    if only_head:
        return response
    user = None if isinstance(request.user, AnonymousUser) else request.user
    download = Download(
        execution=execution,
        task_name=execution.task_name,
        filename=part.name if part else _zip_name(parts),
        part=part.number if part else None,
        bytes=len(range(part.size) if span is None else span) if part else None,
        link=link,
        user=user,
        username=user.get_username() if user else "",
        address=address_of(request),
        user_agent=request.headers.get("User-Agent", "")[:200],
    )
    Download.objects.begin(download, continues=span is not None and span.start > 0)
    return response


def requested_range(request: HttpRequest, part: Part) -> range | None:
    """The bytes of `part` that are asked for: None for the whole file, an empty range when it has no such bytes.

    Several ranges, what is no range, and an If-Range for another file: the whole (RFC 9110, 13.1.5 and 14.2).
    """
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if request.method != "GET" or match is None or request.headers.get("If-Range", part.etag) != part.etag:
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, part.size - int(last)), part.size) if last else None
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, part.size) if last else part.size)


class _PartResponse(FileResponse):
    block_size = CHUNK


def _address(part: Part, execution: Execution) -> str:
    return part.file.store.address(part.file.key, part.name, _content_type(execution.format))


def _part_response(part: Part, span: range | None, content_type: str, *, only_head: bool) -> StreamingHttpResponse:
    sent = range(part.size) if span is None else span
    status = 200 if span is None else 206
    response: StreamingHttpResponse
    if only_head:
        response = StreamingHttpResponse((), status=status, content_type=content_type)
    else:
        response = _PartResponse(part.file.open(sent), status=status, content_type=content_type)
    response["Content-Disposition"] = content_disposition_header(True, part.name) or "attachment"
    response["Content-Length"] = str(len(sent))
    response["Accept-Ranges"] = "bytes"
    if part.etag:
        response["ETag"] = part.etag
    if span is not None:
        response["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{part.size}"
    return response


def _accelerated_response(part: Part, content_type: str) -> HttpResponse:
    """Names the file to nginx, below web.accel_prefix. Ranges are its own: the client's request still asks for them."""
    response = HttpResponse(content_type=content_type)
    response["X-Accel-Redirect"] = f"{settings.CONFIG.web.accel_prefix}{quote(part.file.key)}"
    response["Content-Disposition"] = content_disposition_header(True, part.name) or "attachment"
    if part.etag:
        response["ETag"] = part.etag
    return response


def _zip_response(parts: list[Part], *, only_head: bool) -> StreamingHttpResponse:
    members = [Member(part.name, part.size, part.file.open) for part in parts]
    response = StreamingHttpResponse(
        () if only_head else zip_of(members), content_type="application/zip", headers={"Accept-Ranges": "none"}
    )
    response["Content-Disposition"] = content_disposition_header(True, _zip_name(parts)) or "attachment"
    return response


def _zip_name(parts: list[Part]) -> str:
    return f"{PurePath(parts[0].name).stem}.zip"


def _content_type(format: str) -> str:
    return writers.get(format).content_type if format in writers else "application/octet-stream"
