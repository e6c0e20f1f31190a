"""What the host of a data source may be, and which addresses a connection may go to.

A host is one DNS name or one address, in the form that every program reads alike. Private networks and this machine are
welcome: databases live there. Link-local addresses, the metadata services of clouds and addresses in disguise are not.
"""

import re
import socket
import threading
import unicodedata
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from django.utils.translation import gettext as _

LOOK_UP_TIMEOUT = 5  # seconds

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Where clouds give their machines passwords and start scripts, beside the link-local addresses that most of them use:
# Aliyun, Volcengine, Azure (WireServer), Oracle; over IPv6 AWS, Google, Oracle, Scaleway.
_METADATA: tuple[Network, ...] = (
    *map(IPv4Network, ("169.254.0.0/16", "100.100.100.200", "100.96.0.96", "168.63.129.16", "192.0.0.192")),
    *map(IPv6Network, ("fe80::/10", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42")),
)
# This network, protocol assignments (RFC 6890), multicast, reserved with broadcast.
_NOBODYS = tuple(map(IPv4Network, ("0.0.0.0/8", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4")))
# Of IPv6 the global unicast (RFC 4291), the unique local (RFC 4193) and the loopback addresses belong to machines.
_SOMEBODYS = tuple(map(IPv6Network, ("2000::/3", "fc00::/7", "::1")))
# IPv4-compatible, mapped and translated (RFC 4291, 2765), NAT64 (RFC 6052, 8215), Teredo (RFC 4380), 6to4 (RFC 3056).
_DISGUISES = tuple(
    map(
        IPv6Network,
        ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
    )
)
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: then the IPv4 address follows, in whatever network

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)
# inet_aton reads 2130706433, 127.1, 0177.0.0.1 and 0x7f.1 as addresses, and so does every name that ends in a number.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)


class HostRefused(ValueError):
    """No connection may go there; the text says why and how to mend it."""


def check_host(host: str) -> None:
    """Raise HostRefused unless `host` is one name or address for a database. Asks no name service."""
    if not host:
        raise HostRefused(_("A host is needed."))
    # Cc, Cf (no width, changed direction), Cs, Zs, …: nobody sees what a driver would.
    if any(unicodedata.category(char)[0] in "CZ" for char in host):
        raise HostRefused(_("The host holds a blank or an invisible character. Type it again, without."))
    if any(char in host for char in "/\\@,"):  # not repeated in the answer: a URL may hold a password
        raise HostRefused(_("Give one host name or address, without protocol, path or user."))
    address = _address(host)
    if address is None:
        _check_name(host)
    elif objection := _objection(address):
        raise HostRefused(objection)
    elif str(address) != host.lower():
        raise HostRefused(_("Write the address as {address}.").format(address=address))


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses that `host` leads to, in the resolver's order; each of them may be connected to.

    Raises HostRefused; OSError when the name service knows none, or says nothing for five seconds.
    """
    check_host(host)
    if _address(host) is not None:
        return [host]
    found = _look_up(host, port)
    for address in found:
        if objection := _objection(ip_address(address)):
            raise HostRefused(
                _("“{host}” leads to {address}. {objection}").format(host=host, address=address, objection=objection)
            )
    return found


def _check_name(host: str) -> None:
    if not host.isascii():
        # Drivers differ in what they ask the name service for such a name: only its ASCII form means one thing.
        raise HostRefused(
            _("Write the host in ASCII letters: {ascii}.").format(ascii=_ascii_form(host) or "db.example.com")
        )
    if ":" in host or "[" in host:
        raise HostRefused(_("Give the host without brackets and port; the port has a field of its own."))
    if _ENDS_IN_NUMBER.fullmatch(host):
        raise HostRefused(
            _("“{host}” is an address in an unusual form. Write four numbers, as in 192.168.1.10.").format(host=host)
        )
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise HostRefused(
            _(
                "“{host}” is not a host name. It has letters, digits, “-” and “_”, with single dots between; at most 63 characters from dot to dot and 253 in all."
            ).format(host=host[:60])
        )


def _ascii_form(host: str) -> str:
    """Its punycode (xn--…), "" if it has none."""
    try:
        return host[:253].encode("idna").decode()
    except UnicodeError:
        return ""


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _objection(address: Address) -> str:
    """Why no database is there, in a sentence; "" for an address that may be connected to."""
    if _has_scope(address) or any(address in network for network in _METADATA):
        return _("This is a link-local address or one of a cloud's own services. Give that of the database server.")
    if address == IPv6Address("::1"):
        return ""
    if isinstance(address, IPv6Address) and not address.is_unspecified and _hides_ipv4(address):
        return _("This IPv6 address hides an IPv4 address. Write the IPv4 address itself.")
    if isinstance(address, IPv4Address):
        belongs_to_nobody = any(address in network for network in _NOBODYS)
    else:
        belongs_to_nobody = not any(address in network for network in _SOMEBODYS)
    if belongs_to_nobody:
        return _("This address belongs to no machine (unspecified, multicast or reserved). Give that of the server.")
    return ""


def _has_scope(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.scope_id is not None


def _hides_ipv4(address: IPv6Address) -> bool:
    interface = int(address) >> 32 & 0xFFFFFFFF
    return interface in _ISATAP or any(address in network for network in _DISGUISES)


def _look_up(host: str, port: int) -> list[str]:
    failure: list[Exception] = []
    found: list[str] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(place[0]) for *_rest, place in answers))
        except (OSError, UnicodeError) as exc:
            failure.append(exc)

    # getaddrinfo knows no timeout, and a broken name server can hold it for half a minute.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(LOOK_UP_TIMEOUT)
    if failure:
        raise OSError(str(failure[0])) from failure[0]
    if thread.is_alive() or not found:
        raise TimeoutError("name service timeout")
    return found
