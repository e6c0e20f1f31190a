"""A mail as bytes: text and HTML, with files that are read only while they are sent.

What others wrote (titles, file names, names of people) can't become a header of its own, nor break one.
"""

import base64
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import formataddr
from pathlib import PurePath
from typing import BinaryIO
from urllib.parse import quote

from django.utils import timezone
from django.utils.encoding import punycode
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _t

from exporter_site.formats import human_size
from notifications.transports.base import Attachment, Message

_MIME_TYPES = {
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".csv": "text/csv",
    ".zip": "application/zip",
}
_CONTENT = secrets.token_hex(16)  # stands for a file's content in a composed mail
_LINE = 57  # bytes of a file in a line of base64, which is then 76 characters long (RFC 2045, 6.8)
_BLOCK = 1024 * _LINE

# What needs no quoting on the wire: RFC 5321's Dot-string, and a domain or an address literal.
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+(@[\w.:\[\]-]+)?", re.ASCII)
_ATOM = "!#$&'*+/=?^`{|}"  # besides letters, digits and -._~ (RFC 5322, 3.2.3)
_PLAIN = re.compile(r"[\w. -]{1,60}", re.ASCII)
_LINE_ENDS_AND_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def wire_form(address: str) -> str:
    """`address` as it is written in SMTP and in headers; "" when it can't be (RFC 6531 is not used)."""
    local, at, domain = address.rpartition("@")
    try:
        wire = f"{local}{at}{punycode(domain)}"
    except UnicodeError:
        return ""
    return wire if _ADDRESS.fullmatch(wire) else ""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail from `sender`. `pieces`: what is sent before, between and after the contents of its files."""

    sender: str
    pieces: Sequence[bytes]
    files: Sequence[Attachment]

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return sum(map(len, self.pieces)) + sum(_base64_size(file.size) for file in self.files)

    def blocks(self, contents: Sequence[BinaryIO]) -> Iterator[bytes]:
        """The mail as it is sent, with the files' `contents`. Its last line is complete, and none begins with a dot
        (RFC 5321, 4.5.2): all texts and files are base64.
        """
        yield self.pieces[0]
        for content, piece in zip(contents, self.pieces[1:], strict=True):
            while block := content.read(_BLOCK):
                yield base64.encodebytes(block).replace(b"\n", b"\r\n")
            yield piece


class _Encoded(str):
    """A header's value as it is sent. EmailPolicy leaves a value with a name alone; its own folding of encoded words
    lets line ends through before Python 3.11.10 (CVE-2024-6923), and breaks long MIME types."""

    name: str

    def fold(self, *, policy: EmailPolicy) -> str:
        return f"{self.name}: {self}{policy.linesep}"


def _set(part: EmailMessage, name: str, value: str) -> None:
    encoded = _Encoded(value)
    encoded.name = name
    part[name] = encoded


def compose(
    message: Message, *, sender: str, sender_name: str, to: Sequence[str], domain: str, not_attached: str = ""
) -> Mail:
    """The mail for `message`, with its files unless `not_attached` says why they are not.

    `sender` and `to` are in wire_form(); `domain` is that of the Message-ID.
    """
    mail = EmailMessage(policy=SMTP)
    _set(mail, "From", formataddr((_words(sender_name, "From"), sender)))
    _set(mail, "To", ",\r\n ".join(to))
    _set(mail, "Subject", _words(message.title, "Subject"))
    mail["Date"] = timezone.localtime()
    _set(mail, "Message-ID", f"<{quote(message.key, safe=_ATOM, errors='replace')}@{domain}>")
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834
    mail["X-Auto-Response-Suppress"] = "All"  # the same for Exchange
    mail.set_content(_text(message, not_attached), cte="base64")
    mail.add_alternative(_html(message, not_attached), subtype="html", cte="base64")
    files = () if not_attached else message.attachments
    if files:
        mail.make_mixed()
    for file in files:
        mail.attach(_part(file))
    return Mail(sender, mail.as_bytes().split(_CONTENT.encode()), files)


def encoded_size(files: Sequence[Attachment]) -> int:
    """Bytes that `files` take in a mail, with their headers."""
    return sum(len(_part(file).as_bytes()) + _base64_size(file.size) for file in files)


def names_and_sizes(files: Sequence[Attachment]) -> str:
    return ", ".join(f"{_one_line(file.name)} ({human_size(file.size)})" for file in files)


def _text(message: Message, not_attached: str) -> str:
    facts = "\n".join(f"{label}: {value}" for label, value in message.facts)
    blocks = (message.text.strip(), facts, *_ending(message, not_attached))
    return _readable("\n\n".join(block for block in blocks if block))


def _ending(message: Message, not_attached: str) -> Iterator[str]:
    """Why the files are not attached, and where they are."""
    yield not_attached
    if message.url and message.url not in message.text:
        yield _t("Download: {url}").format(url=message.url)
    if not_attached and not message.url:
        yield _t("It can be downloaded in the data export system.")


def _html(message: Message, not_attached: str) -> str:
    facts = format_html_join(
        "",
        '<tr><td style="padding:4px 16px 4px 0;color:#6b7280;vertical-align:top">{}</td>'
        '<td style="padding:4px 0">{}</td></tr>',
        message.facts,
    )
    table = format_html('<table style="border-collapse:collapse;margin:16px 0">{}</table>', facts) if facts else ""
    button = format_html(
        '<p style="margin:20px 0"><a href="{}" style="display:inline-block;padding:10px 20px;background:#2563eb;'
        'color:#ffffff;border-radius:6px;text-decoration:none">{}</a></p>',
        message.url,
        _t("Download"),
    )
    page = format_html(
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head>\n'
        '<body style="margin:0;padding:24px;background:#f3f4f6;color:#111827;font-size:14px;line-height:1.6;'
        "font-family:-apple-system,'Segoe UI','Microsoft YaHei','PingFang SC',sans-serif\">\n"
        '<div style="max-width:640px;margin:0 auto;padding:24px;background:#ffffff;border-radius:8px">\n'
        '<h1 style="margin:0 0 16px;font-size:18px">{}</h1>\n{}\n{}\n{}\n{}\n</div></body></html>\n',
        _one_line(message.title),
        _paragraphs(message.text.strip()),
        table,
        _paragraphs("\n\n".join(block for block in _ending(message, not_attached) if block)),
        button if message.url else "",
    )
    return _readable(page)


def _paragraphs(text: str) -> SafeString:
    """A <p> for each paragraph. Lines end with <br>, because Outlook does not know pre-wrap."""
    paragraphs = [part.splitlines() for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if part]
    return format_html_join(
        "\n",
        '<p style="margin:0 0 12px;white-space:pre-wrap">{}</p>',
        ((format_html_join(mark_safe("<br>"), "{}", ((line,) for line in lines)),) for lines in paragraphs),
    )


def _part(file: Attachment) -> EmailMessage:
    """The part of a mail for `file`, with _CONTENT in place of its content.

    Its name stands there twice: as RFC 2231 has it, and as an encoded word, which older clients read.
    """
    part = EmailMessage(policy=SMTP)
    name = _one_line(file.name)
    kind = _MIME_TYPES.get(PurePath(name).suffix.lower(), "application/octet-stream")
    _set(part, "Content-Type", f'{kind};\r\n name="{_words(name, "name")}"')
    _set(part, "Content-Disposition", f"attachment{_file_name(name)}")
    part["Content-Transfer-Encoding"] = "base64"
    part.set_payload(_CONTENT)
    return part


def _file_name(name: str) -> str:
    """The filename parameter; a long one goes on in numbered pieces (RFC 2231, 3 and 4)."""
    if _PLAIN.fullmatch(name):
        return f';\r\n filename="{name}"'
    first, *others = [quote(piece, safe="") for piece in re.findall(".{1,6}", name)] or [""]
    if not others:
        return f";\r\n filename*=utf-8''{first}"
    return f";\r\n filename*0*=utf-8''{first}" + "".join(
        f";\r\n filename*{number}*={piece}" for number, piece in enumerate(others, start=1)
    )


def _words(text: str, header: str) -> str:
    """`text` as one line of a header: as it is when nobody could misread it, else in encoded words (RFC 2047)."""
    line = _one_line(text)
    if not line or _PLAIN.fullmatch(line):
        return line
    return Header(line, "utf-8", header_name=header).encode(linesep="\r\n")


def _one_line(text: str) -> str:
    return " ".join(_LINE_ENDS_AND_CONTROLS.sub(" ", _readable(text)).split())


def _readable(text: str) -> str:
    """Without control characters, and without halves of characters, as strange file names have them."""
    return _CONTROLS.sub("", text.encode("utf-8", "replace").decode())


def _base64_size(size: int) -> int:
    """Bytes that `size` bytes of a file take in a mail."""
    lines, rest = divmod(size, _LINE)
    return lines * 78 + (-(-rest // 3) * 4 + 2 if rest else 0)
