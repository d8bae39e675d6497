"""Measure an engine alone, decoders alone, and both together without a queue and Parquet.

python -m bench.gpu.pipeline.alone ENGINE PHOTOS --count 16000 --out figures.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.gpu.pipeline.figures import Figure, dump_figures
from bench.gpu.timing.rates import DISTINCT_ITEMS, measure_rate
from clipfleet.items import Item
from clipfleet.settings import Settings, cores, load_settings
from clipfleet.storage.format.parts import Failure
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Engine
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.region import Layout

_WARM_UP = 1000  # images
_ROUNDS = 3
_SLOTS = 48  # of each decoder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=16_000)
    parser.add_argument("--no-decoders", action="store_true", help="leave the decoders alone out")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    items = photo_items(args.photos, args.count)
    figures = list(measure(args.engine, items, with_decoders=not args.no_decoders))
    args.out.write_text(dump_figures(figures), encoding="utf-8")


def photo_items(folder: Path, count: int) -> list[Item]:
    """Return the first `count` JPEGs below a folder as items.

    Raises:
        SystemExit: There are none.
    """
    files = sorted(folder.resolve().rglob("*.jpg"))[:count]
    if not files:
        raise SystemExit(f"no .jpg file below {folder}")
    return [Item(id=path.name, uri=str(path)) for path in files]


def measure(model: str, items: Sequence[Item], *, with_decoders: bool) -> Iterator[Figure]:
    """Measure an engine with its decoders, the engine alone, and the decoders alone if wanted."""
    settings = load_settings(model=model, tower="img")
    with Embedder.from_settings(settings) as embedder:
        name, resolution = embedder.card.engine, embedder.card.input.shape[-1]
        assert resolution is not None, "an image tower has a resolution"
        embedder.embed(items[:_WARM_UP])
        yield Figure(
            measured="embedder alone, without a queue and Parquet",
            engine=name,
            images_s=median_rate(lambda: embedder.embed(items), len(items)),
            details=f"{settings.decoders or cores()} decoders",
        )
        yield Figure(
            measured="engine alone",
            engine=name,
            images_s=engine_rate(embedder.engine),
            details="inputs in memory",
        )
    for ring_mib in (settings.decode_memory_mib, 0) if with_decoders else ():
        yield decoders_alone(items, settings, resolution, ring_mib=ring_mib)


def median_rate(run: Callable[[], object], count: int) -> float:
    """Return the median of the rates at which `run` takes `count` images."""
    rates = []
    for _ in range(_ROUNDS):
        began_s = time.perf_counter()
        run()
        rates.append(count / (time.perf_counter() - began_s))
    return statistics.median(rates)


def engine_rate(engine: Engine) -> float:
    """Return the images a second of an engine whose inputs are in memory."""
    shape = engine.empty_inputs(DISTINCT_ITEMS).shape
    inputs = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    rate = measure_rate(engine, inputs, contexts=1, empty=engine.empty_inputs)
    return rate.items_s


def decoders_alone(
    items: Sequence[Item], settings: Settings, resolution: int, *, ring_mib: int
) -> Figure:
    """Measure decoders whose pictures nobody takes; without a ring they also resize."""
    count = settings.decoders or cores()
    layout = Layout(resolution=resolution, slots=_SLOTS, ring_bytes=(ring_mib << 20) // count)
    with Decoders(
        ImageLimits.from_settings(settings),
        layout,
        count=count,
        attempts=settings.decode_attempts,
        timeout_s=settings.decode_timeout_s,
    ) as decoders:

        def decode(some: Sequence[Item]) -> None:
            for outcome in decoders.run(some):
                if isinstance(outcome, Failure):
                    raise SystemExit(f"{outcome.item.uri}: {outcome.message}")
                outcome.free()

        decode(items[:_WARM_UP])
        return Figure(
            measured="decoders alone" if ring_mib else "decoders alone, which also resize",
            images_s=median_rate(lambda: decode(items), len(items)),
            details=f"{count} decoders",
        )


if __name__ == "__main__":
    main()
