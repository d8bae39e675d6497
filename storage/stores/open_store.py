"""The store of a remote place: which library reads it, with which credentials."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from clipfleet.errors import DependencyError, UsageError
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S
from clipfleet.storage.filesystem.remote import WEB_SCHEMES, Place

if TYPE_CHECKING:
    from obstore.store import GCSStore, HTTPStore, ObjectStore

RETRIES = 2  # of the library, which does not react to Ctrl-C meanwhile


def open_store(
    place: Place, *, timeout_s: float = STORE_TIMEOUT_S, retries: int = RETRIES
) -> tuple[ObjectStore, str]:
    """Return the store of a place, and the path of the place in it.

    Credentials come from the environment, as in each store's own tools. `timeout_s` is for one
    request.

    Raises:
        DependencyError: A package for it is not installed.
        UsageError: The environment has something that the store does not take.
    """
    check_library(place)
    from obstore.exceptions import BaseError

    try:
        if place.scheme == "s3":
            from clipfleet.storage.filesystem.s3 import open_s3

            return open_s3(
                f"s3://{place.container}", timeout_s=timeout_s, retries=retries
            ), place.key
        if place.scheme == "gs":
            emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
            return _google(place.container, emulator, timeout_s, retries), place.key
        if place.scheme in WEB_SCHEMES:  # each file is a store: its URL stays as it is written
            return _web(place.url, "", timeout_s, retries), ""
        from clipfleet.storage.stores.hub import files_url, token

        return _web(files_url(place), token() or "", timeout_s, retries), place.key
    except (BaseError, ValueError) as error:
        raise UsageError(f"cannot use {place.url}: {' '.join(str(error).split())}") from error


def check_library(place: Place) -> None:
    """Refuse a place whose library is missing.

    Raises:
        DependencyError: It is not installed.
    """
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"{place.url} needs the package obstore ({error}): from a checkout, pip install '.[s3]'"
        ) from error


@lru_cache(maxsize=64)  # each has its own connections
def _google(bucket: str, emulator: str, timeout_s: float, retries: int) -> GCSStore:
    from obstore.store import GCSStore

    config: Any = {}  # the library knows more keys than its types do
    if emulator:
        base = emulator if "://" in emulator else f"http://{emulator}"
        config = {"google_base_url": base, "google_skip_signature": "true"}
    return GCSStore(bucket, config=config, **_options(timeout_s, retries, plain=bool(emulator)))


@lru_cache(maxsize=64)
def _web(url: str, token: str, timeout_s: float, retries: int) -> HTTPStore:
    from obstore.store import HTTPStore

    options = _options(timeout_s, retries, plain=url.startswith("http://"))
    if token:  # a redirect to another host is asked without it
        options["client_options"]["default_headers"] = {"Authorization": f"Bearer {token}"}
    store: HTTPStore = HTTPStore.from_url(url, **options)
    return store


def _options(timeout_s: float, retries: int, *, plain: bool) -> dict[str, Any]:
    timeout = timedelta(seconds=timeout_s)
    return {
        "client_options": {"timeout": timeout, "allow_http": plain},
        "retry_config": {"max_retries": retries, "retry_timeout": timeout},
    }
