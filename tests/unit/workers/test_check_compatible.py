"""Which TensorRT engines may serve on a machine, by their cards."""

from dataclasses import replace

import pytest

from clipfleet.errors import EngineUnverifiedError, EngineVersionError
from clipfleet.model_card import MeasuredOn, ModelCard, Parity
from clipfleet.workers.engines.fake import fake_card
from clipfleet.workers.engines.tensorrt.check_compatible import check_compatible

GPU, VERSION = "NVIDIA H100 80GB HBM3", "8.6.0"


def proven() -> ModelCard:
    """The card of an engine that was built and proved on this GPU and version."""
    card = replace(fake_card("img"), runtime="tensorrt", runtime_version=VERSION, gpu=GPU)
    here = MeasuredOn(engine_sha256=card.engine_sha256, runtime_version=VERSION, gpu=GPU)
    parity = Parity(
        reference="ONNX fp32",
        items=8,
        cosine_min=0.99999,
        cosine_mean=0.999995,
        max_abs_diff=0.01,
        threshold=0.9999,
        measured_on=here,
    )
    return replace(card, parity=parity)


def test_a_proven_engine_fits() -> None:
    check_compatible(proven(), gpu=GPU, runtime_version=VERSION)
    check_compatible(replace(proven(), gpu=None), gpu=GPU, runtime_version=VERSION)


@pytest.mark.parametrize("allow_unverified", [False, True])
def test_another_version_or_gpu_is_refused_with_a_remedy(allow_unverified: bool) -> None:
    with pytest.raises(EngineVersionError, match=r"8\.6\.0 and this is 10\.1: build it here"):
        check_compatible(
            proven(), gpu=GPU, runtime_version="10.1", allow_unverified=allow_unverified
        )
    with pytest.raises(EngineVersionError, match=r"H100 80GB HBM3 and this is Tesla T4: build it"):
        check_compatible(
            proven(), gpu="Tesla T4", runtime_version=VERSION, allow_unverified=allow_unverified
        )


def unproven() -> list[tuple[ModelCard, str]]:
    card = proven()
    assert card.parity is not None
    assert card.parity.measured_on is not None
    parity, here = card.parity, card.parity.measured_on
    elsewhere = [replace(here, gpu="Tesla T4"), replace(here, engine_sha256="1" * 64)]
    return [
        (replace(card, parity=None), "its card has no parity"),
        (replace(card, parity=replace(parity, cosine_min=0.91)), "cosine 0.910000, below 0.9999"),
        (replace(card, parity=replace(parity, measured_on=None)), "does not say on which GPU"),
        (replace(card, parity=replace(parity, measured_on=elsewhere[0])), "on Tesla T4"),
        (replace(card, parity=replace(parity, measured_on=elsewhere[1])), "engine 111111111111"),
    ]


@pytest.mark.parametrize(("card", "why"), unproven())
def test_an_unproven_engine_is_refused_unless_that_is_allowed(card: ModelCard, why: str) -> None:
    with pytest.raises(EngineUnverifiedError, match=why):
        check_compatible(card, gpu=GPU, runtime_version=VERSION)
    check_compatible(card, gpu=GPU, runtime_version=VERSION, allow_unverified=True)
