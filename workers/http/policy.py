"""The policy of URLs: which scheme, host and port may be fetched, before a name is resolved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from clipfleet.error_codes import HTTP_ERROR, NOT_ALLOWED
from clipfleet.errors import ItemError
from clipfleet.hosts import AllowedHost, allowed_host, canonical_host, split_port
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.remote import is_remote
from clipfleet.workers.images.read import refuse_url
from clipfleet.workers.item_errors import item_error, shown

DEFAULT_PORTS = {"https": 443, "http": 80}

_URL = re.compile(r"(?P<scheme>[^:/?#]+)://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))  # not quoted; escapes stay as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A URL that the policy allows; its addresses are checked when a connection is made."""

    scheme: str
    host: str  # canonical, see clipfleet.hosts
    port: int
    path: str  # with the query, in ASCII
    private: bool  # the host may have a private address

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: a connection serves one origin."""
        return self.scheme, self.host, self.port

    @property
    def url(self) -> str:
        """The URL in its canonical spelling."""
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlPolicy:
    """The schemes and hosts that URLs may name; without hosts, no URL is allowed."""

    hosts: tuple[AllowedHost, ...] = ()
    private_hosts: tuple[AllowedHost, ...] = ()
    schemes: tuple[str, ...] = ("https",)

    @classmethod
    def from_settings(cls, settings: Settings) -> UrlPolicy:
        return cls(
            hosts=tuple(allowed_host(h, wildcards=True) for h in settings.url_hosts),
            private_hosts=tuple(
                allowed_host(h, wildcards=False) for h in settings.url_private_hosts
            ),
            schemes=settings.url_schemes,
        )

    def target(self, url: str) -> Target:
        """Return the target of an item's URL.

        Raises:
            ItemError: `not_allowed`: no host is named in the settings, or this URL is refused.
        """
        if not self.hosts and not self.private_hosts:
            refuse_url(url)
        try:
            return self._target(url)
        except ValueError as error:
            raise _refused(url, str(error)) from error

    def redirected(self, origin: Target, location: str) -> Target:
        """Return the target of a redirect; `location` may be relative to `origin`.

        Raises:
            ItemError: `not_allowed`: the new URL is refused; `http_error`: it leaves https.
        """
        try:
            url = urljoin(origin.url, location)
        except ValueError as error:  # an unpaired bracket, or a letter that NFKC makes a separator
            raise _refused(origin.url, f"it redirects elsewhere: {error}") from error
        if origin.scheme == "https" and not url.lower().startswith("https:"):
            reason = f"{shown(origin.url)} redirects to a URL that is not https, which is refused"
            raise item_error(HTTP_ERROR, reason)
        try:
            return self._target(url)
        except ValueError as error:
            raise _refused(origin.url, f"it redirects elsewhere: {error}") from error

    def _target(self, url: str) -> Target:
        found = _URL.match(url)
        if found is None or _CONTROL.search(url):
            raise ValueError("it is no URL, or has a control character in it")
        scheme = found["scheme"].lower()
        if scheme not in self.schemes:
            raise ValueError(
                f"{scheme}:// is not among the schemes {', '.join(self.schemes)} "
                "(CLIPFLEET_URL_SCHEMES)"
            )
        if "@" in found["netloc"]:
            raise ValueError("it has a user or password in it")
        host, port = split_port(found["netloc"])
        host = canonical_host(host)
        named = None if port == DEFAULT_PORTS[scheme] else port
        private = any(entry.allows(host, named) for entry in self.private_hosts)
        if not private and not any(entry.allows(host, named) for entry in self.hosts):
            wanted = host if named is None else f"{host}:{named}"
            raise ValueError(f"{wanted} is none of the hosts in CLIPFLEET_URL_HOSTS")
        path = quote((found["path"] or "/") + (found["query"] or ""), safe=_PRINTABLE)
        return Target(
            scheme=scheme,
            host=host,
            port=port or DEFAULT_PORTS[scheme],
            path=path,
            private=private,
        )


def named_host(url: str) -> str:
    """Return a URL's host and port, or bucket, as written, in lower case; "" without one.

    Of a member's uri it is that of its file.
    """
    found = _URL.match(url if is_remote(url) else url.partition("://")[2])
    return found["netloc"].lower() if found else ""


def _refused(url: str, reason: str) -> ItemError:
    return item_error(NOT_ALLOWED, f"{shown(url)} may not be fetched: {reason}")
