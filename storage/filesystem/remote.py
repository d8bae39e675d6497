"""Remote locations: URLs of files in object stores, on the Hugging Face hub and on web servers.

    s3://bucket/key         gs://bucket/key
    hf://datasets/owner/name@revision/path
    https://host/path

In the first two lines, and of the hub, a key or path is written as it is, as by the stores' own
tools: `#`, `?` and `%` are characters of it. An https URL is percent-encoded.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urljoin

from clipfleet.errors import UsageError
from clipfleet.storage.filesystem.locations import local_path

SCHEMES = ("s3", "gs", "hf", "https", "http")
STORE_SCHEMES = ("s3", "gs")
WEB_SCHEMES = ("https", "http")

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9]*)://(?P<rest>.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_HUB = re.compile(r"datasets/(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a remote file or folder is: in a container, which is a bucket, a dataset or a host.

    `key` is its path in the container, without `/` at its ends; of a host it is percent-encoded.
    """

    scheme: str
    container: str  # of a dataset: datasets/owner/name, with @revision if one is given
    key: str

    @property
    def url(self) -> str:
        """The one URL of the place."""
        return f"{self.scheme}://{self.container}" + (f"/{self.key}" if self.key else "")


def is_remote(location: str) -> bool:
    """Return whether a location is a URL of a store, of the hub, or of a web server."""
    match = _URL.match(location)
    return match is not None and match["scheme"].lower() in SCHEMES


def is_web(location: str) -> bool:
    """Return whether a location is an http:// or https:// URL."""
    match = _URL.match(location)
    return match is not None and match["scheme"].lower() in WEB_SCHEMES


def remote_place(url: str) -> Place:
    """Return the place that a remote URL names.

    Raises:
        UsageError: It has not the form of its scheme; the message has no password.
    """
    match = _URL.match(url)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in SCHEMES:
        raise UsageError(f"{url} is no URL of {', '.join(f'{one}://' for one in SCHEMES)}")
    if scheme in WEB_SCHEMES:
        return _web_place(scheme, match["rest"])
    if scheme == "hf":
        hub = _HUB.match(match["rest"])
        container = hub[0] if hub else ""
        key = match["rest"][len(container) :]
        if hub is None or key[:1] not in ("", "/"):
            raise UsageError(
                f"{url} names no dataset of the hub: expected hf://datasets/owner/name/path, or "
                "hf://datasets/owner/name@revision/path"
            )
    else:
        container, _, key = match["rest"].partition("/")
        if "@" in container:  # the message does not repeat it: it may be a password
            raise UsageError(
                f"a {scheme}:// URL has '@' before its first '/': credentials belong into the "
                "environment, not into the URL"
            )
        if not _BUCKET.fullmatch(container):
            raise UsageError(
                f"{url}: {container!r} is no bucket's name; expected {scheme}://bucket/…"
            )
    return Place(scheme=scheme, container=container, key=_key(url, key))


def _web_place(scheme: str, rest: str) -> Place:
    host, _, path = rest.partition("/")
    if "@" in host:
        raise UsageError(f"a {scheme}:// URL has a user or password in it: it would be in the plan")
    if not host or "?" in rest or "#" in rest:
        raise UsageError(
            f"{scheme}://{rest.partition('?')[0]}… has a query or a fragment, or no host: signed "
            "URLs end before a plan does; download it, or name it in its store (s3://, gs://)"
        )
    return Place(scheme=scheme, container=host.lower(), key=_key(f"{scheme}://{rest}", path))


def _key(url: str, path: str) -> str:
    key = path.strip("/")
    if any(part in ("", ".", "..") for part in key.split("/")) and key:
        raise UsageError(
            f"{url}: a key with '//', '.' or '..' in it is not read: rename the object"
        )
    if _CONTROL.search(key):
        raise UsageError(f"{url!r} has a control character in it, which is not read")
    return key


def input_location(location: str) -> str:
    """Return the one form of a remote URL, and the absolute path of a path or `file://` URL.

    Raises:
        UsageError: As `remote_place` and `local_path` do.
    """
    if is_remote(location):
        return remote_place(location).url
    scheme = _URL.match(location)
    if scheme is not None and scheme["scheme"].lower() != "file":
        known = ", ".join(f"{one}://" for one in ("file", *SCHEMES))
        raise UsageError(f"{location}: {scheme['scheme']}:// is not read: name a path, or {known}")
    return local_path(location)


def real_location(location: str) -> str:
    """Return a location as `input_location` does, with the links of a path resolved.

    Raises:
        UsageError: As `remote_place` does.
    """
    return remote_place(location).url if is_remote(location) else os.path.realpath(location)


def parent(location: str) -> str:
    """Return the folder that a path or remote URL is in."""
    if not is_remote(location):
        return os.path.dirname(location)
    place = remote_place(location)
    return Place(
        scheme=place.scheme, container=place.container, key=posixpath.dirname(place.key)
    ).url


def joined(folder: str, path: str) -> str:
    """Return the location of a path that a table names, relative to the table's folder.

    An absolute path stays one of this machine. In a remote folder, `..` ends at its container.
    """
    if not is_remote(folder) or os.path.isabs(path):
        return os.path.normpath(os.path.join(folder, path))
    place = remote_place(folder)
    if place.scheme in WEB_SCHEMES:
        return urljoin(f"{place.url}/", quote(path))
    key = posixpath.normpath(f"/{place.key}/{path}").lstrip("/")
    return Place(scheme=place.scheme, container=place.container, key=key).url


def key_text(key: str, folder: str) -> str:
    """Return a path below a folder as text: that of a web server is percent-encoded."""
    return os.fsdecode(unquote_to_bytes(key)) if is_web(folder) else key


def is_below(location: str, root: str) -> bool:
    """Return whether a path or URL, without `..` and links, is a root or lies below it."""
    return location == root or location.startswith(os.path.join(root, ""))
