"""Signed addresses of files: who has the address may have the file, until it expires or is revoked.

The address holds the number of a row and its signature; everything else is looked up when somebody comes.
"""

from django.conf import settings
from django.core.signing import BadSignature, Signer

_signer = Signer(salt="exporter.file-link", sep=".")
PREFIX = "/d/"


def token_of(link_id: int) -> str:
    return _signer.sign(str(link_id))


def id_of(token: str) -> int | None:
    """The number that `token` was made for; None when it is not one of ours."""
    try:
        return int(_signer.unsign(token))
    except (BadSignature, ValueError):
        return None


def url_of(link_id: int | None) -> str:
    """The whole address; "" without a link, or when web.public_url is not set: nobody knows where we are then."""
    base = settings.CONFIG.public_url
    return f"{base}{PREFIX}{token_of(link_id)}" if base and link_id is not None else ""
