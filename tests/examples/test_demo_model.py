"""The demo's model: its files fit together, and it finds held-out pictures."""

from __future__ import annotations

import argparse
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipfleet.architectures import TOWERS, Tower, load_architecture
from clipfleet.convert.checkpoints.load import load_checkpoint, save_checkpoint
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.engine_files import sha256_of
from clipfleet.model_card import load_card
from clipfleet.settings import load_settings
from clipfleet.workers.engines.base import Engine
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.images.preprocess import preprocess
from examples.demo import train
from examples.demo.scenes import jpeg, pictures
from examples.demo.yardstick import SEED, make_inputs, recall, runtimes, vectors_of

MODEL = Path(__file__).parents[2] / "examples" / "demo" / "model" / "demo"
PRECISIONS = ("fp32", "fp16")
HELD_OUT = 500
SAMPLE = 50


def test_the_checkpoint_is_float16_and_small() -> None:
    path = Path(f"{MODEL}.pt")
    checkpoint = load_checkpoint(path, load_architecture("demo"))
    assert path.stat().st_size <= 8_000_000
    assert {weights.dtype for weights in checkpoint.state_dict.values()} == {torch.float16}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tower", TOWERS)
def test_each_engine_was_made_from_the_checkpoint_and_verified(
    tower: Tower, precision: str
) -> None:
    card, engine = load_card(f"{MODEL}.{tower}.{precision}.onnx")
    assert (card.architecture, card.tower, card.precision) == ("demo", tower, precision)
    assert card.checkpoint_sha256 == sha256_of(f"{MODEL}.pt")
    assert card.engine_sha256 == sha256_of(engine)
    assert card.parity is not None
    assert card.parity.passed


def test_nine_captions_in_ten_find_their_picture_first() -> None:
    held_out = make_inputs(pictures(count=HELD_OUT, seed=SEED, split="held-out"))

    def open_engine(tower: Tower) -> Engine:
        return load_engine(f"{MODEL}.{tower}.fp32.onnx", load_settings())

    vectors = vectors_of(held_out, open_engine)
    for language in ("Chinese", "English"):
        assert recall(vectors[language], vectors["images"]).at[0] >= 90.0


def test_every_runtime_gives_the_vectors_of_pytorch() -> None:
    inputs = make_inputs(pictures(count=SAMPLE, seed=SEED))
    first, *others = (vectors_of(inputs, open_engine) for _, open_engine in runtimes(MODEL))
    assert len(others) == len(PRECISIONS)
    for vectors in others:
        for name, expected in first.items():
            assert (vectors[name] * expected).sum(axis=1).min() > 0.9999


def test_recall_counts_the_golds_among_the_first_k() -> None:
    gallery = np.eye(12, dtype=np.float32)
    queries = np.eye(12, dtype=np.float32)
    queries[0] = np.linspace(1, 2, 12)  # its gold is the last of twelve
    queries[1, :4] = (0.9, 0.8, 1.0, 0.95)  # its gold is the fourth
    assert recall(queries, gallery).at == pytest.approx(
        (100 * 10 / 12, 100 * 11 / 12, 100 * 11 / 12)
    )


@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_vectors_without_direction_find_nothing(bad: float) -> None:
    nothing = np.full((20, 4), bad, dtype=np.float32)
    assert recall(nothing, nothing).numbers == (0.0, 0.0, 0.0, 0.0)


def test_training_sees_the_pixels_that_inference_sees() -> None:
    picture = pictures(count=1, seed=1)[0]
    side = load_architecture("demo").resolution
    with Image.open(io.BytesIO(jpeg(picture))) as image:
        expected = preprocess(image, side)
    pixels = torch.from_numpy(train.resized(picture).copy())[None]
    np.testing.assert_allclose(train.normalised(pixels)[0].numpy(), expected, atol=1e-6)


def test_training_lowers_the_loss_and_gives_the_same_checkpoint_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = _trained(tmp_path / "a.pt")
    losses = [
        float(line.split("loss ")[1].split(",")[0]) for line in capsys.readouterr().err.splitlines()
    ]
    assert losses[-1] < losses[0] - 0.1
    assert _trained(tmp_path / "b.pt").read_bytes() == first.read_bytes()


def _trained(path: Path) -> Path:
    arguments = argparse.Namespace(epochs=2, batch=16, learning_rate=1e-3, processes=1)
    make = partial(train.make_data, arguments=arguments, device=torch.device("cpu"))
    data = make("train", 32)
    torch.manual_seed(train.SEED)
    model = ChineseClip(load_architecture("demo"))
    train.coarsen_words(model)
    train.train(model, data, data, arguments)
    save_checkpoint(model, path, half=True)
    return path
