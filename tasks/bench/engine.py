"""The stages of the engine's process: tokenising, the engine alone, and all of them together."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import cycle, islice

from clipfleet.items import Item
from clipfleet.settings import cores
from clipfleet.storage.format.results import Failure
from clipfleet.tasks.bench.images import repeated
from clipfleet.tasks.bench.stage import Count, Stage, Steps, measure
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Array, Engine
from clipfleet.workers.engines.onnx import CPU_PROVIDER, OnnxEngine
from clipfleet.workers.input_chunks import Outcome, text_inputs
from clipfleet.workers.text.tokenizer import Tokenizer

_MAX_INPUT_BYTES = 1 << 30  # in one call
_CALLS = 8  # of the engine in its time, at least, as far as one call has one item


def is_on_gpu(engine: Engine) -> bool:
    """Return whether an engine runs on a GPU."""
    if isinstance(engine, OnnxEngine):
        return engine.provider != CPU_PROVIDER
    return engine.card.runtime == "tensorrt"


def tokenise(
    embedder: Embedder, items: Sequence[Item], budget_s: float, failures: dict[str, Failure]
) -> tuple[Stage, Array]:
    """Tokenise texts over and over; return the stage, and the engine's inputs of some texts.

    The failed items are added to `failures`.
    """
    tokenizer, engine = Tokenizer(), embedder.engine
    some: deque[Array] = deque([engine.empty_inputs(0)], maxlen=1)

    def steps() -> Steps:
        outcomes: list[Outcome] = []
        length, size = engine.card.context_length, embedder.chunk
        for ids in text_inputs(
            repeated(items), outcomes, context_length=length, size=size, tokenizer=tokenizer
        ):
            failed = [one for one in outcomes if isinstance(one, Failure)]
            failures.update((failure.item.id, failure) for failure in failed)
            if len(ids):
                some.append(ids)
            yield Count(items=len(outcomes), errors=len(failed))
            outcomes.clear()

    limited_by = "this process, one thread"
    stage = measure(
        "tokenise", steps(), budget_s, limited_by=limited_by, warm_up_items=embedder.chunk
    )
    return stage, some[0].copy()


def engine_alone(engine: Engine, inputs: Array, budget_s: float) -> Stage:
    """Call the engine over and over with inputs (k, …), repeated to many items a call.

    Raises:
        EngineError: The engine failed.
    """
    most = _most_items(engine, inputs[0].nbytes)
    many = engine.empty_inputs(most)
    for start in range(0, most, len(inputs)):
        many[start : start + len(inputs)] = inputs[: most - start]

    def steps() -> Steps:
        while True:
            engine(many[:count])
            yield Count(items=count)

    count = 0  # none: the first call is slow
    engine(many[: engine.card.batch_size or 1])
    seconds = 0.0
    while seconds < budget_s / _CALLS and count < most:
        count = min(2 * count or engine.card.batch_size or 1, most)
        began_s = time.perf_counter()
        engine(many[:count])
        seconds = time.perf_counter() - began_s
    return measure("engine", steps(), budget_s, limited_by=_limit_of(engine))


def _most_items(engine: Engine, item_bytes: int) -> int:
    """Return how many items one call has at most: enough that its end takes little of its time."""
    if not is_on_gpu(engine):
        return max(4 * engine.max_batch, 8 * cores())
    return max(engine.max_batch, min(16 * engine.max_batch, _MAX_INPUT_BYTES // item_bytes))


def _limit_of(engine: Engine) -> str:
    size = engine.card.batch_size
    items = "any number of items" if size is None else "1 item" if size == 1 else f"{size} items"
    where = "the GPU" if is_on_gpu(engine) else f"{cores()} cores"
    return f"{where}, {items} a call"


def embed_here(
    embedder: Embedder, items: Sequence[Item], budget_s: float, call_items: int
) -> Stage:
    """Embed items over and over, `call_items` a call, without queue and dataset.

    Raises:
        EngineError: The engine failed.
    """

    def steps() -> Steps:
        source = cycle(items)
        while True:
            failures = embedder.embed(list(islice(source, call_items))).failures
            yield Count(items=call_items, errors=len(failures))

    return measure("embedder", steps(), budget_s, limited_by="the slower of its stages")
