"""`compact`: the small parts of a dataset are put into packs of a set size.

Each part's bytes stay as they are, so records, checksums and failures stay valid, and every other
module finds each part by its own path (`clipfleet.storage.packs.packed_parts`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipfleet.errors import DatasetError, UsageError
from clipfleet.storage.commit.manifest import finish
from clipfleet.storage.commit.record import read_record
from clipfleet.storage.compact.by_id import overlapping, packs_by_id, ranges_by_id
from clipfleet.storage.compact.swap import NEW_FOLDER, check_exchange, finish_swap, put_in_place
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import PARTS_FOLDER, Dataset, record_names
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.format.parquet import PARQUET_ERRORS, open_parquet, read_row_group
from clipfleet.storage.format.parts import check_payload, part_path, part_remedy
from clipfleet.storage.packs.pack import PackBuilder, has_own_footer, is_pack_name, pack_name
from clipfleet.storage.packs.packed_parts import MARK, MARK_PATH, PackedParts

FILE_BYTES = 256 << 20

_SUFFIX = ".parquet"

Identity = tuple[int, int, int]  # of a file on the disk: it changes when the file is replaced


@dataclass(frozen=True, kw_only=True, slots=True)
class Compaction:
    """What `compact` did: the dataset's Parquet files before and after, and its rows."""

    dataset: str
    files_before: int
    files_after: int
    packed: int  # parts that were put into new packs
    changed_meanwhile: int  # parts that stay as they are: a worker changed one of their pack
    overlapping: int | None = None  # sorted by id: parts whose range of ids overlaps another's

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        done = f"{self.files_before} files are {self.files_after} now: {self.packed} parts packed"
        if self.changed_meanwhile:
            done += f"; {self.changed_meanwhile} changed meanwhile (compact again takes them)"
        if not self.overlapping:
            return [done]
        export = f"clipfleet export {self.dataset} OUT --to parquet --sort id"
        return [done, f"{self.overlapping} parts overlap in their ids; to sort rows: `{export}`"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A file in `parts/`, with the parts in it that count, and whether it is to be made again."""

    name: str
    parts: tuple[str, ...]
    size_bytes: int
    again: bool
    identity: Identity


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """Packs, each with its parts in order, that take the place of files: all of them or none."""

    files: tuple[_File, ...]
    packs: tuple[tuple[str, ...], ...]

    @property
    def parts(self) -> int:
        return sum(map(len, self.packs))

    @property
    def pack_names(self) -> list[str]:
        return list(map(_name_of, self.packs))


def compact_dataset(
    dataset: Dataset, *, file_bytes: int = FILE_BYTES, sort_by_id: bool = False
) -> Compaction:
    """Put the small parts of an open dataset into packs, see `clipfleet.compact`.

    Raises:
        UsageError, DatasetError, StorageError: As `clipfleet.compact`.
    """
    fs, root = _local(dataset), dataset.root
    if file_bytes < 1:
        raise UsageError(f"a file size of {file_bytes} bytes: expected at least 1")
    fs.create(MARK_PATH, MARK)
    with fs.locked(INFO_PATH):  # one process at a time
        with fs.locked():
            finish_swap(root)
        finish(dataset)  # only parts with records are packed
        check_exchange(root)
        files = list(_files(dataset, fs))
        ranges = ranges_by_id(dataset, _parts(files)) if sort_by_id else None
        if ranges is None:
            changes = [_in_order_of_names(group) for group in _groups(files, file_bytes)]
        else:
            changes = _in_order_of_ids(files, list(packs_by_id(ranges, file_bytes)))
        for change in changes:
            for parts in change.packs:
                path = f"{NEW_FOLDER}/{_name_of(parts)}"
                fs.inner.replace(path, _pack(dataset, parts))
        with fs.locked():
            done = [change for change in changes if _unchanged(root, change.files)]
            for change in changes:
                for name in change.pack_names if change not in done else ():
                    fs.inner.delete(f"{NEW_FOLDER}/{name}")
            packs = [name for change in done for name in change.pack_names]
            replaced = [file.name for change in done for file in change.files]
            if done:
                put_in_place(root, packs=packs, replaced=replaced)
            finish_swap(root)
    packed = sum(change.parts for change in done)
    return Compaction(
        dataset=root,
        files_before=len(files),
        files_after=len(files) - len(replaced) + len(packs),
        packed=packed,
        changed_meanwhile=sum(change.parts for change in changes) - packed,
        overlapping=None if ranges is None else overlapping(ranges),
    )


def _in_order_of_names(group: Sequence[_File]) -> _Change:
    return _Change(files=tuple(group), packs=(tuple(sorted(_parts(group))),))


def _in_order_of_ids(files: Sequence[_File], packs: Sequence[tuple[str, ...]]) -> list[_Change]:
    """Return one change, which leaves the files alone that are as they are to be, or none."""
    wanted = set(packs)
    kept = {file.parts for file in files if file.parts in wanted and _is_as_made(file)}
    others = tuple(file for file in files if file.parts not in kept)
    made = tuple(parts for parts in packs if parts not in kept)
    return [_Change(files=others, packs=made)] if others else []


def _is_as_made(file: _File) -> bool:
    """Return whether a pack has its own footer and name, or a file is a part alone."""
    return not file.again and file.name in (_name_of(file.parts), f"{file.parts[0]}{_SUFFIX}")


def _parts(files: Iterable[_File]) -> Iterator[str]:
    return (part for file in files for part in file.parts)


def _local(dataset: Dataset) -> PackedParts:
    fs = dataset.fs
    if not isinstance(fs, PackedParts) or not fs.on_disk:
        raise UsageError(
            f"{dataset.root} is not on a disk: an object store cannot put a new folder into place "
            "in one step. Copy the dataset to a disk, compact it, and copy it back"
        )
    return fs


def _files(dataset: Dataset, fs: PackedParts) -> Iterator[_File]:
    """Yield the committed parts and the packs, in the order of their names."""
    packs = {pack.file_name: pack for pack in fs.packs()}
    names = set(fs.inner.list(PARTS_FOLDER))
    recorded = record_names(fs)
    taken = {name.removesuffix(_SUFFIX) for name in names if not is_pack_name(name)}
    for file_name in sorted(names):
        identity = _identity(dataset.root, file_name)
        parts, again = [file_name.removesuffix(_SUFFIX)], False
        if file_name in packs:
            members = packs[file_name].members
            if members is None:
                raise DatasetError(
                    f"{dataset.root}/{PARTS_FOLDER}/{file_name} has a damaged footer: "
                    "`clipfleet repair` moves it away and embeds its shards again"
                )
            # A part beside a pack counts, and of two packs the first.
            parts = [member.name for member in members if member.name not in taken]
            taken.update(parts)
            again = len(parts) < len(members)
            with fs.inner.open(f"{PARTS_FOLDER}/{file_name}") as file:
                again = again or not has_own_footer(file, members)
        elif not file_name.endswith(_SUFFIX) or parts[0] not in recorded:
            continue
        yield _File(
            name=file_name,
            parts=tuple(parts),
            size_bytes=identity[2] if parts else 0,
            again=again,
            identity=identity,
        )


def _groups(files: Sequence[_File], file_bytes: int) -> Iterator[list[_File]]:
    """Yield the files that become one pack: neighbours that fit together, if they are several."""
    group: list[_File] = []
    total_bytes = 0
    for file in files:
        # A pack of which no part counts has no bytes: it goes with a neighbour.
        if total_bytes and file.size_bytes and total_bytes + file.size_bytes > file_bytes:
            yield from _worth(group)
            group, total_bytes = [], 0
        group.append(file)
        total_bytes += file.size_bytes
    yield from _worth(group)


def _worth(group: list[_File]) -> Iterator[list[_File]]:
    if len(group) > 1 or any(file.again for file in group):
        yield group


def _name_of(parts: Iterable[str]) -> str:
    return pack_name(min(parts))


def _pack(dataset: Dataset, parts: Sequence[str]) -> memoryview:
    """Return a pack of these parts in this order.

    Raises:
        DatasetError: A part is not as it was committed, or the pack would be read otherwise.
    """
    builder, rows = PackBuilder(), 0
    for name in parts:
        part = dataset.fs.read(part_path(name))
        record = read_record(dataset, name)
        if record is None or record.sha256 is None:  # of an earlier version
            rows += check_payload(part, path=part_path(name)).vectors
        elif record.sha256 == file_sha256(part):
            rows += record.vectors
        else:
            raise DatasetError(
                f"{dataset.root}/{part_path(name)} is not as it was committed: {part_remedy(name)}"
            )
        try:
            builder.add(name, part)
        except ValueError as error:
            raise DatasetError(f"{part_path(name)}: {error}; {part_remedy(name)}") from error
    pack = memoryview(builder.finish())
    _check_rows(dataset, pack, rows)
    return pack


def _check_rows(dataset: Dataset, pack: memoryview, rows: int) -> None:
    """Read a pack as any reader of Parquet does: every page has its checksum, no row is missing."""
    found = 0
    try:
        parquet = open_parquet(io.BytesIO(pack))
        for index in range(parquet.num_row_groups):
            found += read_row_group(parquet, index, parquet.schema_arrow.names).num_rows
    except PARQUET_ERRORS as error:
        raise DatasetError(
            f"a pack of {dataset.root} cannot be read ({error}); nothing was changed: report this"
        ) from error
    if found != rows:
        raise DatasetError(
            f"a pack of {dataset.root} has {found} rows, its parts {rows}; nothing was changed: "
            "report this"
        )


def _identity(root: str, file_name: str) -> Identity:
    status = os.lstat(os.path.join(root, PARTS_FOLDER, file_name))
    return status.st_ino, status.st_mtime_ns, status.st_size


def _unchanged(root: str, files: Sequence[_File]) -> bool:
    try:
        return all(_identity(root, file.name) == file.identity for file in files)
    except FileNotFoundError:
        return False
