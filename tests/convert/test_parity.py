from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipfleet.convert.parity import (
    MAX_ITEMS,
    THRESHOLDS,
    measure_parity,
    verify_engine,
    verify_inputs,
)
from clipfleet.errors import SourceError, VerificationError
from clipfleet.model_card import ModelCard, Parity
from clipfleet.workers.engines.base import Engine

Converted = dict[str, tuple[ModelCard, Path]]


class Given(Engine):
    """An engine whose features are given."""

    max_batch = 32

    def __init__(self, card: ModelCard, features: Any) -> None:
        self.card = card
        self.features = features

    def __call__(self, inputs: Any) -> Any:
        return self.features

    def close(self) -> None:
        """Hold nothing."""

    def __enter__(self) -> "Given":
        return self

    def __exit__(self, *error: object) -> None:
        """Hold nothing."""


@pytest.fixture
def reference() -> Any:
    return np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)


def rotated(reference: Any, item: int, cosine: float) -> Any:
    """The features with one item turned away from its reference by a known angle."""
    features = reference.astype(np.float64)
    direction = features[item] / np.linalg.norm(features[item])
    other = np.roll(direction, 1)
    other -= (other @ direction) * direction
    other /= np.linalg.norm(other)
    sine = np.sqrt(1 - cosine**2)
    features[item] = np.linalg.norm(features[item]) * (cosine * direction + sine * other)
    return features.astype(np.float32)


def test_the_thresholds_are_the_promised_ones() -> None:
    assert THRESHOLDS == {"fp32": 0.999999, "fp16": 0.9999}


def test_parity_is_the_worst_items(reference: Any) -> None:
    features = rotated(reference, 2, 0.99)
    parity = measure_parity(features, reference, threshold=0.9, reference_name="r")
    assert parity.items == 6
    assert parity.cosine_min == pytest.approx(0.99, abs=1e-6)
    assert parity.cosine_mean == pytest.approx((5 + 0.99) / 6, abs=1e-6)
    assert parity.max_abs_diff == pytest.approx(np.abs(features - reference).max(), rel=1e-6)
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(6, dtype=bool)]
    assert parity.cosine_between_items == pytest.approx(pairs.mean(), abs=1e-6)


def test_one_item_has_no_cosine_between_items(reference: Any) -> None:
    parity = measure_parity(reference[:1], reference[:1], threshold=0.9, reference_name="r")
    assert parity.cosine_between_items is None


@pytest.mark.parametrize(("precision", "threshold"), sorted(THRESHOLDS.items()))
def test_just_above_the_threshold_passes_and_just_below_fails(
    converted: Converted, reference: Any, precision: str, threshold: float
) -> None:
    card, _ = converted[f"txt.{precision}"]
    near, far = (1 - (1 - threshold) * factor for factor in (0.8, 1.25))
    parity = verify_engine(
        Given(card, rotated(reference, 1, near)), reference, reference, reference_name="torch"
    )
    assert parity.passed
    with pytest.raises(VerificationError) as raised:
        verify_engine(
            Given(card, rotated(reference, 1, far)), reference, reference, reference_name="torch"
        )
    message = str(raised.value)
    assert card.engine in message
    short = {"fp32": "2.5", "fp16": "2.50"}[precision]  # float32 features hold no more digits
    assert f"below {threshold} for {precision} by {short}" in message
    assert "the worst of 6 items" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_fails(
    converted: Converted, reference: Any, value: float
) -> None:
    features = reference.copy()
    features[3, 0] = value
    with pytest.raises(VerificationError, match="NaN or infinity for 1 of 6 items"):
        verify_engine(
            Given(converted["img.fp16"][0], features), reference, reference, reference_name="torch"
        )


def test_features_of_zero_fail(converted: Converted, reference: Any) -> None:
    with pytest.raises(VerificationError, match="strays from torch"):
        verify_engine(
            Given(converted["img.fp16"][0], reference * 0),
            reference,
            reference,
            reference_name="torch",
        )


def test_the_samples_are_small_real_pictures_with_a_licence_note() -> None:
    samples = resources.files("clipfleet.workers.images.samples")
    pictures = sorted(f.name for f in samples.iterdir() if f.name.endswith(".jpg"))
    assert 4 <= len(pictures) <= 8
    licence = (samples / "LICENCE.md").read_text(encoding="utf-8")
    for name in pictures:
        assert f"`{name}`" in licence
        assert len((samples / name).read_bytes()) <= 40_000
    pixels = verify_inputs("img", 32)
    assert pixels.shape == (len(pictures), 3, 32, 32)
    assert pixels.dtype == np.float32
    ids = verify_inputs("txt", 20)
    assert ids.shape == (32, 20)
    assert ids.dtype == np.int64
    assert len({tuple(row) for row in ids.tolist()}) == 32
    assert (ids[:, -1] == 0).any(), "one text is shorter than the context"
    assert (ids[:, -1] == 102).any(), "one text fills it"


def test_own_pictures_and_texts_are_taken(tmp_path: Path) -> None:
    for number in range(MAX_ITEMS + 3):
        Image.new("RGB", (5, 5), (number, 0, 0)).save(tmp_path / f"{number:03}.png")
    (tmp_path / "notes.md").write_text("not a picture")
    texts = tmp_path / "texts.txt"
    texts.write_text("一只猫\n\n  \n两只狗\n", encoding="utf-8")
    pixels = verify_inputs("img", 32, images=tmp_path)
    assert len(pixels) == MAX_ITEMS
    assert len(verify_inputs("img", 32, images=tmp_path / "001.png")) == 1
    assert len(verify_inputs("txt", 52, texts=texts)) == 2


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no pictures to verify with in"),
        (lambda folder: (folder / "a.jpg").write_bytes(b""), r"a\.jpg' is empty"),
    ],
)
def test_pictures_that_are_none_are_an_error(
    tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(SourceError, match=message):
        verify_inputs("img", 32, images=tmp_path)


def test_texts_that_are_none_are_an_error(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    with pytest.raises(SourceError, match=r"cannot read texts to verify with from .*texts\.txt"):
        verify_inputs("txt", 52, texts=texts)
    texts.write_text("\n")
    with pytest.raises(SourceError, match=r"no texts to verify with in .*texts\.txt"):
        verify_inputs("txt", 52, texts=texts)


def test_every_call_size_is_proved_and_the_worst_counts(
    converted: Converted, reference: Any
) -> None:
    sizes: list[int] = []

    class Positional(Given):
        """Right in calls of one, and off for the third item of longer ones."""

        def __call__(self, inputs: Any) -> Any:
            sizes.append(len(inputs))
            return inputs if len(inputs) == 1 else rotated(inputs, 2, 0.99995)

    def verify(name: str) -> Parity:
        engine: Any = Positional(converted[name][0], None)
        return verify_engine(
            engine, reference, reference, reference_name="torch", call_sizes=(1, 4)
        )

    parity = verify("txt.fp16")
    assert sizes == [1] * 6 + [4] * 2
    assert parity.items == 6
    assert parity.cosine_min == pytest.approx(0.99995, abs=1e-6)
    with pytest.raises(VerificationError, match="strays"):
        verify("txt.fp32")


def test_every_place_of_a_call_counts(converted: Converted, reference: Any) -> None:
    class Last(Given):
        """Off in the last place of a call, where an item comes again."""

        def __call__(self, inputs: Any) -> Any:
            return rotated(inputs, len(inputs) - 1, 0.9)

    engine: Any = Last(converted["img.fp16"][0], None)
    with pytest.raises(VerificationError, match=r"the worst of 6 items has cosine 0\.9"):
        verify_engine(engine, reference, reference, reference_name="torch", call_sizes=(8,))


@pytest.mark.parametrize("zero_in", [1, 4])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)], ids=["all", "one"])
def test_features_of_zero_at_any_call_size_fail(
    converted: Converted, reference: Any, zero_in: int, rows: slice
) -> None:
    class Zeros(Given):
        """Right but in calls of one size, of which some features are zero."""

        def __call__(self, inputs: Any) -> Any:
            features = inputs.copy()
            if len(inputs) == zero_in:
                features[rows] = 0
            return features

    engine: Any = Zeros(converted["img.fp16"][0], None)
    with pytest.raises(VerificationError, match="strays"):
        verify_engine(engine, reference, reference, reference_name="torch", call_sizes=(1, 4))
