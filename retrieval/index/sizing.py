"""The structure of an index, chosen by the number of rows and the memory that it may use."""

from __future__ import annotations

from clipfleet.errors import UsageError
from clipfleet.retrieval.index.codes import bytes_per_vector
from clipfleet.retrieval.index.parameters import IndexKind, Structure

EXACT_ROWS = 200_000  # up to here, a search compares all vectors: 16 ms at D = 512, on one core
GIB = 1 << 30

_LISTS_PER_ROOT = 4  # about 4 √N lists
_LEAST_LISTS = 16
_DIVISORS = (1, 2, 4)  # of the lists, tried until they fit; fewer lists make each probe slower
_SAMPLE_OF_LIST = 40  # vectors of each list's share of the sample
_BITS = (2, 1)  # a dimension: the usual, and for little memory
_BASE_BYTES = 300 << 20  # Python, its libraries, a part and a block of vectors
# The lists grow as they are filled, and keep room for whole blocks.
_MERGE_FACTOR = 1.5
# The sample as float16 and float32, and FAISS's copy of it.
_TRAIN_BYTES = 2 + 4 + 4


def choose_structure(
    rows: int,
    dim: int,
    *,
    max_memory_bytes: int,
    kind: IndexKind | None = None,
    lists: int | None = None,
    bits: int | None = None,
    seed: int = 0,
) -> Structure:
    """Return the best structure whose building and searching fit into the memory.

    What is given is not changed: `kind`, `lists`, or `bits` a dimension.

    Raises:
        UsageError: Nothing fits; the message has the smallest memory that does. Or what is given
            does not go together.
    """
    if lists is not None or bits is not None:
        if kind == "exact":
            raise UsageError("an exact index has neither lists nor bits: leave them out")
        kind = "ivf-rabitq"
    exact = _exact_bytes(rows, dim)
    if kind == "exact" or (kind is None and rows <= EXACT_ROWS):
        if exact <= max_memory_bytes:
            return Structure(kind="exact", seed=seed)
        if kind == "exact":
            raise _too_little(max_memory_bytes, exact, "an exact index", rows)
    candidates = [
        Structure(
            kind="ivf-rabitq",
            lists=wanted,
            bits=each,
            sample_rows=min(rows, _SAMPLE_OF_LIST * wanted),
            seed=seed,
        )
        for each in ((bits,) if bits else _BITS)
        for divisor in _DIVISORS
        if (wanted := lists or max(1, usual_lists(rows) // divisor))
    ]
    for structure in candidates:
        if _ivf_bytes(structure, rows, dim) <= max_memory_bytes:
            return structure
    least = min(_ivf_bytes(structure, rows, dim) for structure in candidates)
    raise _too_little(max_memory_bytes, least, "an index", rows)


def usual_lists(rows: int) -> int:
    """Return the power of two that is nearest to 4 √rows."""
    wanted, lists = _LISTS_PER_ROOT * rows**0.5, _LEAST_LISTS
    while lists * 2**0.5 < wanted:
        lists *= 2
    return min(lists, max(rows, 1))


def _exact_bytes(rows: int, dim: int) -> int:
    return _BASE_BYTES + rows * dim * 2


def _ivf_bytes(structure: Structure, rows: int, dim: int) -> int:
    centroids = structure.lists * dim * 4
    train = structure.sample_rows * dim * _TRAIN_BYTES + 2 * centroids
    merge = int(rows * bytes_per_vector(dim, structure.bits) * _MERGE_FACTOR) + centroids
    return _BASE_BYTES + max(train, merge)


def _too_little(given: int, needed: int, what: str, rows: int) -> UsageError:
    return UsageError(
        f"{what} of {rows:,} vectors needs {needed / GIB:.1f} GiB of memory, and --max-memory is "
        f"{given / GIB:g}: allow that much, or use a larger machine"
    )
