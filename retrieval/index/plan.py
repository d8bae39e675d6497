"""The plan of a build, `build.json`: which parts go into which shard, and what is done already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.errors import DatasetError, DatasetMismatchError, UsageError
from clipfleet.retrieval.index.card import FAISS_FILE, IndexCard, IndexedPart, IndexShard
from clipfleet.retrieval.index.folder import (
    PLAN_NAME,
    RECORD_NAME,
    codes_name,
    shard_folder,
    trained_name,
    write_text,
)
from clipfleet.retrieval.index.parameters import BuildOptions, Pilot, Structure
from clipfleet.storage.format.dataset import Dataset, describe
from clipfleet.validation import problems

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class BuildPlan:
    """What a build makes of a dataset of the model `model` (an identity).

    The first `published` shards are in the index already. `base` names the codes that they are in,
    `codes` the file that the build makes; both are None for an exact index, as `trained` is.
    `pilot` is what chose the structure: a build that goes on does not choose again.
    """

    dataset: str
    model: str
    structure: Structure
    shards: tuple[IndexShard, ...]
    published: int = 0
    trained: str | None = Field(default=None, pattern=FAISS_FILE)
    base: str | None = Field(default=None, pattern=FAISS_FILE)
    codes: str | None = Field(default=None, pattern=FAISS_FILE)
    pilot: Pilot | None = None
    format: Literal[1] = 1

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def new_shards(self) -> tuple[IndexShard, ...]:
        return self.shards[self.published :]


_PLAN = TypeAdapter(BuildPlan)


def read_plan(folder: Path) -> BuildPlan | None:
    """Return the plan of a build that has not ended; None if there is none.

    Raises:
        DatasetError: It is damaged.
    """
    path = folder / PLAN_NAME
    try:
        return _PLAN.validate_python(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is damaged ({problems(error)}): delete the folder, and build again"
        ) from error


def write_plan(folder: Path, plan: BuildPlan) -> None:
    """Write the plan before anything that it plans."""
    write_text(folder, PLAN_NAME, _PLAN.dump_json(plan, indent=1).decode() + "\n")


def first_plan(
    dataset: str,
    model: str,
    structure: Structure,
    parts: Sequence[IndexedPart],
    *,
    shard_rows: int,
    pilot: Pilot | None = None,
) -> BuildPlan:
    """Return the plan of a new index."""
    is_exact = structure.kind == "exact"
    return BuildPlan(
        dataset=dataset,
        model=model,
        structure=structure,
        shards=tuple(_group(parts, shard_rows, first_number=1)),
        trained=None if is_exact else trained_name(1),
        codes=None if is_exact else codes_name(1),
        pilot=pilot,
    )


def append_plan(
    card: IndexCard, dataset: str, parts: Sequence[IndexedPart], *, shard_rows: int
) -> BuildPlan:
    """Return the plan that adds to an index the parts that it lacks."""
    known = card.alive_parts()
    new = [part for part in parts if known.get(part.name) != part]
    generation = int(card.codes.partition("-")[2].partition(".")[0]) + 1 if card.codes else 0
    return BuildPlan(
        dataset=dataset,
        model=card.model.identity,
        structure=card.structure,
        shards=(*card.shards, *_group(new, shard_rows, first_number=_after(card.shards))),
        published=len(card.shards),
        trained=card.trained,
        base=card.codes,
        codes=codes_name(generation) if card.codes else None,
        pilot=card.pilot,
    )


def renewed(
    plan: BuildPlan, card: IndexCard | None, parts: Sequence[IndexedPart], *, shard_rows: int
) -> BuildPlan:
    """Return the plan of a build that was ended, for the parts that there are now.

    A planned shard stays if its parts are all there, and then what was done of it counts. The name
    of a shard that goes is not used again: a worker may still write it. `card` is the index's.
    """
    there = set(parts)
    kept = [shard for shard in plan.new_shards if there.issuperset(shard.parts)]
    planned = {part for shard in kept for part in shard.parts}
    planned.update(card.alive_parts().values() if card else ())
    new = [part for part in parts if part not in planned]
    added = _group(new, shard_rows, first_number=_after(plan.shards))
    return replace(plan, shards=(*plan.shards[: plan.published], *kept, *added))


def check_same(
    dataset: Dataset, folder: Path, card: IndexCard, parts: Sequence[IndexedPart]
) -> None:
    """Refuse to append to the index of another model or dataset.

    Raises:
        DatasetMismatchError: It has another model's vectors.
        UsageError: It is another dataset's.
    """
    if card.model.identity != dataset.info.model:
        raise DatasetMismatchError(
            f"the index {folder} has vectors of {describe(card.model)}, and {dataset.root} those "
            f"of {describe(dataset.info.card)}: choose a new folder for the index"
        )
    known = card.alive_parts().values()
    if card.dataset != dataset.root and known and not set(parts).intersection(known):
        raise UsageError(
            f"{folder} is the index of {card.dataset}, and {dataset.root} has none of its parts: "
            "choose a new folder for the index"
        )


def check_plan(plan: BuildPlan, dataset: Dataset, folder: Path, options: BuildOptions) -> None:
    """Refuse to go on with a build that was begun otherwise.

    Raises:
        UsageError: It was.
    """
    wrong = other_structure(plan.structure, options)
    if (plan.dataset, plan.model) != (dataset.root, dataset.info.model):
        wrong.append(f"{dataset.root} ({describe(dataset.info.card)}), not {plan.dataset}")
    if wrong:
        raise UsageError(
            f"{folder} has a build that was begun with other options ({'; '.join(wrong)}): give "
            "the same ones to go on, or delete the folder"
        )


def other_structure(structure: Structure, options: BuildOptions) -> list[str]:
    """Return which of the given options are not those of a structure."""
    given = {"kind": options.kind, "lists": options.lists, "bits": options.bits}
    return [
        f"{name} {value}, not {getattr(structure, name)}"
        for name, value in given.items()
        if value is not None and value != getattr(structure, name)
    ]


def removed_rows(
    shards: Iterable[IndexShard], parts: Sequence[IndexedPart]
) -> tuple[tuple[int, int], ...]:
    """Return the ranges of rows whose part is no longer in the dataset, or is a later copy of one.

    A part that vanished and came back unchanged has rows twice: the last ones count.
    """
    there, row = set(parts), 0
    ranges: dict[IndexedPart, tuple[int, int]] = {}
    removed: list[tuple[int, int]] = []
    for shard in shards:
        for part in shard.parts:
            place = (row, row + part.rows)
            row += part.rows
            if part in ranges:
                removed.append(ranges[part])
            if part in there:
                ranges[part] = place
            else:
                removed.append(place)
    return tuple(sorted(removed))


def missing_shards(folder: Path, plan: BuildPlan) -> list[IndexShard]:
    """Return the planned shards that have no record: it is written last."""
    return [
        shard
        for shard in plan.new_shards
        if not (shard_folder(folder, shard.name) / RECORD_NAME).exists()
    ]


def _group(
    parts: Iterable[IndexedPart], shard_rows: int, *, first_number: int
) -> Iterator[IndexShard]:
    """Yield shards of whole parts, each as soon as it has `shard_rows` rows."""
    number, group, rows = first_number, list[IndexedPart](), 0
    for part in parts:
        group.append(part)
        rows += part.rows
        if rows >= shard_rows:
            yield IndexShard(name=f"{number:05d}", parts=tuple(group))
            number, group, rows = number + 1, [], 0
    if group:
        yield IndexShard(name=f"{number:05d}", parts=tuple(group))


def _after(shards: Sequence[IndexShard]) -> int:
    return max((int(shard.name) for shard in shards), default=0) + 1
