"""Host names as settings and URLs have them: one spelling each, or refused."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

ANY = "*"  # in a list of hosts: every name
_BELOW = "*."

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what a resolver may take for a part of an address
_MAX_NAME_LENGTH = 253  # characters, RFC 1035


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedHost:
    """An entry of a list of hosts; without a `port`, its scheme's own is meant."""

    host: str  # in lower case and ASCII; '*' for all names
    below: bool  # all names below it, and not itself
    port: int | None

    def allows(self, host: str, port: int | None) -> bool:
        """Return whether a canonical host is meant; `port` is None where it is the scheme's."""
        if port != self.port:
            return False
        if self.host == ANY:
            return not is_address(host)
        return host.endswith(f".{self.host}") if self.below else host == self.host


def allowed_host(entry: str, *, wildcards: bool) -> AllowedHost:
    """Return what an entry of a list of hosts means.

    Raises:
        ValueError: It is no host, or a pattern where none may be.
    """
    below = entry.startswith(_BELOW)
    try:
        if not wildcards and entry.startswith(ANY):
            raise ValueError("private hosts are named one by one")
        if entry == ANY:
            return AllowedHost(host=ANY, below=False, port=None)
        host, port = split_port(entry.removeprefix(_BELOW))
        host = canonical_host(host)
        if below and is_address(host):
            raise ValueError("nothing is below an address")
    except ValueError as error:
        raise ValueError(
            f"{entry!r} names no host: {error}; write example.com, example.com:8443, "
            "*.example.com or [2001:db8::1]"
        ) from error
    return AllowedHost(host=host, below=below, port=port)


def split_port(netloc: str) -> tuple[str, int | None]:
    """Return host and port of `host`, `host:port`, `[address]` or `[address]:port`.

    Raises:
        ValueError: The port is no number from 1 to 65535, or a bracket is missing.
    """
    host, bracket, rest = netloc.partition("]")
    if netloc.startswith("[") != bool(bracket):
        raise ValueError("a bracket without its other")
    if bracket:
        host, given = f"{host}]", rest
        if rest and not rest.startswith(":"):
            raise ValueError(f"{rest!r} behind the address")
        given = rest.removeprefix(":")
    else:
        host, colon, given = netloc.partition(":")
        rest = colon
    if not rest:
        return host, None
    if not re.fullmatch("[0-9]{1,5}", given, re.ASCII) or not 0 < int(given) < 1 << 16:
        raise ValueError(f"{given!r} is no port")
    return host, int(given)


def canonical_host(host: str) -> str:
    """Return a host in its one spelling: lower case, ASCII (IDNA 2008, UTS 46), no final dot.

    Addresses are taken in their usual spelling only, IPv6 in brackets and without a zone: what
    `inet_aton` makes of 127.1, 0x7f000001 or 2130706433 is refused.

    Raises:
        ValueError: It is no host.
    """
    if host.startswith("["):
        if "%" in host or not host.endswith("]"):
            raise ValueError("an address with a zone, or without its bracket")
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    name = _ascii(host).removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return str(ipaddress.IPv4Address(name))
    if len(name) > _MAX_NAME_LENGTH or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("not a host name")
    return name


def is_address(host: str) -> bool:
    """Return whether a canonical host is an address rather than a name."""
    return host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def _ascii(host: str) -> str:
    if host.isascii():
        return host.lower()  # idna refuses underscores, which hosts of buckets have
    import idna  # only here: few lists have such names

    try:
        return idna.encode(host, uts46=True).decode().lower()
    except idna.IDNAError as error:
        raise ValueError(str(error)) from error
