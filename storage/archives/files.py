"""The archives of a source: one file, those of a folder, or those that a pattern names."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from clipfleet.errors import SourceError
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.filesystem.remote import parent
from clipfleet.storage.skipped import FileFilter, count_skipped
from clipfleet.storage.stores.files import below, exists, is_file, is_folder, matching, walk

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
ZIP_ENDINGS = (".zip",)

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PATTERN = re.compile(r"[*?\[]|\{\d+\.\.\d+\}")
_MAX_FILES = 1_000_000  # of a range: one more digit by mistake fills no memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """An archive file: its path, its path below the source's folder, and that without its ending.

    The last one, its name, begins the ids of its items.
    """

    path: str
    file_name: str
    name: str


def ending_of(path: str, endings: Collection[str]) -> str:
    """Return the ending that a path has, "" if it has none of them."""
    lower = path.lower()
    return max((one for one in endings if lower.endswith(one)), key=len, default="")


def is_pattern(path: str) -> bool:
    """Return whether a path may be a pattern of files, such as `/data/{00000..00099}.tar`."""
    return _PATTERN.search(path) is not None and not exists(path)


class Archives:
    """The archives at a path, with one of the endings, in the order of their paths.

    `folder` is the source's folder: ids begin there, and it may be moved.
    """

    def __init__(self, path: str, endings: Collection[str], files: FileFilter) -> None:
        self.path = path
        self._endings = endings
        self._filter = files
        if is_pattern(path):
            self.folder = parent(f"{_PATTERN.split(path, maxsplit=1)[0]}*")
        else:
            self.folder = path if is_folder(path) else parent(path)

    def read(self, skipped: dict[str, int]) -> Iterator[Archive]:
        """Yield the archives, and count the other files of a folder in `skipped`.

        Raises:
            SourceError: A folder cannot be listed, or a pattern names no file.
        """
        if is_pattern(self.path):
            paths = iter(_matching(self.path))
        elif is_folder(self.path):
            paths = self._below(skipped)
        else:
            paths = iter([self.path])
        for path in paths:
            if not is_file(path):  # a pipe would wait for a writer
                raise SourceError(f"{readable(path)} is no regular file: an archive is one")
            file_name = readable(below(path, self.folder))
            name = file_name[: len(file_name) - len(ending_of(file_name, self._endings))]
            yield Archive(path=path, file_name=file_name, name=name)

    def _below(self, skipped: dict[str, int]) -> Iterator[str]:
        for folder, subfolders, names in walk(self.folder, onerror=_refuse):
            kept = [one for one in sorted(subfolders) if not self._left_out(folder, one, skipped)]
            subfolders[:] = kept
            beside = _beside_tars(names)
            for name in sorted(names):
                if name in beside or self._left_out(folder, name, skipped):
                    continue
                if ending_of(name, self._endings):
                    yield os.path.join(folder, name)
                else:
                    count_skipped(skipped, self._filter.kind(name))

    def _left_out(self, folder: str, name: str, skipped: dict[str, int]) -> bool:
        path = below(os.path.join(folder, name), self.folder)
        if kind := self._filter.left_out(os.path.basename(path), path):
            count_skipped(skipped, kind)
        return bool(kind)


def _beside_tars(names: Collection[str]) -> set[str]:
    """Return the names of the files that img2dataset writes beside its tars."""
    stems = [name.removesuffix(".tar") for name in names if name.endswith(".tar")]
    return {f"{stem}{end}" for stem in stems for end in (".parquet", "_stats.json")}


def _matching(pattern: str) -> list[str]:
    """Return the files of a pattern; of a range, each has to be there."""
    parts = _RANGE.split(pattern)
    ranges = [_numbers(*limits) for limits in zip(parts[1::3], parts[2::3], strict=True)]
    paths = []
    for numbers in itertools.product(*ranges):
        texts = itertools.chain.from_iterable(
            itertools.zip_longest(parts[::3], numbers, fillvalue="")
        )
        path = "".join(texts)
        found = matching(path) if _PATTERN.search(path) else [path]
        if not found or not exists(found[0]):
            raise SourceError(f"no file {path}, which {pattern} names: leave it out, or restore it")
        paths += found
    return paths


def _numbers(first: str, last: str) -> list[str]:
    begin, end = int(first), int(last)
    if not 0 <= end - begin < _MAX_FILES:
        raise SourceError(f"{{{first}..{last}}} is no range of at most {_MAX_FILES:,} files")
    return [f"{number:0{len(first)}d}" for number in range(begin, end + 1)]


def _refuse(error: OSError) -> None:
    raise SourceError(f"cannot list the folder {error.filename}: {error.strerror}") from error
