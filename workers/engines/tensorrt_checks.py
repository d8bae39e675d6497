"""May this TensorRT engine run here? Its card against this machine, and against the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipfleet.card import MeasuredOn, ModelCard, TensorSpec
from clipfleet.errors import EngineMismatchError, EngineUnverifiedError, EngineVersionError


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an engine is to run."""

    runtime_version: str
    gpu: str


def check_place(card: ModelCard, path: Path, place: Place) -> None:
    """Check that an engine was built by this TensorRT for this GPU model: no other runs it.

    Raises:
        EngineVersionError: It was not.
    """
    gpu = card.gpu or place.gpu  # a card without one leaves it to the parity
    if (card.runtime_version, gpu) == (place.runtime_version, place.gpu):
        return
    onnx = str(path.parent / card.build.onnx) if card.build else "its ONNX file"
    raise EngineVersionError(
        f"{path} was built by TensorRT {card.runtime_version} for {card.gpu or 'an unnamed GPU'}, "
        f"and this is TensorRT {place.runtime_version} on {place.gpu}: build it here with "
        f"`clipfleet build {onnx}`, or start the worker with "
        "`clipfleet worker --build-if-missing`"
    )


def check_parity(card: ModelCard, path: Path, place: Place) -> None:
    """Check that a card proves this very file, on this version and GPU model.

    Raises:
        EngineUnverifiedError: It does not.
    """
    why = _unproven(card, place)
    if why is None:
        return
    raise EngineUnverifiedError(
        f"nothing proves that {path} computes what its model computes with TensorRT "
        f"{place.runtime_version} on {place.gpu}: {why}; verify it with `clipfleet adopt {path}`, "
        "or run it all the same with --allow-unverified"
    )


def _unproven(card: ModelCard, place: Place) -> str | None:
    """Return what is missing, or None where a card proves its engine."""
    parity = card.parity
    if parity is None:
        return "its card has no parity"
    if not parity.passed:
        return f"its worst cosine is {parity.cosine_min:.6f}, below {parity.threshold}"
    here = MeasuredOn(
        engine_sha256=card.engine_sha256, runtime_version=place.runtime_version, gpu=place.gpu
    )
    if parity.measured_on != here:
        return f"its parity was measured with {_named(parity.measured_on, card)}"
    return None


def _named(measured: MeasuredOn | None, card: ModelCard) -> str:
    if measured is None:
        return "no named file, version and GPU"
    file = "this file" if measured.engine_sha256 == card.engine_sha256 else "another file"
    return f"{file}, TensorRT {measured.runtime_version} on {measured.gpu}"


def check_tensor(role: str, found: TensorSpec, said: TensorSpec, path: Path) -> None:
    """Check an engine's input or output against its card's.

    Raises:
        EngineMismatchError: The name, shape or dtype is another.
    """
    if found != said:
        raise EngineMismatchError(
            f"{role} of {path} is {found.name!r}, {found.dtype} {tuple(found.shape)}: its card "
            f"says {said.name!r}, {said.dtype} {tuple(said.shape)}; take the card that was "
            "written with the engine"
        )
