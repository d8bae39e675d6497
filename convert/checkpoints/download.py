"""Download published checkpoints from the Hugging Face hub or a mirror of it."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Any

from clipfleet.architectures import Architecture, PublishedCheckpoint, load_architecture
from clipfleet.engine_files import sha256_of
from clipfleet.errors import ArchitectureError, DependencyError, StorageError
from clipfleet.model_card import ModelCard

DEFAULT_DOWNLOAD_ROOT = Path("~/.cache/clip")  # the original's
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
DEFAULT_ENDPOINT = "https://huggingface.co"

_SHA256 = re.compile(r"[0-9a-f]{64}$")  # the hub's ETag of a large file


def published_checkpoint(architecture: Architecture, download_root: str | Path | None) -> Path:
    """Return the published checkpoint of an architecture, downloaded if it is not there yet.

    An interrupted download goes on where it stopped, also in another process. The
    environment's `HF_ENDPOINT` names another hub.

    Raises:
        ArchitectureError: The architecture has no published checkpoint.
        DependencyError: huggingface_hub is not installed.
        StorageError: The hub does not answer, does not have the file, or gave other bytes.
    """
    published = architecture.published
    if published is None:
        raise ArchitectureError(
            f"architecture {architecture.name} has no published checkpoint: name a file"
        )
    root = Path(download_root or DEFAULT_DOWNLOAD_ROOT).expanduser()
    target = root / published.file
    if not target.is_file():
        root.mkdir(parents=True, exist_ok=True)
        _download(published, target)
    return target


def kept_checkpoint(card: ModelCard, folder: Path) -> Path | None:
    """Return the checkpoint that a card's engine was made of, from a folder or the downloads.

    None if neither has it; nothing is downloaded.
    """
    published = load_architecture(card.architecture).published
    kept = [path for path in sorted(folder.iterdir()) if path.suffix in CHECKPOINT_SUFFIXES]
    if published is not None:
        kept.append(DEFAULT_DOWNLOAD_ROOT.expanduser() / published.file)
    same = (p for p in kept if p.is_file() and sha256_of(p) == card.checkpoint_sha256)
    return next(same, None)


def _download(published: PublishedCheckpoint, target: Path) -> None:
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise DependencyError(
            "downloads need huggingface_hub: from a checkout, pip install '.[convert]'; or name a "
            "file with --checkpoint"
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
    url = hf_hub_url(published.repository, published.file, endpoint=endpoint)
    # The bases are the HTTP client's own errors, whichever client this version uses.
    bases = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    network_errors: tuple[type[Exception], ...] = (OSError, *bases)
    try:
        _fetch(url, target, get_hf_file_metadata(url))
    except network_errors as error:
        raise StorageError(
            f"cannot download {url} to {target}: {error or type(error).__name__}. Try again (it "
            "goes on where it stopped), set HF_ENDPOINT to a hub that answers, or name a local file"
        ) from error


def _fetch(url: str, target: Path, metadata: Any) -> None:
    # `hf_hub_download` deletes what an interrupted process had fetched; this keeps it, under
    # the hub's version of the file, so that no two versions are joined.
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    part = target.with_name(f".{target.name}.{metadata.etag}.part")
    with open(part, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another process may be downloading it
        if target.is_file():
            part.unlink(missing_ok=True)
            return
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=metadata.size,
            displayed_filename=target.name,
        )
        file.flush()
        _check(part, url, metadata)
        os.replace(part, target)


def _check(part: Path, url: str, metadata: Any) -> None:
    size = part.stat().st_size
    whole = metadata.size is None or size == metadata.size
    if whole and _SHA256.match(metadata.etag or "") and sha256_of(part) != metadata.etag:
        whole = False
    if not whole:
        part.unlink()
        raise StorageError(
            f"{url} gave {size} bytes that are not the hub's file of {metadata.size} bytes and "
            f"ETag {metadata.etag}: they were deleted, try again"
        )
