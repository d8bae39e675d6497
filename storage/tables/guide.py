"""The data of Chinese-CLIP's guide: pictures and texts in `{split}_imgs.tsv` and in LMDBs.

The format: cn_clip/preprocess/build_lmdb_dataset.py. A line of the TSV file is a picture's id, a
whole number, and its file in URL-safe base64. The LMDB `imgs` has the same by id, and their number
under the key `num_images`. The LMDB `pairs` has numbered tuples of an image's id, a text's id and
the text, pickled, and their number under `num_samples`. `{split}_texts.jsonl` is plain JSONL.
"""

from __future__ import annotations

import io
import os
import pickle
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from clipfleet.architectures import Tower
from clipfleet.errors import DependencyError, SourceError
from clipfleet.items import Item
from clipfleet.storage.filesystem.members import Base64Text
from clipfleet.storage.filesystem.remote import is_remote
from clipfleet.storage.stores.files import is_file, names_in, open_file
from clipfleet.storage.tables.columns import Columns, show
from clipfleet.storage.tables.compressed import uncompressed_name
from clipfleet.storage.tables.text_files import check_regular
from clipfleet.storage.tables.text_tables import TableSource

_PICTURES_TSV = "_imgs.tsv"
_LMDB_FILE = "data.mdb"
_LMDBS: dict[Tower, str] = {"img": "imgs", "txt": "pairs"}
_COUNTS: dict[Tower, bytes] = {"img": b"num_images", "txt": b"num_samples"}

_Located = Iterator[tuple[str, Item]]


def open_guide(path: str, tower: Tower) -> TableSource | None:
    """Return the source of a tower at a path of the guide's data; None if it is none.

    Raises:
        SourceError: It cannot be read as it is.
    """
    columns = Columns.of(tower, id_column=None, value_column=None)
    plain = uncompressed_name(path)
    if tower == "img" and plain.endswith(_PICTURES_TSV) and is_file(path):
        if plain != path:
            raise SourceError(
                f"{path} is compressed, and its pictures are read at their places in the file: "
                "uncompress it"
            )
        return PicturesTsv(path, columns)
    if is_remote(path):
        _refuse_lmdb(path, _LMDBS[tower])
        return None
    for folder in (path, os.path.join(path, _LMDBS[tower])):
        if os.path.isfile(os.path.join(folder, _LMDB_FILE)):
            return PicturesLmdb(folder, columns) if tower == "img" else TextsLmdb(folder, columns)
    return None


def _refuse_lmdb(path: str, inner: str) -> None:
    """Refuse a remote LMDB, at a path or in a folder of it.

    Raises:
        SourceError: There is one.
    """
    names = names_in(path)
    if _LMDB_FILE in names or (inner in names and is_file(f"{path}/{inner}/{_LMDB_FILE}")):
        raise SourceError(
            f"{path} is an LMDB, which is read as memory of this machine: copy it to a disk, or "
            "name the files that it was made of (_imgs.tsv, _texts.jsonl)"
        )


class PicturesTsv(TableSource):
    """The pictures of a TSV file; each is a member, at its place in the file."""

    kind = "TSV of pictures"

    def _located(self) -> _Located:
        check_regular(self.path)
        try:
            with open_file(self.path) as file:
                start = 0
                for number, line in enumerate(file, 1):
                    if line.strip():
                        location = f"{self.path}, line {number}"
                        yield location, self._item(line, start, location)
                    start += len(line)
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error.strerror}") from error

    def _item(self, line: bytes, start: int, location: str) -> Item:
        id_, tab, text = line.partition(b"\t")
        encoded = text.rstrip()
        if not tab or b"\t" in encoded:
            fields = len(line.split(b"\t"))
            reason = (
                f"{fields} fields with tabs between ({show(line)}), expected a "
                "picture's id and its base64"
            )
            return self.columns.faulty(None, reason, location=location)
        at = start + len(id_) + len(tab)
        return _picture_item(self.columns, self.path, id_.strip(), encoded, at, location)


class PicturesLmdb(TableSource):
    """The pictures of an LMDB; each is a member, at its place in the LMDB's file."""

    kind = "LMDB of pictures"

    def _located(self) -> _Located:
        path, places = os.path.join(self.path, _LMDB_FILE), _FilePlaces()
        read, said = 0, None
        with _transaction(self.path, "img") as transaction:
            for key, value in transaction.cursor():
                if bytes(key) == _COUNTS["img"]:
                    said = bytes(value)
                    continue
                read += 1
                location = f"{path}, key {show(bytes(key))}"
                at = places.of(value)
                yield location, _picture_item(self.columns, path, bytes(key), value, at, location)
        _check_count(self.path, "img", read, said)


class TextsLmdb(TableSource):
    """The texts of an LMDB of pairs, each once. A text without pictures is in no pair."""

    kind = "LMDB of texts"

    def _located(self) -> _Located:
        with _transaction(self.path, "txt") as transaction:
            said = bytes(transaction.get(_COUNTS["txt"]) or b"")
            last, number = None, 0
            while (value := transaction.get(str(number).encode())) is not None:
                location = f"{os.path.join(self.path, _LMDB_FILE)}, key {show(str(number))}"
                number += 1
                try:
                    _, id_, text = _Plain(io.BytesIO(value)).load()
                except Exception as error:  # noqa: BLE001 - what damaged pickles raise
                    reason = f"{show(bytes(value))} is no pair: {error}"
                    yield location, self.columns.faulty(None, reason, location=location)
                    continue
                if (id_, text) != last:  # the pairs of a text are neighbours
                    yield (
                        location,
                        self.columns.item(id_, text, folder=self.folder, location=location),
                    )
                last = (id_, text)
        _check_count(self.path, "txt", number, said)


class _Plain(pickle.Unpickler):
    """Loads numbers, strings and tuples only: a pickle could name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _picture_item(
    columns: Columns, path: str, id_: bytes, encoded: Any, at: int, location: str
) -> Item:
    if not id_.isdigit():  # of bytes: ASCII digits only
        reason = f"the id of a picture is {show(id_)}, expected a whole number"
        return columns.faulty(None, reason, location=location)
    picture = Base64Text(path=path, offset=at, size=len(encoded), crc32=zlib.crc32(encoded))
    return columns.item(int(id_), picture.uri, folder="", location=location)


@contextmanager
def _transaction(folder: str, tower: Tower) -> Iterator[Any]:
    """Open an LMDB for reading, without a lock file; values are views of its file in memory."""
    try:
        import lmdb
    except ImportError as error:
        raise DependencyError(
            f"{folder} is read with the package lmdb ({error}): from a checkout, pip install "
            "'.[lmdb]', or use the files that the LMDB was made of"
        ) from error
    options = {"readonly": True, "create": False, "lock": False, "readahead": False}
    try:
        with lmdb.open(folder, **options) as database, database.begin(buffers=True) as transaction:
            if any(transaction.get(key) for other, key in _COUNTS.items() if other != tower):
                things = "texts" if tower == "img" else "pictures"
                raise SourceError(f"{folder} is an LMDB of {things}: choose the other tower")
            yield transaction
    except lmdb.Error as error:
        raise SourceError(f"{folder} cannot be read as an LMDB: {error}") from error


def _check_count(folder: str, tower: Tower, read: int, said: bytes | None) -> None:
    if said != str(read).encode():
        things = "pictures" if tower == "img" else "pairs"
        raise SourceError(
            f"{folder} holds {read} {things}, and its {_COUNTS[tower].decode()} is {show(said)}: "
            "it is not complete, or its source gave an id twice; make it again"
        )


class _FilePlaces:
    """Where values lie in the LMDB's file: LMDB maps it into memory as it is."""

    def __init__(self) -> None:
        self._start = self._end = self._offset = 0  # of the mapping that was found last

    def of(self, value: Any) -> int:
        """Return the offset in the mapped file of a value, a view of memory."""
        address: int = np.frombuffer(value, np.uint8).__array_interface__["data"][0]
        if not self._start <= address < self._end:
            self._find(address)
        return address - self._start + self._offset

    def _find(self, address: int) -> None:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as mappings:
            for line in mappings:
                addresses, _, offset, *_ = line.split(maxsplit=3)
                start, end = (int(number, 16) for number in addresses.split("-"))
                if start <= address < end:
                    self._start, self._end, self._offset = start, end, int(offset, 16)
                    return
        raise SourceError("the LMDB is not mapped into memory: use the TSV file it was made of")
