"""What an index is made of, and how it is searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipfleet.errors import UsageError

IndexKind = Literal["exact", "ivf-rabitq"]

RERANK = 10  # candidates for a result, if nothing was measured
_PROBED_SHARE = 32  # one list of so many is read, if nothing was measured


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchParameters:
    """How much of an index a search reads; more is slower and finds more.

    `probes` is the number of lists that are read, 0 for an exact index. `rerank` is the number of
    candidates for each result that are compared exactly, 0 for an exact index.
    """

    probes: int
    rerank: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """The kind of an index; `lists` and `bits` a dimension are 0 for an exact one.

    `sample_rows` are the vectors that train the lists; `seed` chooses them.
    """

    kind: IndexKind
    lists: int = 0
    bits: int = 0
    sample_rows: int = 0
    seed: int = 0

    def parameters(self) -> SearchParameters:
        """Return parameters for an index of which nothing was measured."""
        if self.kind == "exact":
            return SearchParameters(probes=0, rerank=0)
        return SearchParameters(probes=-(-self.lists // _PROBED_SHARE), rerank=RERANK)

    def check(self, parameters: SearchParameters) -> None:
        """Refuse parameters of another kind of index, or out of range.

        Raises:
            UsageError: They are.
        """
        if self.kind == "exact":
            return  # it reads everything
        if not 1 <= parameters.probes <= self.lists:
            raise UsageError(
                f"probes is {parameters.probes}: this index has {self.lists} lists, so choose 1 to "
                f"{self.lists}"
            )
        if parameters.rerank < 1:
            raise UsageError(
                f"rerank is {parameters.rerank}: codes alone find too little, so choose 1 or more"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """What a build may be told; None leaves the choice to a pilot, or to the memory.

    If `fast`, the pilot may take more time for a faster search.
    """

    kind: IndexKind | None = None
    lists: int | None = None
    bits: int | None = None
    seed: int = 0
    fast: bool = False
    max_memory_gib: float
    shard_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a pilot measured of codes of `bits` a dimension in so many `lists`.

    `recall` is the estimate of the mean recall@10 of the hardest kind of queries. `cpu_ms` is the
    median CPU time of a search for ten rows on one thread. If the trial `reaches` the recall that
    is asked, its parameters are the cheapest that do; otherwise those that find most.
    """

    bits: int
    lists: int
    parameters: SearchParameters
    recall: float
    cpu_ms: float
    reaches: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """What was tried on a sample of `rows` vectors, before the structure was chosen.

    In the pilot each of them stood `copies` times. `seconds` include the training of all lists.
    """

    rows: int
    copies: int
    queries: int  # of all kinds
    min_recall: float
    seconds: float
    trials: tuple[Trial, ...]

    def line(self) -> str:
        """Return for people what was tried, and why the choice is as it is."""
        tried = len(self.trials)
        of = f"of {tried} that a pilot of {self.rows:,} vectors tried in {self.seconds:.0f} s"
        if any(trial.reaches for trial in self.trials):
            return f"bits and lists: the fastest {of}"
        best = max(self.trials, key=lambda trial: trial.recall)
        return (
            f"bits and lists: those that find most, {of}; none reached a recall@10 of "
            f"{self.min_recall:g}, and {best.bits} bits had {best.recall:.4f}"
        )
