"""Parse host names of settings and URLs into one canonical spelling, or refuse them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

ANY = "*"  # an entry of a list of hosts: allows every name and no address
_BELOW = "*."

_HOST_PORT = re.compile(r"(\[[^]]*\]|[^][:]*)(?::(.*))?", re.DOTALL)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a resolver may read this as a part of an address
_MAX_NAME_LENGTH = 253  # characters, RFC 1035


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedHost:
    """An entry of a list of hosts; `port` None allows the scheme's default port only."""

    host: str  # in lower case and ASCII; '*' for all names
    below: bool  # allows the names below `host`, but not `host` itself
    port: int | None

    def allows(self, host: str, port: int | None) -> bool:
        """Return whether the entry allows a canonical host; `port` None: the scheme's default."""
        if port != self.port:
            return False
        if self.host == ANY:
            return not is_address(host)
        return host.endswith(f".{self.host}") if self.below else host == self.host


def allowed_host(entry: str, *, wildcards: bool) -> AllowedHost:
    """Parse an entry of a list of hosts.

    Raises:
        ValueError: The entry is not a host, or is a pattern and `wildcards` is false.
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
    """Split `host`, `host:port`, `[address]` or `[address]:port`; the port may be None.

    Raises:
        ValueError: The port is not a number from 1 to 65535, or a bracket is missing.
    """
    found = _HOST_PORT.fullmatch(netloc)
    if found is None:
        raise ValueError("a bracket without its pair, or text between an address and its port")
    host, port = found.groups()
    if port is None:
        return host, None
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{port!r} is no port")
    return host, int(port)


def canonical_host(host: str) -> str:
    """Return a host's canonical spelling: lower case, ASCII (IDNA 2008, UTS 46), no final dot.

    Addresses must have their usual spelling, IPv6 in brackets and without a zone. 127.1,
    0x7f000001 and 2130706433, which `inet_aton` reads as 127.0.0.1, are refused.

    Raises:
        ValueError: The text is not a host.
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
        return host.lower()  # idna refuses underscores, which occur in bucket hosts
    import idna  # on demand: few hosts are not ASCII

    try:
        return idna.encode(host, uts46=True).decode().lower()
    except idna.IDNAError as error:
        raise ValueError(str(error)) from error
