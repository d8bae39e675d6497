"""The plots of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone

from clipfleet.retrieval.pages.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    across,
    bar,
    scale,
    svg,
    text,
)
from clipfleet.storage.format.stage_seconds import StageSeconds
from clipfleet.tasks.snapshot import duration

_BARS = 40  # at most
_SHARDS = 3  # at least, on average, in a bar: one more or less must not look like another speed
_STEPS = (1, 2, 2.5, 5, 10)  # of the axis, times a power of ten
_STRIP_HEIGHT = 76


def rate_over_time(times: Sequence[tuple[float, int]]) -> str:
    """Return the items a second between the first and the last shard's end.

    `times` are sorted, at least two, and not all the same; an item counts when its shard is done.
    """
    begin_s, end_s = times[0][0], times[-1][0]
    count = max(1, min(_BARS, len(times) // _SHARDS))
    width_s = (end_s - begin_s) / count
    items = [0] * count
    for at_s, shard in times[1:]:  # the first shard began before the first moment that is known
        items[min(count - 1, int((at_s - begin_s) / width_s))] += shard
    rates = [n / width_s for n in items]
    step = _step(max(rates))
    top = math.ceil(max(rates) / step)
    y = scale(0, top * step, across=False)
    lines = []
    for number in range(top + 1):
        value = number * step
        lines += [
            across("grid", y(value)),
            text(LEFT - 6, y(value) + 4, f"{value:,g}", anchor="end"),
        ]
    slot = (WIDTH - LEFT - RIGHT) / count
    for number, rate in enumerate(rates):
        height = HEIGHT - BOTTOM - y(rate)
        lines.append(bar("a", LEFT + number * slot, y(rate), width=slot - 1, height=height))
    lines += [
        text(LEFT, HEIGHT - BOTTOM + 16, _clock(begin_s), anchor="start"),
        text(WIDTH - RIGHT, HEIGHT - BOTTOM + 16, _clock(end_s), anchor="end"),
        text(
            (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 8,
            f"items/s, by {duration(width_s)}",
            anchor="middle",
        ),
    ]
    mean = sum(items) / (end_s - begin_s)
    described = f"{mean:,.1f} items a second on average, at most {max(rates):,.1f}"
    return svg("rate", "Items a second over time", described, lines)


def stage_strip(seconds: StageSeconds, inputs: str) -> str:
    """Return the shares of the engine and of the time without inputs, whose name is `inputs`."""
    engine = seconds.engine / (seconds.engine + seconds.inputs)
    wide = WIDTH - 2 * RIGHT
    first = wide * engine
    y, height = TOP + 20, 28
    lines = [
        bar("a", RIGHT, y, width=first, height=height),
        bar("b", RIGHT + first, y, width=wide - first, height=height),
        text(RIGHT, TOP + 8, f"engine {engine:.0%}", anchor="start"),
        text(WIDTH - RIGHT, TOP + 8, f"{inputs} {1 - engine:.0%}", anchor="end"),
    ]
    described = f"engine {engine:.0%}, {inputs} {1 - engine:.0%}"
    return svg("stages", "Shares of the workers' time", described, lines, height=_STRIP_HEIGHT)


def _step(largest: float) -> float:
    """Return a round step of which three to five reach the largest value of an axis."""
    power: float = 10 ** math.floor(math.log10(largest / 4))
    return next(factor * power for factor in _STEPS if factor * power * 5 >= largest)


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
