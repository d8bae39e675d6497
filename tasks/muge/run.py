"""The whole run of the guide: embed both towers, search, and compare the recalls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from clipfleet.architectures import TOWERS, Tower
from clipfleet.atomic_write import atomic_write
from clipfleet.engine_files import sha256_of
from clipfleet.errors import UsageError
from clipfleet.reader import Dataset
from clipfleet.retrieval.evaluation.evaluate import evaluate
from clipfleet.retrieval.evaluation.gold import GoldPairs, read_gold
from clipfleet.retrieval.muge.comparison import WAYS, Comparison, Row
from clipfleet.retrieval.muge.split import Split
from clipfleet.retrieval.threads import limited_threads
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset as StoredDataset
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.sources.open_source import open_source
from clipfleet.tasks.muge.runtimes import Runtime

_INPUTS = "inputs.json"  # digests of what the results are of

Embed = Callable[[Runtime, Tower, Path, Path], None]  # …, a source, and the dataset to write


def run_muge(
    split: Split,
    out: Path,
    runtimes: Sequence[Runtime],
    *,
    embed: Embed,
    threads: int,
    progress: Callable[[str], None],
) -> Comparison:
    """Embed a split in each runtime, and compare their recalls; a call again continues.

    Of a runtime that is not run, the datasets count that an earlier call left in `out`, in another
    environment or on another machine. The search takes so many `threads`.

    Raises:
        SourceError: The split has another form, or no gold pairs.
        UsageError: `out` holds datasets of other data or of another checkpoint.
        EngineError: An engine does not load, or fails.
        DependencyError: The package for LMDB is not installed.
    """
    gold = read_gold(split.texts)  # first: without gold pairs, hours of work would be in vain
    progress(f"reading {split.pictures}")
    _check_inputs(split, runtimes[0].checkpoint_sha256, out)
    sources: dict[Tower, Path] = {"img": split.pictures, "txt": split.texts}
    for runtime in runtimes:
        for tower in () if runtime.not_run else TOWERS:
            progress(f"{runtime.name}: embedding the {tower} tower")
            embed(runtime, tower, sources[tower], out / runtime.key / tower)
    progress("searching")
    with limited_threads(threads):
        return Comparison(rows=[_row(runtime, out / runtime.key, gold) for runtime in runtimes])


def _check_inputs(split: Split, checkpoint_sha256: str, out: Path) -> None:
    """Note what the datasets in `out` are of, or check it against an earlier run's note."""
    data = hashlib.sha256(sha256_of(split.texts).encode())
    for item in open_source(str(split.pictures), tower="img"):
        _, _, place = (item.uri or "").partition("?")  # with the checksum of its bytes
        data.update(f"\n{item.id} {place}".encode())
    inputs = {"checkpoint_sha256": checkpoint_sha256, "data": data.hexdigest()}
    out.mkdir(parents=True, exist_ok=True)
    path = out / _INPUTS
    if not path.exists():
        with atomic_write(path) as part:
            part.write_text(json.dumps(inputs, indent=2) + "\n", encoding="utf-8")
    elif (earlier := json.loads(path.read_text(encoding="utf-8"))) != inputs:
        raise UsageError(
            f"{out} has datasets of {earlier}, and this run is of {inputs}: name another --out"
        )


def _row(runtime: Runtime, folder: Path, gold: GoldPairs) -> Row:
    """Return a runtime's row, and write its predictions into its folder."""
    if runtime.not_run and not all(_is_whole(folder / tower) for tower in TOWERS):
        return Row(runtime=runtime.name, not_run=runtime.not_run)
    images, texts = Dataset(folder / "img"), Dataset(folder / "txt")
    found = evaluate(images, texts, gold, predictions=folder)
    both = found.text_to_image, found.image_to_text
    return Row(
        runtime=runtime.name,
        figures={
            way: (one.r1, one.r5, one.r10, one.mean_recall)
            for way, one in zip(WAYS, both, strict=True)
        },
        failed=sum(1 for dataset in (images, texts) for _ in dataset.errors()),
    )


def _is_whole(dataset: Path) -> bool:
    """Return whether a dataset is there, planned, and all of its shards are done."""
    if not (dataset / INFO_PATH).exists():
        return False
    opened = StoredDataset.open(str(dataset))
    planned = jobs(opened)
    return bool(planned) and next(missing_shards(opened, planned), None) is None
