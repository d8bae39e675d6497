"""The embedder: each item becomes a vector or a failure, in order, after any error."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipfleet.errors import CardError, EngineError, SettingsError, StorageError
from clipfleet.items import Item
from clipfleet.model_card import load_card
from clipfleet.settings import Settings
from clipfleet.storage.format.parts import Embedded
from clipfleet.workers import embedder as embedder_module
from clipfleet.workers import input_chunks as inputs_module
from clipfleet.workers.embedder import Embedder, embed_in_chunks
from clipfleet.workers.engines.base import Array, l2_normalise
from clipfleet.workers.engines.fake import FakeEngine, fake_card, write_fake_engine
from clipfleet.workers.images.decode import ImageLimits, read_image
from clipfleet.workers.images.isolated_decoder import IsolatedDecoder
from clipfleet.workers.images.preprocess import preprocess_batch
from clipfleet.workers.input_chunks import CHUNKS_AHEAD, Outcome
from clipfleet.workers.text.tokenizer import Tokenizer

CHUNK = 32  # items


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """More cores would make larger chunks."""
    monkeypatch.setattr(embedder_module, "cores", lambda: 2)


@pytest.fixture
def images(tmp_path: Path) -> Embedder:
    return Embedder(FakeEngine(fake_card("img", dim=8, resolution=16)), Settings(decode_threads=2))


@pytest.fixture
def texts() -> Embedder:
    return Embedder(FakeEngine(fake_card("txt", dim=8)), Settings(decode_threads=2))


def picture(path: Path, seed: int) -> Item:
    size = (10 + seed % 7, 20 + seed % 5)
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return Item(id=path.name, uri=str(path))


def broken(path: Path) -> Item:
    path.write_bytes(b"")
    return Item(id=path.name, uri=str(path))


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


@pytest.mark.parametrize(("deadline_s", "expected_s"), [(1800, 60.0), (30, 15.0)])
def test_a_picture_may_hold_its_decoder_for_less_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch, deadline_s: int, expected_s: float
) -> None:
    """Else the deadline would end the process before the picture is found, for ever."""
    given: list[float] = []

    class Decoder(IsolatedDecoder):
        def __init__(self, limits: ImageLimits, *, timeout_s: float, **rest: Any) -> None:
            given.append(timeout_s)
            super().__init__(limits, timeout_s=timeout_s, **rest)

    monkeypatch.setattr(embedder_module, "IsolatedDecoder", Decoder)
    settings = Settings(shard_deadline_s=deadline_s)
    with Embedder(FakeEngine(fake_card("img", dim=8, resolution=16)), settings) as embedder:
        embedder.embed([], isolated=True)
    assert given == [expected_s]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 200])
def test_images_become_the_vectors_of_their_pixels(
    tmp_path: Path, images: Embedder, count: int
) -> None:
    items = [picture(tmp_path / f"{i}.png", i) for i in range(count)]
    embedded = images.embed(items)
    assert_complete(embedded, items)
    loaded = [read_image(item) for item in items]
    pixels = preprocess_batch([image for image, _ in loaded], 16)
    np.testing.assert_array_equal(embedded.vectors, l2_normalise(images.engine(pixels)))
    assert embedded.sizes == [size for _, size in loaded]


@pytest.mark.parametrize("count", [0, 1, 32, 33, 200])
def test_texts_become_the_vectors_of_their_ids(texts: Embedder, count: int) -> None:
    items = [Item(id=f"t{i}", text=f"第{i}只猫") for i in range(count)]
    embedded = texts.embed(items)
    assert_complete(embedded, items)
    ids = Tokenizer().encode([item.text or "" for item in items], 52)
    np.testing.assert_array_equal(embedded.vectors, l2_normalise(texts.engine(ids)))
    assert embedded.sizes is None
    assert embedded.failures == []


@pytest.mark.parametrize("bad", [{0}, {99}, {31, 32, 33}, set(range(32)), set(range(100))])
def test_failures_leave_the_others_in_place(
    tmp_path: Path, images: Embedder, bad: set[int]
) -> None:
    items = [
        broken(tmp_path / f"{i}.png") if i in bad else picture(tmp_path / f"{i}.png", i)
        for i in range(100)
    ]
    embedded = images.embed(items)
    assert_complete(embedded, items)
    assert [failure.item for failure in embedded.failures] == [items[i] for i in sorted(bad)]
    assert {failure.error for failure in embedded.failures} == {"empty_file"}
    assert embedded.failures[0].message.endswith("is empty: it has 0 bytes")
    good = [item for i, item in enumerate(items) if i not in bad]
    np.testing.assert_array_equal(embedded.vectors, images.embed(good).vectors)
    assert embedded.sizes == images.embed(good).sizes


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


def test_an_item_of_the_other_tower_is_a_failure(
    tmp_path: Path, images: Embedder, texts: Embedder
) -> None:
    image, text = picture(tmp_path / "a.png", 0), Item(id="t", text="猫")
    assert [f.item for f in images.embed([image, text]).failures] == [text]
    (failure,) = texts.embed([text, image]).failures
    assert failure.item == image
    assert failure.message == "the item has a uri and no text: this worker embeds texts"


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


def test_a_file_system_that_does_not_answer_stops_the_run_and_the_next_one_works(
    tmp_path: Path, images: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [picture(tmp_path / f"{i}.png", i) for i in range(200)]
    read = []

    def fail_at_40(item: Item, limits: object) -> object:
        read.append(item)
        if item.id == "40.png":
            raise StorageError("too many open files")
        return read_image(item)

    with monkeypatch.context() as patch:
        patch.setattr(inputs_module, "read_image", fail_at_40)
        with pytest.raises(StorageError, match="too many open files"):
            images.embed(items)
    assert len(images.embed(items).items) == 200
    assert len(read) <= CHUNK * (CHUNKS_AHEAD + 2)


def test_a_run_without_urls_does_not_use_the_prefetcher(
    tmp_path: Path, images: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(images._urls, "begin", lambda urls: begun.append(list(urls)))
    local, remote = picture(tmp_path / "a.png", 0), Item(id="u", uri="https://a.example/x")
    images.embed([local])
    assert begun == []
    images.embed([local, remote])
    for _ in range(2):
        images.embed([local])
    assert begun == [["https://a.example/x"], []]  # the second drops the rest of the first


def test_an_engine_that_fails_stops_the_run() -> None:
    class FailingEngine(FakeEngine):
        def __call__(self, inputs: Array) -> NDArray[np.float32]:
            raise EngineError("out of memory")

    with (
        Embedder(FailingEngine(fake_card("txt")), Settings()) as embedder,
        pytest.raises(EngineError, match="out of memory"),
    ):
        embedder.embed([Item(id="a", text="a")])


def test_the_next_images_are_decoded_while_the_engine_runs() -> None:
    """An engine that waits for the next chunk's items: without overlap it would wait for ever."""
    begun = threading.Semaphore(0)

    class WaitingEngine(FakeEngine):
        calls = 0

        def __call__(self, inputs: Array) -> NDArray[np.float32]:
            self.calls += 1
            if self.calls == 1:
                for _ in range(2 * CHUNK):  # this chunk's items and the next one's
                    assert begun.acquire(timeout=20)
            return super().__call__(inputs)

    def fill(items: Sequence[Item], rows: Array) -> list[Outcome]:
        rows[:] = 1
        begun.release()
        return [(1, 1)] * len(items)

    engine = WaitingEngine(fake_card("img", dim=8, resolution=4))
    items = [Item(id=str(i), uri="/x") for i in range(3 * CHUNK)]
    with ThreadPoolExecutor(2) as pool:
        embedded = embed_in_chunks(items, engine, size=CHUNK, fill=fill, pool=pool)
    assert len(embedded.items) == len(items)


def test_no_more_than_a_few_chunks_of_pixels_are_held() -> None:
    count = 12
    alive: set[int] = set()
    others: list[int] = []  # chunks that are held when the next one's memory is taken
    begun = threading.Semaphore(0)

    class CountingEngine(FakeEngine):
        calls = 0

        def empty_inputs(self, count: int) -> Array:
            others.append(len(alive))
            rows = super().empty_inputs(count)
            alive.add(id(rows))
            weakref.finalize(rows, alive.discard, id(rows))
            return rows

        def __call__(self, inputs: Array) -> NDArray[np.float32]:
            self.calls += 1
            if self.calls < count:  # the only thread is at the next chunk, done with this one
                for _ in range(CHUNK + (self.calls == 1)):
                    assert begun.acquire(timeout=20)
            return super().__call__(inputs)

    def fill(items: Sequence[Item], rows: Array) -> list[Outcome]:
        begun.release()
        rows[:] = 1
        return [(1, 1)] * len(items)

    engine = CountingEngine(fake_card("img", dim=8, resolution=4))
    items = [Item(id=str(i), uri="/x") for i in range(count * CHUNK)]
    with ThreadPoolExecutor(1) as pool:
        embed_in_chunks(items, engine, size=CHUNK, fill=fill, pool=pool)
    assert len(others) == count
    assert max(others) == CHUNKS_AHEAD


@pytest.fixture
def model(tmp_path: Path) -> Iterator[str]:
    kept = Image.MAX_IMAGE_PIXELS
    yield str(write_fake_engine(tmp_path, "txt", dim=8))
    Image.MAX_IMAGE_PIXELS = kept


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


def test_a_closed_embedder_has_stopped_its_threads(model: str) -> None:
    embedder = Embedder.from_settings(Settings(model=model))
    embedder.embed([Item(id="a", text="a")])
    embedder.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        embedder.embed([Item(id="a", text="a")])


def test_cut_texts_are_named_and_have_vectors(texts: Embedder) -> None:
    items = [Item(id="short", text="a cat"), Item(id="long", text="cat " * 60)]
    embedded = texts.embed([*items, Item(id="none", text=" ")])
    assert embedded.cut == {"long"}
    assert [item.id for item in embedded.items] == ["short", "long"]
