"""The files of a folder that are no items: which ones, and how many of each kind."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from clipfleet.errors import UsageError
from clipfleet.images import IMAGE_EXTENSIONS

# Files and folders that no user made: hidden ones (`.DS_Store`, the `._*` of macOS), previews of
# NAS servers and of Windows, what macOS adds to archives, folders of file systems at their roots.
JUNK = (
    *(".*", "@eaDir", "#recycle", "Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX"),
    *("lost+found", "$RECYCLE.BIN", "System Volume Information"),
)

# Kinds of what is skipped, beside extensions. A folder that is not entered counts once.
NO_EXTENSION = "no extension"
OTHER_EXTENSIONS = "other extensions"
HIDDEN = "hidden or system"
EXCLUDED = "excluded"

_MAX_EXTENSIONS = 100  # that are counted by themselves: names such as `scan.000001` have any number
_MAX_EXTENSION_LENGTH = 12
_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderRules:
    """Which files of a folder are items.

    With `include`, the files that match one of these globs are items, whatever their extensions,
    and no others. Files and folders that match one of `exclude` are left out. A glob with a `/` is
    for the path below the folder, any other for the name; case does not matter. With
    `fail_on_skipped`, files that are skipped for their extensions are an error.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fail_on_skipped: bool = False

    @classmethod
    def of(
        cls, include: Collection[str], exclude: Collection[str], *, fail_on_skipped: bool
    ) -> FolderRules:
        """Return the rules of these options.

        Raises:
            UsageError: A glob is empty, or `include` is a string.
        """
        for name, globs in (("include", include), ("exclude", exclude)):
            if isinstance(globs, str) or not all(glob.strip("./") for glob in globs):
                raise UsageError(f"{name} is {globs!r}: expected globs such as '*.heic' or 'raw/*'")
        return cls(include=tuple(include), exclude=tuple(exclude), fail_on_skipped=fail_on_skipped)


NO_RULES = FolderRules()


class FileFilter:
    """The rules of a folder, ready for use on its files; items have one of `extensions`."""

    def __init__(
        self,
        rules: FolderRules,
        *,
        extensions: Collection[str] = IMAGE_EXTENSIONS,
        junk: Collection[str] = JUNK,
    ) -> None:
        self._extensions = extensions
        self._junk = _Globs(junk)
        self._exclude = _Globs(rules.exclude)
        self._include = _Globs(rules.include) if rules.include else None

    def left_out(self, name: str, path: str) -> str:
        """Return the kind of a file or folder that is left out, "" for any other.

        `path` is the path below the source's folder.
        """
        if self._junk.match(name, path):
            return HIDDEN
        return EXCLUDED if self._exclude.match(name, path) else ""

    def is_item(self, name: str, path: str, *, is_folder: bool) -> bool:
        """Return whether a file is an item; so is a folder named like an image, and fails later."""
        has_extension = extension_of(name) in self._extensions
        if self._include is None:
            return has_extension
        return self._include.match(name, path) and (has_extension or not is_folder)

    def kind(self, name: str) -> str:
        """Return the kind of a file that is no item."""
        return EXCLUDED if self._include else _extension_kind(name)


class _Globs:
    def __init__(self, globs: Collection[str]) -> None:
        plain = [glob.removeprefix("./").rstrip("/") for glob in globs]
        self._names = _regex(glob for glob in plain if "/" not in glob)
        self._paths = _regex(glob.lstrip("/") for glob in plain if "/" in glob)

    def match(self, name: str, path: str) -> bool:
        by_name = self._names is not None and self._names.match(name)
        return bool(by_name or (self._paths is not None and self._paths.match(path)))


def _regex(globs: Iterable[str]) -> re.Pattern[str] | None:
    patterns = [fnmatch.translate(glob) for glob in globs]
    return re.compile("|".join(patterns), re.IGNORECASE) if patterns else None


def extension_of(name: str) -> str:
    """Return the extension of a file's name in lower case, with its dot; "" if it has none."""
    return os.path.splitext(name)[1].lower()


def _extension_kind(name: str) -> str:
    extension = extension_of(name)
    if extension in ("", "."):
        return NO_EXTENSION
    is_short = len(extension) <= _MAX_EXTENSION_LENGTH
    return extension if is_short and extension[1:].isalnum() else OTHER_EXTENSIONS


def count_skipped(counts: dict[str, int], kind: str, count: int = 1) -> None:
    """Add files of a kind to `counts`."""
    if kind not in counts and len(counts) >= _MAX_EXTENSIONS:
        kind = OTHER_EXTENSIONS
    counts[kind] = counts.get(kind, 0) + count


def unread(skipped: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of the files that were skipped for their extensions alone."""
    return {kind: count for kind, count in skipped.items() if kind not in (HIDDEN, EXCLUDED)}


def skipped_lines(skipped: Mapping[str, int]) -> list[str]:
    """Return the line of text that says what was skipped; none if nothing was."""
    if not skipped:
        return []
    total = sum(skipped.values())
    return [f"  skipped {total:,} file{'s' if total > 1 else ''}: {counted(skipped)}"]


def counted(skipped: Mapping[str, int]) -> str:
    """Return the kinds with their counts, most first: `.mov 412, no extension 7, .txt 3`."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{kind} {count:,}" for kind, count in ordered[:_SHOWN]]
    rest = sum(count for _, count in ordered[_SHOWN:])
    return ", ".join([*shown, f"others {rest:,}"] if rest else shown)
