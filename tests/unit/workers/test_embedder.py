"""The embedder: each item becomes a vector or a failure, in order, after any error."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.error_codes import DECODE_FAILED
from clipfleet.errors import CardError, EngineError, SettingsError
from clipfleet.items import Item
from clipfleet.model_card import load_card
from clipfleet.settings import Settings
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.workers import open_decoders
from clipfleet.workers.embedder import Embedder, embed_chunks
from clipfleet.workers.engines.base import Array, l2_normalise
from clipfleet.workers.engines.fake import FakeEngine, fake_card, write_fake_engine
from clipfleet.workers.images import decoders
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.rules import Remark
from clipfleet.workers.input_chunks import image_chunks
from clipfleet.workers.text.tokenizer import Tokenizer

CHUNK = 32  # items


@pytest.fixture
def texts() -> Embedder:
    return Embedder(FakeEngine(fake_card("txt", dim=8)), Settings())


def assert_complete(embedded: Embedded, items: Sequence[Item]) -> None:
    """Every item once, both lists in order, and as many vectors of norm 1 as items."""
    positions = {item.id: number for number, item in enumerate(items)}
    kept = [positions[item.id] for item in embedded.items]
    failed = [positions[failure.item.id] for failure in embedded.failures]
    assert kept == sorted(kept)
    assert failed == sorted(failed)
    assert sorted(kept + failed) == list(range(len(items)))
    assert embedded.vectors.shape == (len(kept), 8)
    assert embedded.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded.vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 32, 33, 200])
def test_texts_become_the_vectors_of_their_ids(texts: Embedder, count: int) -> None:
    items = [Item(id=f"t{i}", text=f"第{i}只猫") for i in range(count)]
    embedded = texts.embed(items)
    assert_complete(embedded, items)
    ids = Tokenizer().encode([item.text or "" for item in items], 52)
    np.testing.assert_array_equal(embedded.vectors, l2_normalise(texts.engine(ids)))
    assert embedded.sizes is None
    assert embedded.failures == []


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000", "\u200b", "\0", "\u0301"])
def test_a_text_without_a_word_is_a_failure(texts: Embedder, text: str) -> None:
    items = [Item(id="a", text="猫"), Item(id="b", text=text), Item(id="c", text="狗")]
    embedded = texts.embed(items)
    assert_complete(embedded, items)
    (failure,) = embedded.failures
    assert (failure.item.id, failure.error) == ("b", "empty_text")
    assert failure.message == f"the text holds no word: {text!a}"


def test_a_text_whose_only_word_is_unknown_has_a_vector(texts: Embedder) -> None:
    assert texts.embed([Item(id="a", text="\ue000")]).failures == []


class BadEngine(FakeEngine):
    """Gives given features to the items at some positions."""

    def __init__(self, bad: dict[int, float]) -> None:
        super().__init__(fake_card("txt", dim=8))
        self._bad = bad
        self._seen = 0

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        features = super().__call__(inputs)
        for position, value in self._bad.items():
            if self._seen <= position < self._seen + len(inputs):
                features[position - self._seen, :2] = value
                if value == 0:
                    features[position - self._seen] = 0
        self._seen += len(inputs)
        return features


def test_vectors_without_a_direction_are_failures() -> None:
    items = [Item(id=f"t{i}", text="" if i == 3 else f"{i}") for i in range(80)]
    # The engine sees no item 3: from there on its positions are one lower.
    bad = {0: np.nan, 35: np.inf, 78: 0.0}
    with Embedder(BadEngine(bad), Settings()) as embedder:
        embedded = embedder.embed(items)
    assert_complete(embedded, items)
    assert [(f.item.id, f.error, f.message.rpartition(": ")[2]) for f in embedded.failures] == [
        ("t0", "non_finite", "2 of its 8 numbers are NaN or infinite"),
        ("t3", "empty_text", "''"),
        ("t36", "non_finite", "2 of its 8 numbers are NaN or infinite"),
        ("t79", "non_finite", "it is all zeros"),
    ]


def test_an_engine_that_fails_stops_the_run() -> None:
    class FailingEngine(FakeEngine):
        def __call__(self, inputs: Array) -> NDArray[np.float32]:
            raise EngineError("out of memory")

    with (
        Embedder(FailingEngine(fake_card("txt")), Settings()) as embedder,
        pytest.raises(EngineError, match="out of memory"),
    ):
        embedder.embed([Item(id="a", text="a")])


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_fake_engine(tmp_path, "txt", dim=8))


def test_an_embedder_comes_from_settings(model: str) -> None:
    with Embedder.from_settings(Settings(model=model, tower="txt")) as embedder:
        assert embedder.engine.card == load_card(model)[0]
        assert len(embedder.embed([Item(id="a", text="a")]).items) == 1


def test_an_embedder_without_a_model_is_refused() -> None:
    with pytest.raises(SettingsError, match="no model: set CLIPFLEET_MODEL"):
        Embedder.from_settings(Settings())


def test_an_embedder_of_the_other_tower_is_refused(model: str) -> None:
    with pytest.raises(CardError, match="is the txt tower, and this worker is for img"):
        Embedder.from_settings(Settings(model=model, tower="img"))


def test_the_engine_takes_texts_before_the_last_ones_are_tokenised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []

    class Engine(FakeEngine):
        def __call__(self, inputs: Array) -> NDArray[np.float32]:
            steps.append("run")
            return super().__call__(inputs)

    def encode_counted(*given: Any) -> Any:
        steps.append("tokenise")
        return whole(*given)

    whole = Tokenizer.encode_counted
    monkeypatch.setattr(Tokenizer, "encode_counted", encode_counted)
    with Embedder(Engine(fake_card("txt", dim=8)), Settings()) as embedder:
        embedder.embed([Item(id=str(n), text="a") for n in range(3 * CHUNK)])
    assert steps == ["tokenise", "run"] * 3


def test_cut_texts_are_named_and_have_vectors(texts: Embedder) -> None:
    items = [Item(id="short", text="a cat"), Item(id="long", text="cat " * 60)]
    embedded = texts.embed([*items, Item(id="none", text=" ")])
    assert embedded.cut == {"long"}
    assert [item.id for item in embedded.items] == ["short", "long"]


def test_an_image_is_a_failure_for_an_embedder_of_texts(texts: Embedder) -> None:
    image, text = Item(id="i", uri="/a.png"), Item(id="t", text="猫")
    (failure,) = texts.embed([text, image]).failures
    assert failure.item == image
    assert failure.message == "the item has a uri and no text: this worker embeds texts"


class FakePicture:
    """A picture without a decoder, all of one value."""

    def __init__(self, number: int, freed: list[int]) -> None:
        self.number = number
        self.size = (number + 1, 2)
        self.remark = Remark(number % 4)
        self.pixels: NDArray[np.float32] = np.full((3, 4, 4), number, dtype=np.float32)
        self._freed = freed

    def free(self) -> None:
        self.pixels[:] = -1  # the decoder may write the next one
        self._freed.append(self.number)


def outcomes(
    items: Sequence[Item], bad: set[int], freed: list[int]
) -> Generator[decoders.Outcome, None, None]:
    for number, item in enumerate(items):
        if number in bad:
            yield Failure(item=item, error=DECODE_FAILED, message="damaged")
        else:
            yield cast("Picture", FakePicture(number, freed))


@pytest.mark.parametrize("bad", [set(), {0}, {99}, {31, 32, 33}, set(range(32)), set(range(100))])
def test_pictures_become_vectors_in_order_and_are_freed_at_once(bad: set[int]) -> None:
    engine = FakeEngine(fake_card("img", dim=8, resolution=4))
    items = [Item(id=str(i), uri="/x") for i in range(100)]
    freed: list[int] = []
    chunks = image_chunks(items, engine, size=CHUNK, pictures=outcomes(items, bad, freed))
    embedded = embed_chunks(items, engine, chunks)
    assert_complete(embedded, items)
    good = [number for number in range(100) if number not in bad]
    assert freed == good
    assert [failure.item for failure in embedded.failures] == [items[i] for i in sorted(bad)]
    assert embedded.sizes == [(number + 1, 2) for number in good]
    assert embedded.transparent == {str(number) for number in good if number % 2}
    assert embedded.without_end == {str(number) for number in good if number % 4 >= 2}
    pixels = np.stack([np.full((3, 4, 4), n, np.float32) for n in good]) if good else None
    if pixels is not None:
        np.testing.assert_array_equal(embedded.vectors, l2_normalise(engine(pixels)))


def test_one_chunk_of_pixels_is_held_at_a_time_and_progress_counts_every_item() -> None:
    alive: set[int] = set()
    others: list[int] = []  # chunks that are held when the next one's memory is taken

    class CountingEngine(FakeEngine):
        def empty_inputs(self, count: int) -> Array:
            others.append(len(alive))
            rows = super().empty_inputs(count)
            alive.add(id(rows))
            weakref.finalize(rows, alive.discard, id(rows))
            return rows

    engine = CountingEngine(fake_card("img", dim=8, resolution=4))
    items = [Item(id=str(i), uri="/x") for i in range(5 * CHUNK)]
    reported: list[int] = []
    embed_chunks(
        items,
        engine,
        image_chunks(items, engine, size=CHUNK, pictures=outcomes(items, {3}, [])),
        progress=reported.append,
    )
    assert others == [0] * 5
    assert sum(reported) == len(items)


def test_an_engine_that_fails_ends_the_decoding() -> None:
    class FailingEngine(FakeEngine):
        def __call__(self, inputs: Array) -> NDArray[np.float32]:
            raise EngineError("out of memory")

    engine = FailingEngine(fake_card("img", dim=8, resolution=4))
    items = [Item(id=str(i), uri="/x") for i in range(5 * CHUNK)]
    pictures = outcomes(items, set(), [])
    with pytest.raises(EngineError, match="out of memory"):
        embed_chunks(items, engine, image_chunks(items, engine, size=CHUNK, pictures=pictures))
    assert next(pictures, None) is None


@pytest.mark.parametrize(("deadline_s", "expected_s"), [(1800, 60.0), (30, 15.0)])
def test_a_picture_may_hold_its_decoder_for_less_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch, deadline_s: int, expected_s: float
) -> None:
    """Else the deadline would end the process before the picture is found, for ever."""
    given: list[dict[str, Any]] = []

    class NoDecoders:
        def __init__(self, *_: object, **options: Any) -> None:
            given.append(options)

        def close(self) -> None:
            """End nothing."""

    monkeypatch.setattr(open_decoders, "Decoders", NoDecoders)
    settings = Settings(shard_deadline_s=deadline_s, decoders=3)
    with Embedder(FakeEngine(fake_card("img", dim=8, resolution=16)), settings):
        assert [(one["timeout_s"], one["count"]) for one in given] == [(expected_s, 3)]
