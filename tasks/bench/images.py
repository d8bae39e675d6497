"""The stages of pictures before the engine: decoding, the copy to the GPU, and the resize there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.items import Item
from clipfleet.settings import cores
from clipfleet.storage.format.results import Failure
from clipfleet.tasks.bench.stage import Count, Stage, StageName, Steps, measure
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.resize import PictureBuffer, Pixels, Resizer
from clipfleet.workers.images.decoders import Decoders

MOST_ITEMS = 1 << 18  # that a stage takes: more than fit in its time
_WARM_UP = 4  # pictures of each decoder, so that all decoders run


def decode(
    name: StageName,
    decoders: Decoders,
    items: Sequence[Item],
    budget_s: float,
    *,
    count: int,
    failures: dict[str, Failure],
) -> Stage:
    """Decode files over and over with `count` decoders; add the failed items to `failures`."""

    def steps() -> Steps:
        with closing(decoders.run(repeated(items))) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Failure):
                    failures[outcome.item.id] = outcome
                    yield Count(items=1, errors=1)
                else:
                    outcome.free()
                    yield Count(items=1)

    limited_by = f"{count} decoders on {cores()} cores"
    warm_up_items = _WARM_UP * count
    return measure(name, steps(), budget_s, limited_by=limited_by, warm_up_items=warm_up_items)


def repeated(items: Sequence[Item]) -> list[Item]:
    """Return items over and over, or more items than a stage takes as they are."""
    return list(islice(cycle(items), max(MOST_ITEMS, len(items))))


def inputs_of(decoders: Decoders, items: Sequence[Item]) -> NDArray[np.float32]:
    """Return the engine's inputs, float32 (k, 3, S, S), of the k pictures without an error."""
    made: list[NDArray[np.float32]] = []
    for outcome in decoders.run(items):
        if not isinstance(outcome, Failure):
            made.append(outcome.pixels.copy())
            outcome.free()
    return np.stack(made) if made else np.empty((0, 3, 0, 0), np.float32)


class _Recorder(Resizer):
    """Keeps the arguments of a launch in place of the launch."""

    arguments: tuple[Any, ...] = ()

    def launch(self, *arguments: Any) -> None:
        self.arguments = arguments


def copy_and_resize(
    pictures: Sequence[Pixels], resolution: int, budget_s: float
) -> tuple[Stage, Stage]:
    """Copy one batch of pictures to the GPU over and over; then resize it there over and over.

    Raises:
        EngineError: The GPU failed.
    """
    count = len(pictures)
    size_bytes = sum(3 * one.width * one.height for one in pictures)
    with ExitStack() as stack:
        resizer = stack.enter_context(closing(_Recorder(resolution)))
        buffer = stack.enter_context(closing(PictureBuffer(resizer, count)))
        inputs = stack.enter_context(cuda.DeviceBuffer(4 * count * 3 * resolution**2))
        stream = stack.enter_context(cuda.Stream())

        def copies() -> Steps:
            while True:
                buffer.copy(pictures, inputs.handle, stream)
                stream.synchronize()
                yield Count(items=count, size_bytes=size_bytes)

        def resizes() -> Steps:
            while True:
                Resizer.launch(resizer, *resizer.arguments)
                stream.synchronize()
                yield Count(items=count)

        copied = measure(
            "copy",
            copies(),
            budget_s,
            limited_by=f"the bus to the GPU, {count} pictures at once",
            warm_up_items=count,
            has_bytes=True,
        )
        limited_by = f"the GPU, {count} pictures at once"
        resized = measure("resize", resizes(), budget_s, limited_by=limited_by, warm_up_items=count)
    return copied, resized
