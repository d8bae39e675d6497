"""The codes of an index: lists of RaBitQ codes, trained, filled, merged and searched by FAISS.

Two ways of FAISS 1.15 give wrong results without an error: `add_core` with given lists, and
`range_search` of these codes. Neither is used. A third one, `merge_from`, writes beyond the end of
some lists: these are moved here (`_move_unsafe_lists`).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import DatasetError, UsageError
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.index.parameters import Structure

ITERATIONS = 8  # of k-means
SEARCH_BYTES = 128 << 20  # of tables that a search makes at a time
_BLOCK = 32  # vectors that a fast scan compares at once
_MIN_ROWS_IN_LIST = 1  # FAISS warns below 39: `sizing` chooses


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes of rows, in lists; `faiss_index` is FAISS's."""

    faiss_index: Any

    def __len__(self) -> int:
        return int(self.faiss_index.ntotal)

    def add(self, vectors: NDArray[np.float16]) -> None:
        """Add vectors (n, D) as the next rows."""
        self.faiss_index.add(vectors.astype(np.float32))

    def merge(self, other: Codes, first_row: int) -> None:
        """Move another's codes here; its rows are counted from `first_row`."""
        _move_unsafe_lists(self.faiss_index, other.faiss_index, first_row)
        self.faiss_index.merge_from(other.faiss_index, first_row)

    def repeat(self, times: int) -> None:
        """Let the n rows stand so many times: row r is also r + n, r + 2 n and so on."""
        faiss, rows = load_faiss(), len(self)
        once = faiss.clone_index(self.faiss_index)
        for copy in range(1, times):
            self.merge(Codes(faiss.clone_index(once)), copy * rows)

    def remove(self, start: int, end: int) -> None:
        """Remove the codes of the rows in [start, end)."""
        self.faiss_index.remove_ids(load_faiss().IDSelectorRange(start, end))

    def nearest(self, queries: NDArray[np.float32], count: int, probes: int) -> NDArray[np.int64]:
        """Return the rows (q, count) whose codes are nearest, -1 where there are fewer.

        FAISS's tables of products, 128 MiB at most, are for so many queries at a time.
        """
        parameters = load_faiss().SearchParametersIVF(nprobe=probes)
        block = max(1, SEARCH_BYTES // (probes * _table_bytes(queries.shape[1])))
        rows = np.empty((len(queries), count), np.int64)
        for start in range(0, len(queries), block):
            found = self.faiss_index.search(
                queries[start : start + block], count, params=parameters
            )
            rows[start : start + block] = found[1]
        return rows

    def save(self, path: Path) -> None:
        """Write the codes into a new file.

        Raises:
            OSError: The disk refuses.
        """
        try:
            load_faiss().write_index(self.faiss_index, str(path))
        except RuntimeError as error:  # FAISS has no error of its own for a full disk
            raise OSError(errno.EIO, f"FAISS cannot write it: {error!s:.200}") from error


def read_codes(path: Path, *, mapped: bool = False) -> Codes:
    """Return the codes in a file; mapped, they take memory only as they are read.

    Raises:
        FileNotFoundError: There is no such file.
        DatasetError: It is damaged.
    """
    faiss = load_faiss()
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise DatasetError(
            f"{path} is damaged ({error!s:.200}): build the index again, in another folder"
        ) from error
    return Codes(found)


def train(structure: Structure, dim: int, sample: NDArray[np.float16]) -> Codes:
    """Return codes without rows, whose lists are the clusters of a sample (n, D).

    Raises:
        UsageError: The sample has fewer vectors than there are lists.
    """
    if len(sample) < structure.lists:
        raise UsageError(
            f"{structure.lists} lists need as many vectors, and there are {len(sample)}: choose "
            "fewer lists"
        )
    untrained = _untrained(structure.lists, structure.bits, dim)
    clustering = untrained.cp
    clustering.niter, clustering.seed, clustering.spherical = ITERATIONS, structure.seed, True
    clustering.min_points_per_centroid = _MIN_ROWS_IN_LIST
    clustering.max_points_per_centroid = -(-len(sample) // structure.lists)  # all of the sample
    untrained.train(sample.astype(np.float32))
    return Codes(untrained)


def same_lists(trained: Codes, bits: int) -> Codes:
    """Return codes without rows in the lists of others, with so many bits a dimension."""
    lists, dim = trained.faiss_index.nlist, trained.faiss_index.d
    centroids = trained.faiss_index.quantizer.reconstruct_n(0, lists)
    other = _untrained(lists, bits, dim)
    other.quantizer.add(centroids)
    other.train(centroids)  # FAISS keeps the centroids that are there
    return Codes(other)


def bytes_per_vector(dim: int, bits: int) -> int:
    """Return the size of a row's code and its number."""
    return int(_untrained(1, bits, dim).code_size) + np.dtype(np.int64).itemsize


def _table_bytes(dim: int) -> int:
    """Return the size of FAISS's tables for a query and a list: float32 and uint8."""
    return -(-dim // 4) * 16 * (4 + 1)


def _untrained(lists: int, bits: int, dim: int) -> Any:
    faiss = load_faiss()
    quantizer = faiss.IndexFlatIP(dim)
    return faiss.IndexIVFRaBitQFastScan(
        quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT, _BLOCK, True, bits
    )


def _move_unsafe_lists(to_index: Any, from_index: Any, first_row: int) -> None:
    """Move those lists of an index to the end of another's that FAISS (to 1.15.1) must not merge.

    FAISS takes a list for one that ends with a whole block if its number of rows can be divided by
    the bytes of a block, instead of its rows. It then copies as many blocks as the merged list has,
    instead of those that are added: it reads beyond the one list, and writes beyond the other.
    Such a list does end with a whole block, so blocks can be copied as they are.
    """
    faiss = load_faiss()
    to_lists, from_lists = (
        faiss.downcast_InvertedLists(index.invlists) for index in (to_index, from_index)
    )
    for number in range(to_lists.nlist):
        rows, added = to_lists.list_size(number), from_lists.list_size(number)
        if not (rows and added) or rows % to_lists.block_size:
            continue
        to_lists.resize(number, rows + added)
        _rows_of(to_lists, number)[rows:] = _rows_of(from_lists, number) + first_row
        _blocks_of(to_lists, number)[rows // _BLOCK :] = _blocks_of(from_lists, number)
        from_lists.resize(number, 0)


def _rows_of(lists: Any, number: int) -> NDArray[np.int64]:
    """Return the rows (n,) of a list; it is FAISS's memory."""
    rows: NDArray[np.int64] = load_faiss().rev_swig_ptr(
        lists.get_ids(number), lists.list_size(number)
    )
    return rows


def _blocks_of(lists: Any, number: int) -> NDArray[np.uint8]:
    """Return the blocks (n, bytes) of a list, the last of which may not be full; FAISS's memory."""
    blocks = -(-lists.list_size(number) // _BLOCK)
    memory: NDArray[np.uint8] = load_faiss().rev_swig_ptr(
        lists.get_codes(number), blocks * lists.block_size
    )
    return memory.reshape(blocks, lists.block_size)
