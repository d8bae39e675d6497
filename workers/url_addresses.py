"""The addresses behind a host's name, and which of them may be connected to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from clipfleet.errors import ItemError
from clipfleet.jobs import FETCH_FAILED, MISSING, NOT_ALLOWED
from workers.read import item_error
from workers.url_policy import Target

Resolve = Callable[..., list[tuple[Any, ...]]]  # socket.getaddrinfo
# What a socket is made of and connects to: family and address, as getaddrinfo returns them.
Address = tuple[int, tuple[Any, ...]]

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Global unicast, the rest of IPv6 being local, reserved, or IPv4 in disguise (::ffff:0:0/96,
# 64:ff9b::/96). https://www.iana.org/assignments/ipv6-address-space
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
# What Python's `is_global` does not refuse, or only its newer versions do.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a cloud's host, which answers its guests only
            "192.0.0.0/24",  # protocols; a cloud's metadata is at 192.0.0.192
            "192.88.99.0/24",  # relays of 6to4
            "240.0.0.0/4",
            "2001::/23",  # protocols, and Teredo with an IPv4 address in it
            "2001:db8::/32",
            "2002::/16",  # 6to4, with an IPv4 address in it
            "3fff::/20",
        ),
    )
)


def addresses(target: Target, resolve: Resolve = socket.getaddrinfo) -> list[Address]:
    """Return the addresses to connect to; the name is resolved once, and all must be allowed.

    Raises:
        ItemError: `not_allowed`: one of them may not be connected to; `missing`: there is no such
            host; `fetch_failed`: nobody answered for its name.
    """
    host = target.host.strip("[]")
    try:
        found = resolve(host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except socket.gaierror as error:
        said = f"the name {host} was not resolved: {error.strerror}"
        # EAI_NODATA is not in every system's module.
        unknown = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        raise item_error(MISSING if unknown else FETCH_FAILED, said) from error
    for _, _, _, _, address in found:
        _check(target, str(address[0]))
    return [(family, address) for family, _, _, _, address in found]


def _check(target: Target, text: str) -> None:
    address = ipaddress.ip_address(text)
    if target.private:
        allowed, kind = not _is_nobodys(address), "link-local, multicast or reserved"
        mend = "such a one is never fetched from"
    else:
        allowed, kind = is_public(address), "not public"
        mend = "an object store of one's own belongs into CLIPFLEET_URL_PRIVATE_HOSTS"
    if not allowed:
        raise _not_public(target, f"{address}, which is {kind}: {mend}")


def is_public(address: _IPAddress) -> bool:
    """Return whether an address is one of the public internet, and of one host there."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _IPV6_UNICAST:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _NOT_PUBLIC if _same(address, network))
    )


def _is_nobodys(address: _IPAddress) -> bool:
    """Return whether not even a server of one's own has such an address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return True
    return (
        address.is_link_local  # metadata of clouds, 169.254.169.254
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
    )


def _same(address: _IPAddress, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return address.version == network.version


def _not_public(target: Target, reason: str) -> ItemError:
    return item_error(NOT_ALLOWED, f"{target.host} may not be fetched from: it leads to {reason}")
