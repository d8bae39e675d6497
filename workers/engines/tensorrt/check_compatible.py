"""The check that a TensorRT engine may run on a machine, by its card, before it is loaded."""

from __future__ import annotations

from clipfleet.errors import EngineUnverifiedError, EngineVersionError
from clipfleet.model_card import MeasuredOn, ModelCard

_REBUILD = (
    "build it here from its ONNX file (`clipfleet build`, or `clipfleet worker --build-if-missing`)"
)


def check_compatible(
    card: ModelCard, *, gpu: str, runtime_version: str, allow_unverified: bool = False
) -> None:
    """Check that an engine was built and verified on this GPU model and TensorRT version.

    Raises:
        EngineVersionError: The engine was built by another version, or for another GPU.
        EngineUnverifiedError: The card has no passing parity of this file on this GPU and
            version; not raised with `allow_unverified`.
    """
    if card.runtime_version != runtime_version:
        raise EngineVersionError(
            f"{card.engine} was built by TensorRT {card.runtime_version} and this is "
            f"{runtime_version}: {_REBUILD}"
        )
    if card.gpu not in (None, gpu):  # without a GPU in the card, the parity's GPU decides
        raise EngineVersionError(
            f"{card.engine} was built for {card.gpu} and this is {gpu}: {_REBUILD}"
        )
    here = MeasuredOn(engine_sha256=card.engine_sha256, runtime_version=runtime_version, gpu=gpu)
    reason = _unverified_reason(card, here)
    if reason and not allow_unverified:
        raise EngineUnverifiedError(
            f"{card.engine} is not proven to compute what its model computes: {reason}. Prove it "
            f"with `clipfleet adopt {card.engine}`, or {_REBUILD}; --allow-unverified serves it "
            "as it is"
        )


def _unverified_reason(card: ModelCard, here: MeasuredOn) -> str:
    """Return why a card's parity does not verify the engine here; empty if it does."""
    parity = card.parity
    if parity is None:
        return "its card has no parity"
    if not parity.passed:
        return f"its worst item has cosine {parity.cosine_min:.6f}, below {parity.threshold}"
    if parity.measured_on is None:
        return "its card does not say on which GPU its parity was measured"
    if parity.measured_on != here:
        return (
            f"its parity was measured on {parity.measured_on.gpu} with TensorRT "
            f"{parity.measured_on.runtime_version} and engine "
            f"{parity.measured_on.engine_sha256[:12]}"
        )
    return ""
