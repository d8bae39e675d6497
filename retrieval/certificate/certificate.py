"""The certificate: what was measured of an index, as JSON in its card."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.validation import problems

QueryKind = Literal["held-out", "img", "txt"]

KIND_NAMES: dict[QueryKind, str] = {
    "held-out": "rows of the index",
    "img": "images of another dataset",
    "txt": "texts of another dataset",
}
TOWER_NAMES: dict[Tower, str] = {"img": "images", "txt": "texts"}

CUTOFFS = (1, 10, 100)  # the k of recall@k
CHOSEN_BY = 10  # the k whose recall must reach the target
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Interval:
    """A mean over queries, and the bounds of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Recall:
    """The recall of one kind of queries.

    Kind "held-out" are rows of the index, each left out of its own answer; "img" and "txt" are the
    vectors of a dataset of that tower. `at` has recall@1, @10 and @100, in the order of `CUTOFFS`.
    `found` counts the queries by how many of their ten nearest rows were found: 0 to 10.
    """

    kind: QueryKind
    queries: int
    at: tuple[Interval, Interval, Interval]
    found: tuple[int, ...]
    worst: float  # mean recall@10 of the 5 % of queries with the lowest

    @property
    def deciding(self) -> Interval:
        """Recall@10, which the target is for."""
        return self.at[CUTOFFS.index(CHOSEN_BY)]

    @property
    def without_hit(self) -> int:
        """The number of queries of which none of the ten nearest rows was found."""
        return self.found[0]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Latency:
    """How long a search for ten rows takes, one query a call, on one thread; in milliseconds."""

    queries: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Step:
    """One setting that was tried: recall@10 of each kind of queries, and the latency."""

    parameters: SearchParameters
    recalls: dict[QueryKind, Interval]
    latency: Latency

    @property
    def hardest(self) -> QueryKind:
        """The kind with the lowest bound."""
        return min(self.recalls, key=lambda kind: self.recalls[kind].low)

    @property
    def recall(self) -> Interval:
        """Recall@10 of the hardest kind."""
        return self.recalls[self.hardest]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelfSearch:
    """Rows whose own vector was searched; `found` of them were among their ten results.

    A row also counts as found if ten other rows have scores at least as high as its own.
    """

    rows: int
    found: int


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Target:
    """What was asked of an index: the lower 95 % bound of recall@10, and the p95 of the latency."""

    min_recall: float
    max_latency_ms: float | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Build:
    """The files that were measured, and what it took to build them."""

    seconds: float
    memory_bytes: int  # that an open index holds: codes and centroids, no mapped file
    disk_bytes: int  # of all files of the index
    codes_sha256: str | None = None  # of the file with all codes; None for an exact index


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Machine:
    """Where an index was measured."""

    cpu: str
    cores: int
    faiss: str  # its version


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Certificate:
    """What was measured of an index: recall against exact search, latency, sizes.

    It is valid for an index of `rows` rows that is searched with `parameters`. `steps` are the
    settings that were tried, in this order; `recalls` has an entry per kind of queries.
    """

    rows: int
    tower: Tower  # of the index's vectors
    parameters: SearchParameters
    target: Target
    recalls: tuple[Recall, ...]
    itself: SelfSearch
    latency: Latency
    steps: tuple[Step, ...]
    build: Build
    machine: Machine
    queries: str | None  # the dataset of the other queries
    seed: int  # of the sample of queries
    created_at: str  # ISO 8601, UTC
    format: Literal[1] = 1

    @property
    def not_certified(self) -> Tower | None:
        """The other tower, if none of its queries was measured: its recall is unknown."""
        other: Tower = "txt" if self.tower == "img" else "img"
        return None if any(recall.kind == other for recall in self.recalls) else other

    @property
    def hardest(self) -> Recall:
        """The recall of the kind of queries with the lowest bound."""
        return min(self.recalls, key=lambda recall: recall.deciding.low)

    def lines(self) -> list[str]:
        """Return the certificate for people, in a few lines."""
        hardest, latency = self.hardest, self.latency
        recall = f"{hardest.deciding.mean:.4f}, at least {hardest.deciding.low:.4f}"
        asked = f"{hardest.queries:,} queries by {KIND_NAMES[hardest.kind]}"
        lines = [
            f"recall@10: {recall} with 95 % confidence, for {asked}",
            f"a search on one thread: {latency.p50_ms:.2f} ms, p95 {latency.p95_ms:.2f} ms",
        ]
        if self.itself.found < self.itself.rows:
            lines.append(
                f"found by their own vectors: {self.itself.found:,} of {self.itself.rows:,} rows"
            )
        if self.not_certified is not None:
            lines.append(
                f"{TOWER_NAMES[self.not_certified]} not certified: --queries names a dataset of "
                "that tower, of the same checkpoint"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the certificate in JSON's types."""
        fields: dict[str, Any] = _CERTIFICATE.dump_python(self, mode="json")
        return fields


_CERTIFICATE = TypeAdapter(Certificate)


def parse_certificate(fields: object, *, origin: str) -> Certificate:
    """Return the certificate of `to_json`'s fields; `origin` names their file in an error.

    Raises:
        DatasetError: They do not fit the schema.
    """
    try:
        return _CERTIFICATE.validate_python(fields)
    except ValidationError as error:
        raise DatasetError(
            f"the certificate in {origin} does not fit the schema ({problems(error)}): measure the "
            "index again with `clipfleet index`"
        ) from error
