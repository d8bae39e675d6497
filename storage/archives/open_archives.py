"""Archives are opened by what is at a path: one of them, a folder of them, or a pattern."""

from __future__ import annotations

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.images import IMAGE_EXTENSIONS
from clipfleet.storage.archives.files import (
    TAR_ENDINGS,
    ZIP_ENDINGS,
    ending_of,
    is_pattern,
)
from clipfleet.storage.archives.shards import TarSource
from clipfleet.storage.archives.source import ArchiveSource
from clipfleet.storage.archives.zips import ZipSource
from clipfleet.storage.skipped import FolderRules, extension_of
from clipfleet.storage.stores.files import exists, is_folder, names_in


def archive_endings(path: str) -> tuple[str, ...]:
    """Return the endings of the archives at a path; none if there is something else.

    A folder is one of archives if it has some, and no images beside them.

    Raises:
        SourceError: The folder cannot be listed.
    """
    names = [path]
    if is_folder(path):
        try:
            names = names_in(path)
        except OSError as error:
            raise SourceError(
                f"cannot list the folder {error.filename}: {error.strerror}"
            ) from error
        if any(extension_of(name) in IMAGE_EXTENSIONS for name in names):
            return ()
    elif not exists(path) and not is_pattern(path):
        return ()
    for endings in (TAR_ENDINGS, ZIP_ENDINGS):
        if any(ending_of(name, endings) for name in names):
            return endings
    return ()


def open_archives(
    path: str, tower: Tower, rules: FolderRules, *, encoding: str | None
) -> ArchiveSource | None:
    """Return the source of the archives at a path; None if there is something else.

    `encoding` is that of the names in zip archives.

    Raises:
        SourceError: The archives hold nothing of this tower.
    """
    endings = archive_endings(path)
    if not endings:
        return None
    if endings == TAR_ENDINGS:
        return TarSource(path, tower, rules)
    if tower == "txt":
        raise SourceError(
            f"{path} holds pictures, and the txt tower reads texts: captions are read from tar "
            "shards, not from zip archives"
        )
    return ZipSource(path, rules, encoding=encoding)
