"""How long the stages of a shard took."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import NonNegativeFloat, TypeAdapter


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSeconds:
    """The seconds of work in each stage of a shard, until its part was written.

    `plan`, `wait`, `tokenise` and `engine` follow one another in an engine process. `read` and
    `decode` are the work of its decoders, which work side by side meanwhile.
    """

    plan: NonNegativeFloat = 0.0
    read: NonNegativeFloat = 0.0
    decode: NonNegativeFloat = 0.0
    wait: NonNegativeFloat = 0.0
    tokenise: NonNegativeFloat = 0.0
    engine: NonNegativeFloat = 0.0

    @property
    def inputs(self) -> float:
        """The seconds in which the engine had no inputs: they were waited for, or made."""
        return self.wait + self.tokenise

    @property
    def of_process(self) -> float:
        """The seconds of the engine process."""
        return self.plan + self.inputs + self.engine

    def __add__(self, other: StageSeconds) -> StageSeconds:
        others = asdict(other)
        return StageSeconds(**{name: s + others[name] for name, s in asdict(self).items()})


def stage_seconds_of(text: bytes) -> StageSeconds:
    """Return the seconds of a JSON object.

    Raises:
        ValueError: It is none of them.
    """
    return _SECONDS.validate_json(text)


_SECONDS = TypeAdapter(StageSeconds)
