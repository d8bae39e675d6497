"""Datasets of the Hugging Face hub: the URLs of their files, and lists of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from clipfleet.errors import DependencyError
from clipfleet.storage.filesystem.remote import Place
from clipfleet.storage.stores.failures import rights_advice

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MAIN = "main"


def files_url(place: Place) -> str:
    """Return the URL below which a dataset's files are."""
    name, revision = _named(place)
    return f"{_endpoint()}/datasets/{name}/resolve/{quote(revision, safe='%')}"


def token() -> str | None:
    """Return the user's token, of `HF_TOKEN` or of `hf auth login`; None without one."""
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        raise _missing(error) from error
    return get_token()


def hub_files(place: Place) -> Iterator[str]:
    """Yield the paths of the files below a folder of a dataset, in the order of the hub.

    Raises:
        OSError: The hub does not answer; FileNotFoundError: there is no such dataset or folder, or
            it is private.
    """
    api = _api()
    from httpx2 import HTTPError
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    name, revision = _named(place)
    try:
        for entry in api.list_repo_tree(
            name, place.key or None, recursive=True, revision=revision, repo_type="dataset"
        ):
            if isinstance(entry, RepoFile):
                yield entry.path
    except EntryNotFoundError:  # a file, or nothing
        return
    except RepositoryNotFoundError as error:
        reason = "the hub has no such dataset, or HF_TOKEN gives no right to it"
        raise FileNotFoundError(errno.ENOENT, reason, place.url) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            reason = f"the hub answers {status}; {rights_advice(place.scheme)}"
            raise PermissionError(errno.EACCES, reason, place.url) from error
        raise OSError(errno.EIO, f"the hub gives no list: {_line(error)}", place.url) from error
    except HTTPError as error:
        raise OSError(errno.EIO, f"the hub did not answer: {_line(error)}", place.url) from error


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise _missing(error) from error
    return HfApi(endpoint=_endpoint())


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _named(place: Place) -> tuple[str, str]:
    """Return the owner/name and the revision of a dataset."""
    name, _, revision = place.container.removeprefix("datasets/").partition("@")
    return name, revision or _MAIN


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _missing(error: ImportError) -> DependencyError:
    return DependencyError(
        f"hf:// needs the package huggingface-hub ({error}): from a checkout, pip install '.[hub]'"
    )
