"""An index is built, or gains what its dataset gained; a build that was killed goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from clipfleet.errors import DatasetError, UsageError
from clipfleet.retrieval.index.card import (
    CANDIDATE_NAME,
    IndexCard,
    IndexedPart,
    IndexShard,
    read_card,
)
from clipfleet.retrieval.index.codes import Codes, read_codes, train
from clipfleet.retrieval.index.dataset_parts import committed_parts
from clipfleet.retrieval.index.folder import (
    PLAN_NAME,
    SHARD_CODES_NAME,
    shard_folder,
    whole_file,
    write_text,
)
from clipfleet.retrieval.index.parameters import BuildOptions, Pilot, Structure
from clipfleet.retrieval.index.plan import (
    BuildPlan,
    append_plan,
    check_plan,
    check_same,
    first_plan,
    missing_shards,
    other_structure,
    read_plan,
    removed_rows,
    renewed,
    write_plan,
)
from clipfleet.retrieval.index.sample import training_sample
from clipfleet.retrieval.index.shard_builder import (
    ShardRecord,
    build_shard,
    read_shard_record,
)
from clipfleet.retrieval.index.sizing import GIB, check_memory, structures_that_fit
from clipfleet.storage.format.dataset import Dataset, utc_now

Show = Callable[[str, int, int], None]  # what is done, and so many of so many rows


class BuildShards(Protocol):
    """Builds planned shards: here, or by the workers of a fleet."""

    def __call__(
        self,
        dataset: Dataset,
        folder: Path,
        plan: BuildPlan,
        shards: Sequence[IndexShard],
        *,
        show: Show,
    ) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a pilot chose: the structure, its lists without rows, and why."""

    structure: Structure
    trained: Codes
    pilot: Pilot


class RunPilot(Protocol):
    """Chooses one of several structures by trying them on a sample of the vectors."""

    def __call__(
        self,
        dataset: Dataset,
        parts: Sequence[IndexedPart],
        structures: Sequence[Structure],
        *,
        show: Show,
    ) -> Choice: ...


def build_here(
    dataset: Dataset, folder: Path, plan: BuildPlan, shards: Sequence[IndexShard], *, show: Show
) -> None:
    """Build shards one after the other in this process.

    Raises:
        DatasetError, StorageError: As in `build_shard`.
    """
    whole = sum(shard.rows for shard in plan.new_shards)
    done = whole - sum(shard.rows for shard in shards)

    def step(rows: int) -> None:
        nonlocal done
        done += rows
        show("copied and encoded", done, whole)

    for shard in shards:
        build_shard(dataset, folder, plan, shard, show=step)


def build(
    dataset: Dataset,
    folder: Path,
    options: BuildOptions,
    *,
    append: bool,
    run_pilot: RunPilot,
    build_shards: BuildShards,
    show: Show,
) -> IndexCard | None:
    """Build what an index lacks; return its card, not published yet. None: it lacks nothing.

    The caller holds the folder's lock, and publishes the card (`publish`) once it is certified.
    Until then the card is `candidate.json`, and the index is what it was.

    Raises:
        UsageError: The options do not fit the dataset or the index.
        DatasetError: The dataset has no vectors, or is damaged; or a shard is of another build.
        DatasetMismatchError: The index has another model's vectors.
        StorageError: A disk or the object store does not answer, or refuses a write.
    """
    card, parts = read_card(folder), committed_parts(dataset)
    if not parts:
        raise DatasetError(f"{dataset.root} has no vectors yet: embed a source first")
    choose = partial(run_pilot, dataset, parts, show=show)
    plan, trained = _plan(dataset, folder, card, parts, options, append=append, choose=choose)
    if plan is None:
        return None
    write_plan(folder, plan)
    started_s = time.monotonic()
    if trained is not None:
        _save_trained(folder, plan, trained)
    if plan.trained and not (folder / plan.trained).exists():
        _train(dataset, folder, plan, parts, show)
    seconds = time.monotonic() - started_s
    if plan.pilot and not card:
        seconds += plan.pilot.seconds
    missing = missing_shards(folder, plan)
    if missing:
        build_shards(dataset, folder, plan, missing, show=show)
    records = [read_shard_record(folder, shard.name) for shard in plan.new_shards]
    _check_records(folder, plan, records)
    started_s = time.monotonic()
    removed = removed_rows(plan.shards, parts)
    candidate = read_card(folder, CANDIDATE_NAME)
    if candidate and (candidate.shards, candidate.removed) == (plan.shards, removed):
        return candidate  # it was built, and not certified
    if plan.codes:
        _merge(folder, plan, removed, show)
    seconds += time.monotonic() - started_s + sum(record.seconds for record in records)
    made = IndexCard(
        dataset=dataset.root,
        model=dataset.info.card,
        rules=dataset.info.rules,
        structure=plan.structure,
        shards=plan.shards,
        removed=removed,
        codes=plan.codes,
        trained=plan.trained,
        parameters=card.parameters if card else plan.structure.parameters(),
        seconds=round(seconds + (card.seconds if card else 0.0), 3),
        created_at=utc_now(),
        pilot=plan.pilot,
    )
    write_text(folder, CANDIDATE_NAME, made.to_json())
    return made


def _plan(
    dataset: Dataset,
    folder: Path,
    card: IndexCard | None,
    parts: Sequence[IndexedPart],
    options: BuildOptions,
    *,
    append: bool,
    choose: Callable[[Sequence[Structure]], Choice],
) -> tuple[BuildPlan | None, Codes | None]:
    """Return the plan of a new index, of an append, or of a build that was ended.

    With it come the lists of a new index, if `choose` has trained them.
    """
    plan = read_plan(folder)
    if card is None:
        if append:
            raise UsageError(f"{folder} has no index to append to: leave --append out")
        if plan is None:
            return _first(dataset, parts, options, choose)
    else:
        check_same(dataset, folder, card, parts)
        if wrong := other_structure(card.structure, options):
            raise UsageError(
                f"{folder} has an index of kind {card.kind} already ({'; '.join(wrong)}): leave "
                "these options out, or choose a new folder"
            )
        fresh = append_plan(card, dataset.root, parts, shard_rows=options.shard_rows)
        if not fresh.new_shards and removed_rows(card.shards, parts) == card.removed:
            return None, None
        if not append:
            raise UsageError(
                f"{folder} has an index already, and {dataset.root} changed since: --append adds "
                "what the dataset gained, and removes what it lost; or choose a new folder"
            )
        memory_bytes = int(options.max_memory_gib * GIB)
        check_memory(card.structure, fresh.rows, card.dim, max_memory_bytes=memory_bytes)
        if plan is None or plan.published != len(card.shards):
            return fresh, None
    check_plan(plan, dataset, folder, options)
    return renewed(plan, card, parts, shard_rows=options.shard_rows), None


def _first(
    dataset: Dataset,
    parts: Sequence[IndexedPart],
    options: BuildOptions,
    choose: Callable[[Sequence[Structure]], Choice],
) -> tuple[BuildPlan, Codes | None]:
    structures = structures_that_fit(
        sum(part.rows for part in parts),
        dataset.info.dim,
        max_memory_bytes=int(options.max_memory_gib * GIB),
        kind=options.kind,
        lists=options.lists,
        bits=options.bits,
        fast=options.fast,
        seed=options.seed,
    )
    choice = choose(structures) if len(structures) > 1 else None
    plan = first_plan(
        dataset.root,
        dataset.info.model,
        choice.structure if choice else structures[0],
        parts,
        shard_rows=options.shard_rows,
        pilot=choice.pilot if choice else None,
    )
    return plan, choice.trained if choice else None


def _check_records(folder: Path, plan: BuildPlan, records: Sequence[ShardRecord]) -> None:
    """Refuse shards of another build, which are there if only a card or a plan was deleted.

    Raises:
        DatasetError: There is one.
    """
    for shard, record in zip(plan.new_shards, records, strict=True):
        if record.parts != shard.parts:
            raise DatasetError(
                f"{shard_folder(folder, shard.name)} has other parts than {folder / PLAN_NAME} "
                "says, so it is of another build: delete the folder of the index, and build again"
            )


def _train(
    dataset: Dataset, folder: Path, plan: BuildPlan, parts: Sequence[IndexedPart], show: Show
) -> None:
    structure = plan.structure
    show("sampled for training", 0, structure.sample_rows)
    sample = training_sample(dataset, parts, structure.sample_rows, seed=structure.seed)
    show("sampled for training", len(sample), len(sample))
    _save_trained(folder, plan, train(structure, dataset.info.dim, sample))


def _save_trained(folder: Path, plan: BuildPlan, trained: Codes) -> None:
    with whole_file(folder / str(plan.trained)) as temporary:
        trained.save(temporary)


def _merge(folder: Path, plan: BuildPlan, removed: Sequence[tuple[int, int]], show: Show) -> None:
    """Write one file of all codes, without those of removed rows."""
    codes = read_codes(folder / str(plan.base or plan.trained))
    for start, end in removed:
        codes.remove(start, end)
    row = sum(shard.rows for shard in plan.shards[: plan.published])
    for shard in plan.new_shards:
        codes.merge(read_codes(shard_folder(folder, shard.name) / SHARD_CODES_NAME), row)
        row += shard.rows
        show("merged", row, plan.rows)
    expected = plan.rows - sum(end - start for start, end in removed)
    if len(codes) != expected:
        raise DatasetError(
            f"the shards of {folder} have codes of {len(codes):,} rows, expected {expected:,}: "
            "build the index again, in another folder"
        )
    with whole_file(folder / str(plan.codes)) as temporary:
        codes.save(temporary)
