"""The search for the cheapest parameters that reach a recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from clipfleet.retrieval.certificate.certificate import Step
from clipfleet.retrieval.index.parameters import SearchParameters

_PLATEAU = 0.002  # a doubling that raises the mean recall by less is not repeated
_MOST_RERANK = 80  # candidates a result: 1,000 queries for 100 rows take 100 MB
_HALVINGS = 2  # of the last doubling: probes are then at most a quarter of it too many


@dataclass(kw_only=True, slots=True)
class Climb:
    """Raises probes, then re-ranking, until a setting reaches a target.

    `measure` tries a setting, and `reaches` tells whether it does. `steps` are the settings that
    were tried, in this order; `reached` is the cheapest of them that reaches the target, or None.
    `lists` are those of the index.
    """

    measure: Callable[[SearchParameters], Step]
    reaches: Callable[[Step], bool]
    lists: int
    steps: list[Step] = field(default_factory=list)
    reached: Step | None = None

    def run(self, start: SearchParameters) -> None:
        """Climb from a setting."""
        below: Step | None = None
        here = self._try(start)
        while not self.reaches(here):
            raised = self._raised(here, below)
            if raised is None:
                return
            below, here = here, self._try(raised)
        self.reached = here
        if below is not None and below.parameters.rerank == here.parameters.rerank:
            self._halve(below.parameters.probes, here.parameters)

    def _raised(self, here: Step, below: Step | None) -> SearchParameters | None:
        """Return the setting after `here`, which came after `below`; None if nothing helps."""
        probes, rerank = here.parameters.probes, here.parameters.rerank
        more_probes = replace(here.parameters, probes=min(2 * probes, self.lists))
        more_rerank = replace(here.parameters, rerank=min(2 * rerank, _MOST_RERANK))
        can_probe, can_rerank = probes < self.lists, rerank < _MOST_RERANK
        gained = below is None or here.recall.mean - below.recall.mean >= _PLATEAU
        if gained:
            return more_probes if can_probe else more_rerank if can_rerank else None
        if below is not None and below.parameters.rerank == rerank:  # more probes did not help
            return more_rerank if can_rerank else None
        return None  # nor did more re-ranking

    def _halve(self, too_few: int, enough: SearchParameters) -> None:
        for _ in range(_HALVINGS):
            middle = (too_few + enough.probes) // 2
            if middle in (too_few, enough.probes):
                return
            step = self._try(replace(enough, probes=middle))
            if self.reaches(step):
                self.reached, enough = step, step.parameters
            else:
                too_few = middle

    def _try(self, parameters: SearchParameters) -> Step:
        self.steps.append(self.measure(parameters))
        return self.steps[-1]
