"""From a model card to its engine."""

from __future__ import annotations

from pathlib import Path

from clipfleet.architectures import Tower
from clipfleet.errors import EngineError, UsageError
from clipfleet.model_card import load_card
from clipfleet.settings import Settings
from clipfleet.settings.engines import Decode
from clipfleet.workers.engines.base import Engine
from clipfleet.workers.engines.fake import FakeEngine
from clipfleet.workers.engines.onnx import OnnxEngine


def load_engine(card_path: str | Path, settings: Settings) -> Engine:
    """Return the engine of the card at `card_path` (or beside the engine there), ready to run.

    Raises:
        CardError: The card or its engine is missing, or the card does not fit its schema.
        DependencyError: The runtime's package is not installed.
        EngineError: The engine does not match its card, does not load, or no worker runs its
            runtime.
        UsageError: The engine cannot decode as `settings.decode` says.
    """
    card, engine_path = load_card(card_path)
    check_decode(settings.decode, tower=card.tower, runtime=card.runtime)
    if card.runtime == "onnxruntime":
        return OnnxEngine(
            card,
            engine_path,
            provider=settings.provider,
            threads=settings.engine_threads,
            max_batch=settings.max_batch,
        )
    if card.runtime == "fake":
        return FakeEngine.load(card, engine_path, max_batch=settings.max_batch)
    if card.runtime == "tensorrt":
        # Imported for a TensorRT engine only.
        from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine

        return TensorRTEngine(
            card,
            engine_path,
            contexts=settings.engine_contexts,
            cuda_graphs=settings.cuda_graphs,
            allow_unverified=settings.allow_unverified,
            decode=settings.decode,
        )
    raise EngineError(
        f"no worker runs {card.runtime} engines ({engine_path}): convert the model to ONNX first"
    )


def check_decode(decode: Decode, *, tower: Tower, runtime: str) -> None:
    """Check that an engine of a tower and a runtime can decode as asked.

    Raises:
        UsageError: The GPU is to decode for an engine of texts, or for one without TensorRT.
        DependencyError: The GPU is to decode, and nvImageCodec is not installed.
    """
    if decode == "exact":
        return
    if tower != "img" or runtime != "tensorrt":
        raise UsageError(
            f"--decode gpu is for image engines of TensorRT, and this is a {runtime} engine of the "
            f"{tower} tower: leave it out (CLIPFLEET_DECODE), or name such an engine"
        )
    # Imported for a GPU only.
    from clipfleet.workers.engines.cuda.jpeg_decoder import check_installed

    check_installed()
