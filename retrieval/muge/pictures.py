"""The pictures of the guide's data: `{split}_imgs.tsv`, or the LMDB that the guide makes of it.

Both hold a picture's id, a whole number, and its file in URL-safe base64. The LMDB has the number
of pictures under the key `num_images`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path

from clipfleet.errors import DependencyError, SourceError
from clipfleet.storage.tables.columns import show

_COUNT_KEY = b"num_images"
_LMDB_FILE = "data.mdb"


def read_pictures(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the ids and the files of pictures, in their order, from a TSV file or an LMDB folder.

    What is no base64 is yielded as it is: it becomes an error row, as every damaged picture.

    Raises:
        SourceError: There is neither, or it has another form.
        DependencyError: The package for LMDB is not installed.
    """
    pairs = _read_lmdb(path) if path.is_dir() else _read_tsv(path)
    for location, id_, encoded in pairs:
        if not id_.isdigit():  # of bytes: ASCII digits only
            raise SourceError(
                f"{location}: the id of a picture is {show(id_)}, expected a whole number"
            )
        try:
            picture = base64.urlsafe_b64decode(encoded)
        except binascii.Error:
            picture = encoded
        yield str(int(id_)), picture


def size_bytes(path: Path) -> int:
    """Return about how many bytes the pictures of a TSV file or an LMDB folder take as files."""
    try:
        encoded = (path / _LMDB_FILE if path.is_dir() else path).stat().st_size
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    return encoded * 3 // 4  # base64


def _read_tsv(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the location, the id and the base64 of each line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                location = f"{path}, line {number}"
                fields = line.strip().split(b"\t")
                if len(fields) != 2:
                    raise SourceError(
                        f"{location}: {len(fields)} fields with tabs between ({show(line)}), "
                        "expected a picture's id and its base64"
                    )
                yield location, fields[0], fields[1]
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


def _read_lmdb(folder: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the location, the id and the base64 of each picture of an LMDB."""
    try:
        import lmdb
    except ImportError as error:
        raise DependencyError(
            f"{folder} is read with the package lmdb ({error}): from a checkout, pip install "
            "'.[lmdb]', or use the TSV file that the LMDB was made of"
        ) from error
    # As the guide opens it: read-only, without a lock file.
    options = {"readonly": True, "create": False, "lock": False, "readahead": False}
    read, said = 0, None
    try:
        with lmdb.open(str(folder), **options) as database, database.begin() as transaction:
            for key, value in transaction.cursor():
                if key == _COUNT_KEY:
                    said = value
                else:
                    read += 1
                    yield f"{folder}, key {show(key)}", key, value
    except lmdb.Error as error:
        raise SourceError(f"{folder} cannot be read as an LMDB: {error}") from error
    if said != str(read).encode():
        raise SourceError(
            f"{folder} holds {read} pictures, and its {_COUNT_KEY.decode()} is {show(said)}: it is "
            "not complete, or its source gave an id twice; make it again"
        )
