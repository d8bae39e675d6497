"""The runtimes of a model folder that a run compares, and which of them this machine has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipfleet.architectures import TOWERS, Tower
from clipfleet.model_card import card_path
from clipfleet.settings import Settings
from clipfleet.workers.engines.model_folder import FoundEngine, check_both_towers, fitting_engines

PYTORCH = "pytorch"
NAMES: Mapping[str, str] = {  # of the option `--runtime` and of folders, and in the table
    PYTORCH: "PyTorch fp32",
    "onnx-fp32": "ONNX fp32",
    "onnx-fp16": "ONNX fp16",
    "tensorrt-fp32": "TensorRT fp32",
    "tensorrt-fp16": "TensorRT fp16",
}
_ENGINES = {  # that a runtime runs; PyTorch's tensors are those of the float32 ONNX engine
    PYTORCH: ("onnxruntime", "fp32"),
    "onnx-fp32": ("onnxruntime", "fp32"),
    "onnx-fp16": ("onnxruntime", "fp16"),
    "tensorrt-fp32": ("tensorrt", "fp32"),
    "tensorrt-fp16": ("tensorrt", "fp16"),
}
_OPTIONAL = "tensorrt-fp32"  # `prepare` makes none


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """A runtime and the card of each tower's engine, or the reason why it is not run."""

    key: str
    checkpoint_sha256: str
    cards: Mapping[Tower, Path]
    not_run: str = ""

    @property
    def name(self) -> str:
        return NAMES[self.key]


def runtimes_of(folder: Path, settings: Settings) -> Iterator[Runtime]:
    """Yield the runtimes of a model folder, PyTorch first, each with its fastest engines.

    Raises:
        CardError: The folder does not have both towers of one checkpoint.
        GpuLostError: This machine has a GPU that does not work.
    """
    found = check_both_towers(folder)
    for key, which in _ENGINES.items():
        engines = [e for e in found if (e.card.runtime, e.card.precision) == which]
        if engines or key != _OPTIONAL:
            cards, reason = _fastest(engines, settings)
            yield Runtime(
                key=key,
                checkpoint_sha256=found[0].card.checkpoint_sha256,
                cards=cards,
                not_run=reason,
            )


def _fastest(engines: Sequence[FoundEngine], settings: Settings) -> tuple[dict[Tower, Path], str]:
    """Return the card of each tower's engine with the largest batch; or why there is none."""
    cards: dict[Tower, Path] = {}
    for tower in TOWERS:
        usable = [engine for engine in engines if engine.card.tower == tower]
        reason = "the model folder has no such engines"
        if usable and usable[0].is_tensorrt:
            usable, reason = fitting_engines(usable, settings)
        if not usable:
            return {}, reason
        best = max(usable, key=lambda engine: (engine.card.batch_size is None, engine.batch))
        cards[tower] = card_path(best.path)
    return cards, ""
