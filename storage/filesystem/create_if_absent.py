"""The look whether an object store lets the first writer win, on which every commit rests."""

from __future__ import annotations

import uuid

from clipfleet.errors import UsageError
from clipfleet.storage.filesystem.base import Filesystem


def check_first_writer_wins(fs: Filesystem, place: str) -> None:
    """Write an object twice and delete it: a store that takes both would let two writers win.

    `place` is the root of `fs`.

    Raises:
        StorageError: The store does not answer, or refuses.
        UsageError: It took both.
    """
    probe = f".clipfleet-probe-{uuid.uuid4().hex}"
    first, second = (fs.create(probe, b"clipfleet") for _ in range(2))
    fs.delete(probe)
    if not first or second:
        raise UsageError(
            f"the store of {place} lets two writers create one object: it must know "
            "If-None-Match, as S3, MinIO, Ceph and SeaweedFS do in versions of today"
        )
