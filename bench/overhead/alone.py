"""Measure one part of the work alone in this process, as a worker's child runs it.

    python -m bench.overhead.alone inputs SOURCE MODEL

`inputs` makes the engine's inputs (decoders that also resize, or the tokeniser), `engine` computes
from inputs in memory, and `embedder` does both, without a queue and Parquet. Prints JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import psutil
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from bench.gpu.pipeline.decoders import decoders_of, take_all
from clipfleet.items import Item
from clipfleet.model_card import ModelCard, load_card
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.text.tokenizer import Tokenizer

_CHUNK = 32  # items of a call, as in an embedder
_WARM_UP = 256  # items

Run = Callable[[Sequence[Item]], object]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Items a second, and CPU seconds an item of this process and its children."""

    items_s: float
    cpu_s: float


RATE = TypeAdapter(Rate)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("inputs", "engine", "embedder"))
    parser.add_argument("source")
    parser.add_argument("model")
    args = parser.parse_args(arguments)
    card, _ = load_card(args.model)
    settings = load_settings(model=args.model, tower=card.tower)
    items = list(open_source(args.source, tower=card.tower))
    if args.part == "embedder":
        with Embedder.from_settings(settings) as embedder:
            found = measured(embedder.embed, items)
    elif args.part == "engine":
        found = engine_alone(items, settings, card)
    elif card.tower == "img":
        with decoders_of(settings, card.input.shape[-1] or 0, has_ring=False) as decoders:
            found = measured(lambda some: take_all(decoders, some), items)
    else:
        found = tokeniser_alone(items, card)
    print(RATE.dump_json(found).decode())


def measured(run: Run, items: Sequence[Item]) -> Rate:
    """Return the rate at which `run` takes items, after a few to warm up."""
    run(items[:_WARM_UP])
    began_s, cpu_s = time.perf_counter(), _cpu_s()
    run(items)
    seconds, cpu_s = time.perf_counter() - began_s, _cpu_s() - cpu_s
    return Rate(items_s=len(items) / seconds, cpu_s=cpu_s / len(items))


def engine_alone(items: Sequence[Item], settings: Settings, card: ModelCard) -> Rate:
    """Measure the engine on as many random inputs as there are items."""
    with load_engine(str(settings.model), settings) as engine:
        inputs = engine.empty_inputs(_CHUNK)
        chance = np.random.default_rng(0)
        if card.tower == "img":
            inputs[:] = chance.standard_normal(inputs.shape, dtype=np.float32)
        else:
            inputs[:] = chance.integers(1, 20_000, inputs.shape)

        def run(some: Sequence[Item]) -> None:
            for chunk in _chunks(some):
                engine(inputs[: len(chunk)])

        return measured(run, items)


def tokeniser_alone(items: Sequence[Item], card: ModelCard) -> Rate:
    """Measure the tokeniser in one thread."""
    tokenizer, length = Tokenizer(), card.input.shape[-1]
    assert length is not None, "a text tower has a context length"

    def run(some: Sequence[Item]) -> None:
        for chunk in _chunks(some):
            tokenizer.encode_counted([item.text or "" for item in chunk], length)

    return measured(run, items)


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _cpu_s() -> float:
    """Return the CPU seconds of this process and its living children."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


if __name__ == "__main__":
    main()
