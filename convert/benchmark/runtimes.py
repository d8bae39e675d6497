"""One tower in each runtime, ready to be timed; a runtime's package is imported when it is used.

Every engine takes a host array and returns host features, so a call ends when the device is
done and its result is copied back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipfleet.architectures import Architecture, Tower
from clipfleet.errors import DependencyError, UsageError
from clipfleet.model_card import ModelCard, Precision, TensorSpec, load_card
from clipfleet.workers.engines.base import Engine
from clipfleet.workers.engines.onnx import OnnxEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from clipfleet.convert.model.chinese_clip import ChineseClip
    from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The tower to time, and the number of items a call."""

    architecture: Architecture
    tower: Tower
    batch_size: int
    context_length: int


def pytorch_model(target: Target, checkpoint: Path, precision: Precision) -> ChineseClip:
    """Return the target's tower with a checkpoint's weights, on the CPU.

    Raises:
        DependencyError: torch is not installed.
        CheckpointError: The checkpoint does not hold the architecture's weights.
    """
    try:
        from clipfleet.convert.checkpoints.load import build_model, load_checkpoint
        from clipfleet.convert.model.chinese_clip import halve
    except ImportError as error:
        raise DependencyError(
            f"timing PyTorch needs torch ({error}): from a checkout, pip install '.[convert]'; "
            "or leave --pytorch-ckpt out"
        ) from error
    model = build_model(load_checkpoint(checkpoint, target.architecture), target.architecture)
    if target.tower == "img":
        del model.bert  # memory that the timed tower does not need
    else:
        del model.visual
    return halve(model) if precision == "fp16" else model


def pytorch_engine(
    target: Target, checkpoint: Path, precision: Precision, device: Device
) -> Engine:
    """Return the target in PyTorch, eagerly run.

    Raises:
        DependencyError: torch is not installed.
        CheckpointError: The checkpoint does not hold the architecture's weights.
        UsageError: The device is cuda, and torch finds none.
    """
    return eager_engine(pytorch_model(target, checkpoint, precision), target, precision, device)


def eager_engine(
    model: ChineseClip, target: Target, precision: Precision, device: Device
) -> Engine:
    """Return the target's tower of a loaded model as an engine; the model moves to the device.

    Raises:
        UsageError: The device is cuda, and torch finds none.
    """
    import torch

    from clipfleet.workers.engines.torch import TorchEngine

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"device is cuda, and torch {torch.__version__} finds no GPU: take --device cpu"
        )
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    model.to(place)
    card = torch_card(target, precision)
    return TorchEngine(encoder(model, target.tower), card, place, max_batch=target.batch_size)


def encoder(model: ChineseClip, tower: Tower) -> Callable[[Tensor], Tensor]:
    """Return the function of a model's tower."""
    return model.encode_image if tower == "img" else model.encode_text


def torch_card(target: Target, precision: Precision) -> ModelCard:
    """Return a card that describes only the input and output of a PyTorch tower."""
    side = target.architecture.resolution
    name, shape, dtype = (
        ("image", (None, 3, side, side), "float32")
        if target.tower == "img"
        else ("text", (None, target.context_length), "int64")
    )
    return ModelCard(
        architecture=target.architecture.name,
        tower=target.tower,
        runtime="torch",
        precision=precision,
        engine="PyTorch",
        engine_sha256="",
        input=TensorSpec(name=name, shape=shape, dtype=dtype),
        output=TensorSpec(
            name=f"unnorm_{name}_features",
            shape=(None, target.architecture.dim),
            dtype="float32",
        ),
        logit_scale=0.0,
        checkpoint_sha256="",
        runtime_version="",
    )


def onnx_engine(target: Target, path: Path, device: Device) -> Engine:
    """Return the target's ONNX engine.

    Raises:
        DependencyError: onnxruntime is not installed.
        CardError, EngineError: The engine or its card is missing or wrong.
        UsageError: It is another model's, tower's or batch size's engine.
    """
    card, engine_path = load_card(path)
    check_is(card, target, path, runtime="onnxruntime")
    return OnnxEngine(card, engine_path, provider=device, max_batch=target.batch_size)


def tensorrt_engine(
    target: Target,
    path: Path,
    *,
    contexts: int = 1,
    cuda_graphs: bool = True,
    allow_unverified: bool = False,
) -> TensorRTEngine:
    """Return the target's TensorRT engine; `contexts` 0 means as many as are found best.

    Raises:
        DependencyError: TensorRT or cuda-bindings is not installed.
        CardError, EngineError: The engine or its card is missing or wrong, or nothing
            shows that the engine was verified on this GPU.
        UsageError: It is another model's, tower's or batch size's engine.
    """
    card, engine_path = load_card(path)
    check_is(card, target, path, runtime="tensorrt")
    try:
        from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine
    except ImportError as error:
        raise DependencyError(
            f"timing {path} needs TensorRT and cuda-bindings ({error}): from a checkout, "
            "pip install '.[gpu]'"
        ) from error
    return TensorRTEngine(
        card,
        engine_path,
        contexts=contexts,
        cuda_graphs=cuda_graphs,
        allow_unverified=allow_unverified,
    )


def check_is(card: ModelCard, target: Target, path: Path, *, runtime: str) -> None:
    """Check that a card is of the target.

    Raises:
        UsageError: It is another runtime's, model's, tower's or batch size's.
    """
    expected = (runtime, target.architecture.name, target.tower)
    found = (card.runtime, card.architecture, card.tower)
    if found != expected:
        raise UsageError(
            f"{path} is {' '.join(found)} (runtime, architecture, tower): "
            f"expected {' '.join(expected)}"
        )
    largest = card.profile.largest if card.profile else card.batch_size
    if card.batch_size not in (None, target.batch_size):
        raise UsageError(
            f"{path} takes {card.batch_size} items a call, and --batch-size is "
            f"{target.batch_size}: give --batch-size {card.batch_size}, or an engine that was "
            "built for it"
        )
    if largest is not None and target.batch_size > largest:
        raise UsageError(
            f"{path} takes at most {largest} items a call, and --batch-size is {target.batch_size}"
        )
