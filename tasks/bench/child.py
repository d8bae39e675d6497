"""The stages of a worker's child, measured in this process: inputs, engine, both, and parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from clipfleet.errors import UsageError
from clipfleet.items import Item
from clipfleet.settings import cores
from clipfleet.storage.format.results import Failure
from clipfleet.tasks.bench.dataset import write_parts
from clipfleet.tasks.bench.engine import embed_here, engine_alone, is_on_gpu, tokenise
from clipfleet.tasks.bench.images import copy_and_resize, decode, inputs_of
from clipfleet.tasks.bench.stage import Setup, Stage
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Array, picture_engine
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.open_decoders import decoder_count, open_decoders

_SAMPLE_ITEMS = 64  # whose inputs the engine gets over and over
_GPU_ITEMS = 32  # pictures that are copied at once
_CALLS = 4  # of the embedder in its time, at least

Say = Callable[[str], None]


def setup_of(embedder: Embedder, items: Sequence[Item], engine_processes: int) -> Setup:
    """Return what is measured, with the number of a worker's engine processes."""
    engine, settings = embedder.engine, embedder.settings
    jpegs = sum((item.uri or "").lower().endswith((".jpg", ".jpeg")) for item in items)
    return Setup(
        tower=engine.card.tower,
        runtime=engine.card.runtime,
        batch_size=engine.card.batch_size,
        is_on_gpu=is_on_gpu(engine),
        takes_pictures=picture_engine(engine) is not None,
        cores=cores(),
        decoders=decoder_count(settings),
        engine_processes=engine_processes,
        shard_size=settings.items_in_shard(engine.card.runtime),
        jpeg_share=jpegs / len(items),
    )


def measure_child(
    embedder: Embedder,
    items: Sequence[Item],
    folder: Path,
    stage_s: float,
    *,
    failures: dict[str, Failure],
    say: Say,
) -> list[Stage]:
    """Measure the stages for `stage_s` seconds each; parts go to a new dataset at `folder`.

    The items that cannot be embedded are added to `failures`, by their ids.

    Raises:
        UsageError: No item can be embedded.
        EngineError: The engine failed.
    """
    if embedder.card.tower == "img":
        stages, inputs = _pictures(embedder, items, stage_s, failures, say)
    else:
        say("tokenising")
        tokenised, inputs = tokenise(embedder, items, stage_s, failures)
        stages = [tokenised]
    if not len(inputs):
        raise _nothing_to_embed(failures)
    say("the engine")
    stages.append(engine_alone(embedder.engine, inputs[:_SAMPLE_ITEMS], stage_s))
    say("embedding in one process")
    shard_size = embedder.settings.items_in_shard(embedder.card.runtime)
    slowest = min(stage.items_s for stage in stages)
    call_items = max(1, min(shard_size, int(slowest * stage_s / _CALLS)))
    stages.append(embed_here(embedder, items, stage_s, call_items))
    say("writing")
    stages.append(write_parts(folder, items, stage_s, embedder, shard_size=shard_size))
    return stages


def _pictures(
    embedder: Embedder,
    items: Sequence[Item],
    stage_s: float,
    failures: dict[str, Failure],
    say: Say,
) -> tuple[list[Stage], Array]:
    """Decode, copy and resize; return the stages, and the engine's inputs of some pictures."""
    engine, settings = picture_engine(embedder.engine), embedder.settings
    count = decoder_count(settings)
    opened = partial(open_decoders, settings, embedder.engine, chunk=embedder.chunk)
    measured = partial(decode, items=items, budget_s=stage_s, count=count, failures=failures)
    say("decoding")
    with opened(has_ring=True, pin=engine.pin if engine else None) as decoders:
        stages = [measured("decode", decoders)]
        good = [item for item in items if item.id not in failures][:_SAMPLE_ITEMS]
        if engine and good:
            say("the copy to the GPU, and the resize there")
            stages += _on_gpu(embedder, decoders, good, stage_s)
    with opened(has_ring=False) as decoders:
        stages.append(measured("decode_resize", decoders))
        return stages, inputs_of(decoders, good)


def _on_gpu(
    embedder: Embedder, decoders: Decoders, items: Sequence[Item], stage_s: float
) -> tuple[Stage, Stage]:
    """Copy a batch of pictures to the GPU, and resize it there."""
    pictures = [found for found in decoders.run(items[:_GPU_ITEMS]) if isinstance(found, Picture)]
    copied, resized = copy_and_resize(pictures, embedder.card.input.shape[-1] or 0, stage_s / 2)
    for picture in pictures:
        picture.free()
    return copied, resized


def _nothing_to_embed(failures: dict[str, Failure]) -> UsageError:
    first = next(iter(failures.values()))
    return UsageError(
        f"no item can be embedded; the first, {first.item.id!r}: {first.message} ({first.error})"
    )
