"""The URL of Redis: parse it once for redis-py and for kombu, and show it without its password."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from clipfleet.errors import SettingsError
from clipfleet.tasks.broker.url_options import OPTIONS, REFUSED, SECRET_OPTIONS, TLS_PREFIX

HIDDEN = "**"

_SOCKET = "redis+socket"
_SCHEMES = ("redis", "rediss", _SOCKET)
# A text that is no host is shown nowhere: it may be a password whose @ was forgotten.
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]*)(:(?P<port>[0-9]{0,5}))?")
_MAX_PORT = 65_535


@dataclass(frozen=True, kw_only=True)
class BrokerUrl:
    """A URL's parts: `options` and `tls` are keywords of redis-py's connections."""

    scheme: str
    user: str
    password: str
    host: str  # with its port, as written; "" for a socket
    path: str  # of a socket
    db: int
    options: dict[str, Any]
    tls: dict[str, Any]

    def for_kombu(self) -> str:
        """Return the URL without options: kombu knows few, and raises TypeError for others."""
        user = quote(self.user, safe="")
        login = f"{user}:{quote(self.password, safe='')}@" if user or self.password else ""
        if self.scheme == _SOCKET:
            return f"{_SOCKET}://{login}{quote(self.path)}?virtual_host={self.db}"
        return f"{self.scheme}://{login}{self.host}/{self.db}"

    def for_client(self) -> dict[str, Any]:
        """Return the keywords of a connection of redis-py."""
        login = {"username": self.user or None, "password": self.password or None, "db": self.db}
        if self.scheme == _SOCKET:
            return {**login, **self.options, "path": self.path}
        parts = urlsplit(f"//{self.host}")
        address = {"host": parts.hostname or "127.0.0.1", "port": parts.port or 6379}
        return {**login, **address, **self.options, **self.tls}


def parse_broker_url(url: str) -> BrokerUrl:
    """Parse a URL of Redis; each option has redis-py's meaning, or is refused.

    Raises:
        SettingsError: The URL is not one of redis://, rediss://, redis+socket://, or a part of it
            is wrong.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES or "://" not in url:
        raise _wrong(
            url, "expected redis://HOST:PORT/DB, rediss://… (TLS) or redis+socket:///PATH?db=DB"
        )
    if _is_ambiguous(url):
        raise _wrong(
            url,
            "in a password or an option, write / as %2F, ? as %3F, # as %23 and @ as %40",
        )
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = map(unquote, login.partition(":"))
    given = _options(url)
    named_db = given.pop("virtual_host", given.pop("db", None))
    if scheme == _SOCKET:
        if host or not parts.path.strip("/"):
            raise _wrong(url, "expected redis+socket:///PATH?db=DB")
        if "socket_keepalive" in given:
            raise _wrong(url, "leave socket_keepalive out: a socket of this machine has none")
        db = 0
    else:
        _check_host(url, host)
        db = _database(url, parts.path)
    tls = {name: given.pop(name) for name in list(given) if name.startswith(TLS_PREFIX)}
    if tls and scheme != "rediss":
        raise _wrong(url, f"{', '.join(tls)}: for TLS only, so write rediss://, or leave it out")
    return BrokerUrl(
        scheme=scheme,
        user=user or given.pop("username", ""),
        password=password or given.pop("password", ""),
        host=host,
        path=unquote(parts.path),
        db=db if named_db is None else named_db,
        options={k: v for k, v in given.items() if k not in ("username", "password")},
        tls=tls,
    )


def redacted(url: str) -> str:
    """Return a URL for messages and logs, with `**` in place of its passwords.

    Whatever may be a piece of a password is hidden too.
    """
    scheme, colon, rest = url.partition("://")
    if colon and scheme.replace("+", "").isalnum():
        start, tail = f"{scheme}://", rest
    else:  # misspelt
        start, tail = "", url
    if not start or _is_ambiguous(url):
        login, at, host = tail.rpartition("@")
        # After the last @ is the host, unless the @ is of a password among the options.
        shown = at and "=" not in login and _looks_like_host(host)
        if not at and not start and _looks_like_host(tail):
            return url
        return f"{start}{HIDDEN}@{host}" if shown else f"{start}{HIDDEN}"
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    if not _HOST.fullmatch(host):
        return f"{start}{HIDDEN}"
    # A user without a password may be a password whose colon was forgotten.
    hidden = f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"
    pairs = parse_qsl(parts.query)
    # After a password with an unescaped &, the name of an option may be a piece of it.
    has_secret = any(name in SECRET_OPTIONS for name, _ in pairs)
    options = [
        (
            HIDDEN if has_secret and name not in OPTIONS else name,
            HIDDEN if name in SECRET_OPTIONS or name not in OPTIONS else value,
        )
        for name, value in pairs
    ]
    query = f"?{urlencode(options, safe='*/', errors='replace')}" if options else ""
    return f"{start}{hidden if at else ''}{host}{parts.path}{query}"


def secrets_of(url: str) -> list[str]:
    """Return the passwords in a URL, as written and decoded; logs must not show them."""
    location = url.partition("://")[2] if _is_ambiguous(url) else urlsplit(url).netloc
    found = [v for k, v in parse_qsl(url.partition("?")[2]) if k in SECRET_OPTIONS]
    login, at, _ = location.rpartition("@")
    user, colon, password = login.partition(":")
    written = (password if colon else user) if at else ""
    return [secret for secret in {written, unquote(written), *found} if secret]


def _is_ambiguous(url: str) -> bool:
    """Return whether a password seems to contain @, /, ? or #, which end a part of the URL."""
    rest = url.partition("://")[2]
    try:
        netloc = urlsplit(url).netloc
    except ValueError:  # one bracket
        return True
    return "#" in rest or "@" in rest[len(netloc) :]


def _looks_like_host(text: str) -> bool:
    return _HOST.fullmatch(re.sub("/[0-9]*$", "", text)) is not None


def _check_host(url: str, host: str) -> None:
    found = _HOST.fullmatch(host)
    port = found["port"] if found else None
    if found is None or (port and not 0 < int(port) <= _MAX_PORT):
        raise _wrong(
            url,
            "expected a host, and a port from 1 to 65535, as in redis://:PASSWORD@HOST:PORT/DB",
        )


def _database(url: str, path: str) -> int:
    written = unquote(path).strip("/")
    if not re.fullmatch("[0-9]*", written, re.ASCII):
        raise _wrong(url, "a database is a number, as in redis://HOST:PORT/0")
    return int(written or 0)


def _options(url: str) -> dict[str, Any]:
    """Return the options after the question mark, each parsed."""
    found: dict[str, Any] = {}
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    has_secret = any(name in SECRET_OPTIONS for name, _ in pairs)
    for name, value in pairs:
        if name in found:
            raise _wrong(url, f"the option {name} is given twice")
        if name in REFUSED:
            raise _wrong(url, f"leave {name} out: {REFUSED[name]}")
        if name not in OPTIONS:
            named = "an option" if has_secret else f"the option {name!r}"
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(OPTIONS)}"
            raise _wrong(url, f"clipfleet does not know {named}: {meant}")
        parse, expected = OPTIONS[name]
        try:
            found[name] = parse(value)
        except (KeyError, TypeError, ValueError):
            raise _wrong(url, f"the option {name}: expected {expected}") from None
    return found


def _wrong(url: str, reason: str) -> SettingsError:
    return SettingsError(f"redis_url {redacted(url)!r}: {reason}")
