"""Verify a TensorRT engine without a card, such as a downloaded one, and write its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clipfleet.convert.tensorrt.card import engine_card
from clipfleet.convert.tensorrt.parity_gate import (
    check_is_reference,
    compute_reference,
    verify_tensorrt_engine,
)
from clipfleet.convert.tensorrt.requests import ENGINE_SUFFIX
from clipfleet.errors import UsageError
from clipfleet.model_card import ModelCard, Precision, card_path, load_card, write_card

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def adopt_engine(
    engine: str | Path,
    *,
    reference: str | Path | None = None,
    precision: Precision | None = None,
    verify_images: Path | None = None,
    verify_texts: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[ModelCard, Path]:
    """Verify an engine on this machine's GPU, write its card, and return it with its path.

    An engine is code that runs when it is loaded: adopt it only from a source you trust.

    `reference` is the float32 ONNX file of the same model (default: the file of the same name
    beside the engine). Its card gives the architecture, the checkpoint and the logit scale. An
    older card is replaced. `precision` (default: from the file name) decides the threshold.

    Raises:
        CardError: The reference has no card.
        EngineError: The engine does not load or run, or its tensors are not the reference's.
        UsageError: There is no engine, no reference, or the precision is unknown.
        VerificationError: The engine strays too far; no card is written.
    """
    engine = Path(engine).absolute()
    if not engine.is_file():
        raise UsageError(f"no engine at {engine}")
    precision = precision or _precision(engine)
    expected_card, onnx = load_card(reference or _reference(engine, precision))
    check_is_reference(expected_card, onnx)
    progress = progress or _silent
    progress(f"reading {engine.name}")
    card = engine_card(expected_card, engine, precision=precision)
    progress(f"computing float32 features with {onnx.name}")
    expected = compute_reference(expected_card, onnx, images=verify_images, texts=verify_texts)
    progress(f"verifying {engine.name}")
    card = replace(card, parity=verify_tensorrt_engine(card, engine, expected))
    write_card(card, card_path(engine))
    return card, card_path(engine)


def _silent(_: str) -> None:
    """Report no progress."""


def _precision(engine: Path) -> Precision:
    for precision in _PRECISIONS:
        if f".{precision}." in engine.name:
            return precision
    raise UsageError(f"{engine.name} does not say its precision: give --precision fp16 or fp32")


def _reference(engine: Path, precision: Precision) -> Path:
    name = engine.name.removesuffix(ENGINE_SUFFIX).removesuffix(f".{precision}")
    path = engine.with_name(f"{name}.fp32.onnx")
    if not path.is_file():
        raise UsageError(
            f"no float32 ONNX at {path} to compare {engine.name} with: name one with --reference "
            "(`clipfleet convert` writes it from the same checkpoint)"
        )
    return path
