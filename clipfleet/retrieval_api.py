"""The public functions about vectors: indexes, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipfleet.settings import Settings, cores, load_settings

if TYPE_CHECKING:
    from clipfleet.retrieval.index.card import IndexCard

MAX_MEMORY_GIB = 4.0


def build_index(
    dataset: str | Path,
    out: str | Path,
    *,
    append: bool = False,
    kind: Literal["exact", "ivf-rabitq"] | None = None,
    lists: int | None = None,
    bits: int | None = None,
    seed: int = 0,
    max_memory_gib: float = MAX_MEMORY_GIB,
    settings: Settings | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> IndexCard:
    """Build the index of a dataset in a folder, or let it gain what the dataset gained.

    Up to 200,000 vectors the index is exact; above, lists of RaBitQ codes find candidates, which
    are compared exactly. The same call goes on with a build that was killed. If nothing changed
    since the last call, the index stays as it is.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        out: The folder of the index, new or begun.
        append: Add the parts that the dataset gained to an index, and remove those that it lost.
        kind: The kind of the index, if it is not chosen by size and memory.
        lists: The number of lists; by default about 4 √n.
        bits: Bits a dimension of the codes, 1 to 4; by default 2, or 1 if the memory is small.
        seed: Chooses the vectors that train the lists.
        max_memory_gib: The memory that building and searching may take, in GiB.
        settings: Without them, those of `load_settings()`.
        on_progress: Called with what is done, and so many of so many vectors.

    Raises:
        UsageError: The options do not go together, or do not fit the index; or another process
            builds it.
        DatasetError: There is no dataset, it has no vectors, or a part is damaged.
        DependencyError: FAISS is not installed.
        StorageError: A disk or the object store does not answer, or refuses a write.
    """
    from clipfleet.retrieval.faiss_library import load_faiss
    from clipfleet.retrieval.index.build import BuildOptions, build, build_here
    from clipfleet.retrieval.index.card import read_card
    from clipfleet.retrieval.index.folder import index_folder, lock, publish
    from clipfleet.storage.format.dataset import Dataset

    settings = settings or load_settings()
    load_faiss().omp_set_num_threads(settings.engine_threads or cores())
    stored = Dataset.open(str(dataset), store_timeout_s=settings.store_timeout_s)
    folder = index_folder(out)
    options = BuildOptions(
        kind=kind, lists=lists, bits=bits, seed=seed, max_memory_gib=max_memory_gib
    )
    with lock(folder):
        built = build(
            stored,
            folder,
            options,
            append=append,
            build_shards=build_here,
            show=on_progress or _show_nothing,
        )
        if built is not None:
            publish(folder, built)
    card = read_card(folder)
    assert card is not None  # noqa: S101 - it was published, or it was there
    return card


def _show_nothing(what: str, done: int, whole: int) -> None:
    """Show no progress."""
