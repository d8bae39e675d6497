"""Measure an engine alone, and with its decoders or tokeniser, without a queue and Parquet.

python -m bench.gpu.pipeline.alone ENGINE 500x375=photos.jsonl --out figures.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bench.gpu.named import named
from bench.gpu.pipeline.figures import Figure, add_figure
from bench.gpu.pipeline.rates import ROUNDS, items_of, median_rate
from bench.gpu.timing.rates import DISTINCT_ITEMS, measure_rate
from clipfleet.settings import load_settings
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Engine
from clipfleet.workers.open_decoders import decoder_count
from clipfleet.workers.text.tokenizer import Tokenizer

_WARM_UP = 1000  # items
_HIGHEST_ID = 20_000  # of a token, below the vocabulary's 21,128 entries


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("sources", nargs="+", type=named, metavar="NAME=FILE")
    parser.add_argument("--count", type=int, default=16_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    for figure in measure(args.engine, args.sources, args.count):
        add_figure(figure, args.out)


def measure(model: str, sources: Sequence[tuple[str, Path]], count: int) -> Iterator[Figure]:
    """Yield the engine alone; and for each source the embedder, and the tokeniser of texts."""
    with Embedder.from_settings(load_settings(model=model)) as embedder:
        engine, card = embedder.engine, embedder.card
        yield Figure(
            kind="engine",
            engine=card.engine,
            items_s=engine_rate(engine),
            details="inputs in memory",
        )
        for name, path in sources:
            items = items_of(path, card.tower, count)
            embedder.embed(items[:_WARM_UP])
            yield Figure(
                kind="embedder",
                inputs=name,
                engine=card.engine,
                items_s=median_rate(partial(embedder.embed, items), len(items)),
                details=f"{decoder_count(embedder.settings)} decoders"
                if card.tower == "img"
                else "",
            )
            if card.tower == "txt":
                texts = [item.text or "" for item in items]
                yield tokeniser_alone(name, texts, card.input.shape[-1] or 0)


def engine_rate(engine: Engine) -> float:
    """Return the items a second of an engine whose inputs are in memory."""
    empty = engine.empty_inputs(DISTINCT_ITEMS)
    chance = np.random.default_rng(0)
    inputs = (
        chance.standard_normal(empty.shape, dtype=np.float32)
        if engine.card.tower == "img"
        else chance.integers(1, _HIGHEST_ID, empty.shape).astype(empty.dtype)
    )
    return measure_rate(engine, inputs, contexts=1, empty=engine.empty_inputs).items_s


def tokeniser_alone(name: str, texts: Sequence[str], length: int) -> Figure:
    """Measure new tokenisers, whose caches are empty, on texts."""
    tokenizers = [Tokenizer() for _ in range(ROUNDS)]

    def run() -> None:
        tokenizers.pop().encode_counted(texts, length)

    return Figure(kind="tokeniser", inputs=name, items_s=median_rate(run, len(texts)))


if __name__ == "__main__":
    main()
