"""Measure the decoders alone: nobody takes their pictures.

    python -m bench.gpu.pipeline.decoders ENGINE 500x375=photos.jsonl --out figures.json

Once they leave pictures in their own size, as for an engine whose GPU resizes, and once they also
resize.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.named import named
from bench.gpu.pipeline.figures import Figure, add_figure
from bench.gpu.pipeline.rates import items_of, median_rate
from clipfleet.items import Item
from clipfleet.model_card import load_card
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.format.results import Failure
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.open_decoders import decoder_count, open_decoders

_CHUNK = 128  # images that an engine takes at once
_WARM_UP = 500  # images
_RESIZED = 4  # times fewer images where decoders also resize, which is slower


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine", help="whose resolution the pictures get")
    parser.add_argument("photos", type=named, metavar="NAME=FILE")
    parser.add_argument("--count", type=int, default=16_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    card, _ = load_card(args.engine)
    settings = load_settings()
    resolution = card.input.shape[-1] or 0
    name, path = args.photos
    items = items_of(path, "img", args.count)
    some = items[: -(-len(items) // _RESIZED)]
    for part, has_ring in ((items, True), (some, False)):
        add_figure(measure(name, part, settings, resolution, has_ring=has_ring), args.out)


def measure(
    inputs: str, items: Sequence[Item], settings: Settings, resolution: int, *, has_ring: bool
) -> Figure:
    """Measure decoders; without a ring they also resize."""
    with decoders_of(settings, resolution, has_ring=has_ring) as decoders:
        take_all(decoders, items[:_WARM_UP])
        return Figure(
            kind="decoders" if has_ring else "decoders-resize",
            inputs=inputs,
            items_s=median_rate(lambda: take_all(decoders, items), len(items)),
            details=f"{decoder_count(settings)} decoders",
        )


def decoders_of(settings: Settings, resolution: int, *, has_ring: bool) -> Decoders:
    """Start a worker's decoders without its engine."""
    engine = FakeEngine(fake_card("img", resolution=resolution))
    return open_decoders(settings, engine, chunk=_CHUNK, has_ring=has_ring)


def take_all(decoders: Decoders, items: Sequence[Item]) -> None:
    """Decode all items, and free each picture at once.

    Raises:
        SystemExit: An image is damaged.
    """
    for outcome in decoders.run(items):
        if isinstance(outcome, Failure):
            raise SystemExit(f"{outcome.item.uri}: {outcome.message}")
        outcome.free()


if __name__ == "__main__":
    main()
