"""The addresses of a host, checked against the address ranges that a worker may connect to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from clipfleet.error_codes import FETCH_FAILED, MISSING, NOT_ALLOWED
from clipfleet.errors import ItemError
from clipfleet.workers.http.policy import Target
from clipfleet.workers.item_errors import item_error

Resolve = Callable[..., list[tuple[Any, ...]]]  # socket.getaddrinfo
# A socket's family, and the address that it connects to, as getaddrinfo returns them.
Address = tuple[int, tuple[Any, ...]]

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Global unicast. The rest of IPv6 is local, reserved, or holds an IPv4 address (::ffff:0:0/96,
# 64:ff9b::/96). https://www.iana.org/assignments/ipv6-address-space
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
# Networks that Python's `is_global` accepts, or that only its newer versions refuse.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's platform address, for virtual machines only
            "192.0.0.0/24",  # protocol assignments; Oracle Cloud's metadata is at 192.0.0.192
            "192.88.99.0/24",  # 6to4 relays
            "2001::/23",  # protocol assignments, and Teredo, which holds an IPv4 address
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",
        ),
    )
)


def addresses(target: Target, resolve: Resolve = socket.getaddrinfo) -> list[Address]:
    """Resolve a host's name and return all its addresses, each of them checked.

    The caller must connect to one of these: a second look-up may give another answer.

    Raises:
        ItemError: `not_allowed`: one of the addresses is refused; `missing`: the name does not
            exist; `fetch_failed`: the name was not resolved now.
    """
    host = target.host.strip("[]")
    try:
        found = resolve(host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except socket.gaierror as error:
        message = f"the name {host} was not resolved: {error.strerror}"
        # EAI_NODATA is not in every system's module.
        unknown = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        raise item_error(MISSING if unknown else FETCH_FAILED, message) from error
    for _, _, _, _, address in found:
        _check(target, str(address[0]))
    return [(family, address) for family, _, _, _, address in found]


def _check(target: Target, text: str) -> None:
    address = ipaddress.ip_address(text)
    if target.private:
        allowed, kind = not _is_never_allowed(address), "link-local, multicast or reserved"
        remedy = "such a one is never fetched from"
    else:
        allowed, kind = is_public(address), "not public"
        remedy = "an object store of one's own belongs into CLIPFLEET_URL_PRIVATE_HOSTS"
    if not allowed:
        raise _not_public(target, f"{address}, which is {kind}: {remedy}")


def is_public(address: _IPAddress) -> bool:
    """Return whether an address is a unicast address of the public internet."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _IPV6_UNICAST:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _NOT_PUBLIC)
    )


def _is_never_allowed(address: _IPAddress) -> bool:
    """Return whether an address is refused even for a private host."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return True
    return (
        address.is_link_local  # a cloud's metadata is at 169.254.169.254
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
    )


def _not_public(target: Target, reason: str) -> ItemError:
    return item_error(NOT_ALLOWED, f"{target.host} may not be fetched from: it leads to {reason}")
