"""The structures that an index may have, by the number of rows and the memory for them."""

from __future__ import annotations

from clipfleet.errors import UsageError
from clipfleet.retrieval.index.codes import SEARCH_BYTES, bytes_per_vector
from clipfleet.retrieval.index.parameters import IndexKind, Structure

EXACT_ROWS = 200_000  # up to here, a search compares all vectors: 16 ms at D = 512, on one core
GIB = 1 << 30

_LISTS_PER_ROOT = 4  # about 4 √N lists
_LEAST_LISTS = 16
_SHARES = (1, 1 / 2, 1 / 4)  # of the usual lists
_TWICE = 2  # that many times the usual lists take four times the training
_SAMPLE_OF_LIST = 40  # vectors of each list's share of the sample
_BITS = (2, 1, 4)  # a dimension, the preferred first
_BASE_BYTES = 300 << 20  # Python, its libraries, a part and a block of vectors
# The lists grow as they are filled, and keep room for whole blocks.
_MERGE_FACTOR = 1.5
# The sample as float16 and float32, and FAISS's copy of it.
_TRAIN_BYTES = 2 + 4 + 4
# The sample as float16, and those of its vectors whose codes stand for all.
_PILOT_BYTES = 2 + 2


def structures_that_fit(
    rows: int,
    dim: int,
    *,
    max_memory_bytes: int,
    kind: IndexKind | None = None,
    lists: int | None = None,
    bits: int | None = None,
    fast: bool = False,
    seed: int = 0,
) -> tuple[Structure, ...]:
    """Return the structures whose building and searching fit into the memory, at least one.

    They differ in lists and bits. The first is the one to choose if nothing is measured. What is
    given is not changed: `kind`, `lists`, or `bits` a dimension. If `fast`, twice the usual lists
    are among them, last.

    Raises:
        UsageError: Nothing fits; the message has the smallest memory that does. Or what is given
            does not go together, or the lists are more than the vectors.
    """
    if lists is not None or bits is not None:
        if kind == "exact":
            raise UsageError("an exact index has neither lists nor bits: leave them out")
        kind = "ivf-rabitq"
    if lists is not None and lists > rows:
        raise UsageError(
            f"{lists:,} lists need as many vectors, and there are {rows:,}: choose fewer lists"
        )
    exact = Structure(kind="exact", seed=seed)
    if kind == "exact" or (
        kind is None and rows <= EXACT_ROWS and _bytes_of(exact, rows, dim) <= max_memory_bytes
    ):
        check_memory(exact, rows, dim, max_memory_bytes=max_memory_bytes)
        return (exact,)
    shares = (*_SHARES, _TWICE) if fast else _SHARES
    counts = [lists] if lists else [_share_of_lists(rows, share) for share in shares]
    candidates = [
        Structure(
            kind="ivf-rabitq",
            lists=count,
            bits=each,
            sample_rows=min(rows, _SAMPLE_OF_LIST * count),
            seed=seed,
        )
        for each in ([bits] if bits else _BITS)
        for count in counts
    ]
    fitting = tuple(one for one in candidates if _bytes_of(one, rows, dim) <= max_memory_bytes)
    if not fitting:
        smallest = min(candidates, key=lambda structure: _bytes_of(structure, rows, dim))
        check_memory(smallest, rows, dim, max_memory_bytes=max_memory_bytes)
    return fitting


def check_memory(structure: Structure, rows: int, dim: int, *, max_memory_bytes: int) -> None:
    """Refuse to build so many rows of a structure in too little memory.

    Raises:
        UsageError: It does not fit; the message has the memory that does.
    """
    needed = _bytes_of(structure, rows, dim)
    if needed > max_memory_bytes:
        raise UsageError(
            f"an index ({structure.kind}) of {rows:,} vectors needs {needed / GIB:.1f} GiB of "
            f"memory, and --max-memory is {max_memory_bytes / GIB:g}: allow that much, or use a "
            "larger machine"
        )


def usual_lists(rows: int) -> int:
    """Return the power of two that is nearest to 4 √rows."""
    wanted, lists = _LISTS_PER_ROOT * rows**0.5, _LEAST_LISTS
    while lists * 2**0.5 < wanted:
        lists *= 2
    return min(lists, max(rows, 1))


def _share_of_lists(rows: int, share: float) -> int:
    return min(rows, max(1, int(usual_lists(rows) * share)))


def _bytes_of(structure: Structure, rows: int, dim: int) -> int:
    """Return the memory that building takes at its peak; searching takes less."""
    if structure.kind == "exact":
        return _BASE_BYTES + rows * dim * 2
    centroids = structure.lists * dim * 4
    train = structure.sample_rows * dim * _TRAIN_BYTES + 2 * centroids
    merge = int(rows * bytes_per_vector(dim, structure.bits) * _MERGE_FACTOR) + centroids
    pilot = merge + structure.sample_rows * dim * _PILOT_BYTES + SEARCH_BYTES
    return _BASE_BYTES + max(train, pilot)
