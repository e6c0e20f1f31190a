"""Where messages may go: to public addresses and to what config.yaml lists, and nowhere else.

Users write these addresses, and the machine can reach more than they may (OWASP: server-side request forgery).
"""

import contextlib
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from django.conf import settings
from django.utils.translation import gettext as _
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

_HTTPS = 443
_PROTOCOLS = IPv4Network("192.0.0.0/24")  # RFC 6890; in part global for Python, and a cloud's metadata for some
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291, 2.4: nothing else of IPv6 is given out to anybody
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address for a machine that has IPv6 only


@dataclass(frozen=True, slots=True)
class Target:
    """`host`: in lower case, without brackets and final dot. `private`: config.yaml lets it be any address."""

    host: str
    port: int
    tls: bool
    private: bool

    def resolve(self) -> list[str]:
        """All addresses of the host, in the resolver's order.

        Raises OSError when it has none, ValueError with a sentence when one of them is not public.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError as exc:  # a label that is too long for DNS
            raise OSError(f"{self.host}: {exc.__class__.__name__}") from exc
        addresses = list(dict.fromkeys(str(place[0]) for *_rest, place in found))
        if not self.private and not all(map(is_public, addresses)):
            raise ValueError(_("{host} leads to an address that is not public.").format(host=self.host))
        return addresses


def check_url(url: str, hosts: Sequence[str] | None) -> None:
    """Refuse what can be refused without asking DNS: the form, the scheme, the host and the port.

    `hosts`: the only ones that are meant (beside those in config.yaml); None for any.
    Raises ValueError with a sentence.
    """
    target_of(url, hosts)


def target_of(url: str, hosts: Sequence[str] | None) -> Target:
    """Whom a connection for `url` goes to. Raises ValueError as check_url() does."""
    parts = _parse(url)
    tls = parts.scheme == "https"
    host, port = _name(parts), parts.port or (_HTTPS if tls else 80)
    lists = settings.CONFIG.notifications
    if _listed(host, port, lists.private_hosts, default=port):
        return Target(host, port, tls, private=True)
    if not tls:
        raise ValueError(_("The address must begin with https://."))
    allowed = _listed(host, port, lists.allowed_hosts, default=_HTTPS)
    if not allowed and hosts is not None and host not in hosts:
        raise ValueError(_("The address must be one at {hosts}.").format(hosts=", ".join(hosts)))
    if not allowed and port != _HTTPS:
        raise ValueError(_("Port {port} is not listed in notifications.allowed_hosts.").format(port=port))
    if not allowed and hosts is None and lists.allowed_hosts:
        raise ValueError(_("{host} is not listed in notifications.allowed_hosts.").format(host=host))
    if _is_address(host) and not is_public(host):
        raise ValueError(_("This address is not public."))
    return Target(host, port, tls, private=False)


def _parse(url: str) -> Url:
    # Whitespace, control characters and backslashes are read differently by different parsers.
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(_("The address contains characters that do not belong there."))
    try:
        parts = parse_url(url)
    except LocationParseError:
        parts = Url()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(_("This is not a web address such as https://example.com/…"))
    if parts.auth is not None:
        raise ValueError(_("The address must not contain a user name or a password."))
    return parts


def _name(parts: Url) -> str:
    return (parts.host or "").strip("[]").rstrip(".").lower()


def _listed(host: str, port: int, entries: Iterable[str], *, default: int) -> bool:
    """Whether an entry "host" or "host:port" means this place; `default` is the port of an entry without one."""
    for entry in entries:
        with contextlib.suppress(LocationParseError):
            parts = parse_url(entry)
            if (_name(parts), parts.port or default) == (host, port):
                return True
    return False


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether `address`, and each IPv4 address inside of it, belongs to the public internet."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = _embedded(ip)
        if ip.ipv4_mapped is None and ip not in _NAT64 and not (ip in _GLOBAL_UNICAST and ip.is_global):
            return False
        return all(map(_is_public_ipv4, inner))
    return _is_public_ipv4(ip)


def _is_public_ipv4(ip: IPv4Address) -> bool:
    return ip.is_global and not ip.is_multicast and ip not in _PROTOCOLS


def _embedded(ip: IPv6Address) -> list[IPv4Address]:
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(IPv4Address(int(ip) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]
