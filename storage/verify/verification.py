"""The result of a verification, and the problems that it collects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clipfleet.storage.format.footer import Footer
from clipfleet.storage.format.parts import ITEMS_PREFIX

SHOWN = 5  # examples that a problem names

# The kinds of problems, with their remedies.
DAMAGED = "parts are damaged or foreign ({})"
CHANGED = "parts differ from the SHA-256 in their records ({})"
OTHER_MODEL = "parts hold another model's vectors ({})"
OTHER_DECODE = "parts have another decoder of JPEG files than dataset.json ({})"
OTHER_RULES = "parts have other picture rules than dataset.json ({})"
OTHER_NAME = "parts have another shard's name ({})"
OTHER_COLUMNS = "parts have other columns than the dataset's ({})"
NOT_PLANNED_SO = "parts have other items than the plan has for their shards ({})"
VECTORS = "vectors are not finite or not of norm 1 ({})"
OF_ALL_PARTS = (
    "parts are all of another model than dataset.json, or of another decoder, rules or columns "
    "(restore dataset.json; or delete the parts, and `clipfleet resume` embeds their shards again)"
)
LOGIT_SCALE = "parts have another logit scale than dataset.json (correct the model card in it)"
NO_JOB = "parts are of shards that no job has (restore the job's files in plan/)"
UNFINISHED = "parts are unfinished, without a manifest record (`clipfleet resume` finishes them)"
NO_PART = "manifest records have no part ({})"
RECORD = (
    "manifest records are damaged or differ from their parts (`clipfleet repair` writes them again)"
)
ERRORS = "errors tables differ from their parts (`clipfleet repair` writes them again)"
PLAN = "files of the plan are damaged or missing (restore them, or submit into a new dataset)"
NO_RECORD_OF_JOB = (
    "jobs are gone with their records (restore their files, or submit into a new dataset)"
)
GONE = (
    "parts of single items are gone with their records (put them back; or `clipfleet repair`, and "
    "queue again the items of that time)"
)
KIND = "files are not of the dataset's kind (restore dataset.json)"
QUEUED = "files with the state of the queue are damaged (`clipfleet repair` writes them again)"
STREAM = "files with the last part's number are damaged (move them out of the dataset)"
PACK = "packs have another footer than their parts give (`clipfleet compact` writes them again)"
PACKED_TWICE = "parts are in a pack and beside it (`clipfleet compact` leaves one of them)"
FOREIGN = "files are foreign, readers may read them (move them out of the dataset)"
MISSING = (
    "planned ids are neither in a part nor in an errors table (`clipfleet resume` embeds them, "
    "after `clipfleet repair` if a part is damaged)"
)
DOUBLED = (
    "ids are in parts and errors tables twice (if replaced, `clipfleet resume` mends them; if a "
    "part is damaged, `clipfleet repair`; else delete one of their parts, and `clipfleet resume`)"
)
UNPLANNED = (
    "ids in the parts of shards are in no plan (`clipfleet repair`, or restore the job's files)"
)
PLANNED_TWICE = "ids are planned more than once (restore the plan, or submit into a new dataset)"
DIFFERENT = (
    "vectors differ from those that the model computes now (unless their images changed: delete "
    "their parts, and `clipfleet resume` embeds the shards again)"
)

# The remedies for parts of a plan's shards, and for parts of single items, which no plan has.
_PART_REMEDIES = {
    NO_PART: (
        "`clipfleet resume` embeds these shards again",
        "queue their items again: the next part of single items withdraws these records",
    )
}
_PART_REMEDY = (
    "`clipfleet repair` embeds their shards again",
    "`clipfleet repair` moves them away and names their items: queue them again",
)

# The problems that `repair` leaves to the user.
_BY_HAND = (
    *(OF_ALL_PARTS, NO_JOB, PLAN, NO_RECORD_OF_JOB, KIND, STREAM, FOREIGN, PLANNED_TWICE),
    *(PACK, PACKED_TWICE),
    NO_PART.format(_PART_REMEDIES[NO_PART][1]),
)
_MAYBE_BY_HAND = (DOUBLED, UNPLANNED, LOGIT_SCALE)  # damaged parts may be their cause


@dataclass(kw_only=True, slots=True)
class Verification:
    """The result of `verify`; `missing`, `doubled` and `unplanned` count ids.

    `removed` counts those of the errors that are tombstones, which `clipfleet remove` left. `cut`
    counts the vectors of texts that were longer than the model's context length, `transparent`
    those of images with a transparent pixel, `without_end` those of JPEG files that lack their
    ends, `copied` those that are copies of vectors of equal bytes. A quick verification reads no
    row: it knows neither `removed`, `doubled`, `unplanned` nor `bad_vectors`.
    """

    dataset: str
    model: str  # ModelCard.identity
    quick: bool = False
    planned: int = 0  # ids
    parts: int = 0
    vectors: int = 0
    errors: int = 0
    removed: int = 0  # of these
    cut: int = 0
    transparent: int = 0
    without_end: int = 0
    copied: int = 0
    missing: int = 0
    doubled: int = 0
    unplanned: int = 0
    unfinished: int = 0  # parts without a record
    bad_vectors: int = 0  # not finite, or not of norm 1
    without_checksum: int = 0  # parts of earlier versions
    recomputed: int = 0  # vectors
    bit_equal: int = 0  # of these, vectors with the same bits
    not_recomputed: int = 0  # items of the sample that have no vector now
    problems: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  # names of parts, which `repair` moves away
    stale: list[str] = field(default_factory=list)  # names of records that `repair` writes again
    by_hand: list[str] = field(default_factory=list)  # problems that `repair` cannot mend

    @property
    def ok(self) -> bool:
        """Whether the dataset is whole: there are no `problems`."""
        return not self.problems

    def add_counts(self, footer: Footer) -> None:
        """Add what the footer of a part counts of its vectors."""
        self.cut += footer.cut
        self.transparent += footer.transparent
        self.without_end += footer.without_end
        self.copied += footer.copied

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the result as lines of text: the counts, then the problems, if there are any."""
        removed = f" ({self.removed} of them removed)" if self.removed else ""
        counts = (
            f"{self.planned} items planned; {self.vectors} vectors and {self.errors} errors"
            f"{removed} in {self.parts} parts of model {self.model[:12]}"
        )
        if self.cut:
            counts += f"; {self.cut} vectors are of texts that were cut to the model's length"
        if self.transparent:
            counts += f"; {self.transparent} vectors are of transparent images"
        if self.without_end:
            counts += f"; {self.without_end} vectors are of JPEG files without their ends"
        if self.copied:
            counts += f"; {self.copied} vectors are copies, of items with equal bytes"
        verdict = "whole: every item once, every norm 1, one model"
        if self.quick:
            verdict = "whole by names, counts and records; no row was read (without --quick: all)"
        return [counts, *self._notes(), *(self.problems or [verdict])]

    def _notes(self) -> list[str]:
        notes = []
        if self.without_checksum:
            notes.append(
                f"{self.without_checksum} parts have no checksum: an earlier version wrote them"
            )
        if self.recomputed or self.not_recomputed:
            close = self.recomputed - self.bit_equal
            notes.append(
                f"{self.recomputed} vectors recomputed: {self.bit_equal} have the same bits, "
                f"{close} do not; {self.not_recomputed} items of the sample have no vector now"
            )
        return notes


class Findings:
    """The problems found so far, each with its count and its first examples."""

    def __init__(self) -> None:
        self.damaged: dict[str, None] = {}  # names of parts, in order
        self.stale: dict[str, None] = {}
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, problem: str, example: str) -> None:
        count, examples = self._found.get(problem, (0, []))
        self._found[problem] = (count + 1, [*examples, example][:SHOWN])

    def add_count(self, problem: str, count: int, examples: Sequence[str]) -> None:
        """Add a problem that was counted elsewhere; nothing if `count` is 0."""
        if count:
            self._found[problem] = (count, list(examples))

    def add_part(self, problem: str, name: str, example: str = "") -> None:
        """Add a problem of a part, with the remedy for parts of its kind."""
        shards, items = _PART_REMEDIES.get(problem, _PART_REMEDY)
        remedy = items if name.startswith(ITEMS_PREFIX) else shards
        self.add(problem.format(remedy), example or name)

    def add_damaged(self, problem: str, name: str, example: str = "") -> None:
        """Add a problem of a part that `repair` moves away."""
        self.damaged[name] = None
        self.add_part(problem, name, example)

    def add_stale(self, problem: str, name: str) -> None:
        """Add a problem of a record or an errors table that `repair` writes again."""
        self.stale[name] = None
        self.add(problem, name)

    def report(self, result: Verification) -> None:
        """Put the problems into a result, one line each."""
        for problem, (count, examples) in self._found.items():
            more = ", …" if count > len(examples) else ""
            line = f"{count} {problem}: {', '.join(examples)}{more}"
            result.problems.append(line)
            if problem in _BY_HAND or (problem in _MAYBE_BY_HAND and not self.damaged):
                result.by_hand.append(line)
        result.damaged = list(self.damaged)
        result.stale = [name for name in self.stale if name not in self.damaged]
