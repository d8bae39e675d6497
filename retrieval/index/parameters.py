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
