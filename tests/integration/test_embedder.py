"""The embedder with its decoders: each image becomes a vector or a failure, after any error."""

from __future__ import annotations

import io
import logging
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import clipfleet
from clipfleet.errors import EngineError, StorageError
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.format.results import Embedded
from clipfleet.workers import embedder as embedder_module
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Array, Progress, l2_normalise
from clipfleet.workers.engines.fake import FakeEngine, fake_card, write_fake_engine
from clipfleet.workers.images.decode import read_image
from clipfleet.workers.images.decoder import Decoder, Picture
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.preprocess import preprocess_batch
from tests.faults.pictures import picture_bytes, poisoned_environment, write_pictures
from tests.integration.support import PATIENCE_S
from tests.web import Web, serve_web

COUNT = 100  # more than all decoders are ahead
CHUNK = 32


class Engine(FakeEngine):
    """A fake engine that fails at one call, once, and does something before each."""

    fails_at: int | None = None
    calls = 0
    before: Callable[[], None] | None = None

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        self.calls += 1
        if self.before is not None:
            self.before()
        if self.calls == self.fails_at:
            self.fails_at = None
            raise EngineError("out of memory")
        return super().__call__(inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serve_web(Web({f"/{n}.png": picture_bytes(n) for n in range(8)})) as served:
        yield served


@pytest.fixture(scope="module")
def shared(folder: Path, web: Web) -> Iterator[Embedder]:
    """An embedder of two decoders, which pictures may slow down and hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedder_module, "_MIN_CHUNK", CHUNK)
        for name, value in poisoned_environment(folder).items():
            patch.setenv(name, value)
        settings = Settings(
            decoders=2,
            read_attempts=1,
            url_private_hosts=(f"127.0.0.1:{web.port}",),
            url_schemes=("http",),
        )
        engine = Engine(fake_card("img", dim=8, resolution=16))
        with Embedder(engine, settings) as embedder:
            yield embedder


@pytest.fixture
def engine(shared: Embedder) -> Iterator[Engine]:
    engine = shared.engine
    assert isinstance(engine, Engine)
    engine.calls = 0
    yield engine
    engine.fails_at = engine.before = None


@pytest.fixture(scope="module")
def items(folder: Path) -> list[Item]:
    """Pictures of several sizes."""
    made = []
    for number in range(COUNT):
        path = folder / f"{number}.png"
        size = (20 + number % 5, 10 + number % 7, 3)
        random = np.random.default_rng(number)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(path)
        made.append(Item(id=path.name, uri=str(path)))
    return made


def expected(engine: Engine, items: Sequence[Item]) -> NDArray[np.float32]:
    pixels = preprocess_batch([read_image(item)[0] for item in items], 16)
    return l2_normalise(FakeEngine.__call__(engine, pixels))


def assert_right(embedded: Embedded, engine: Engine, items: Sequence[Item]) -> None:
    assert embedded.failures == []
    assert embedded.items == list(items)
    np.testing.assert_array_equal(embedded.vectors, expected(engine, items))
    assert embedded.sizes == [read_image(item)[1] for item in items]


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, COUNT])
def test_images_become_the_vectors_of_their_pixels(
    shared: Embedder, engine: Engine, items: list[Item], count: int
) -> None:
    assert_right(shared.embed(items[:count]), engine, items[:count])


@pytest.mark.parametrize("bad", [{0}, {COUNT - 1}, {31, 32, 33}, set(range(32)), set(range(COUNT))])
def test_failures_leave_the_others_in_place(
    shared: Embedder, engine: Engine, items: list[Item], folder: Path, bad: set[int]
) -> None:
    empty = folder / "empty.png"
    empty.write_bytes(b"")
    given = [
        Item(id=item.id, uri=str(empty)) if number in bad else item
        for number, item in enumerate(items)
    ]
    embedded = shared.embed(given)
    assert [failure.item for failure in embedded.failures] == [given[i] for i in sorted(bad)]
    assert {failure.error for failure in embedded.failures} == {"empty_file"}
    assert embedded.failures[0].message.endswith("is empty: it has 0 bytes")
    good = [item for number, item in enumerate(items) if number not in bad]
    assert embedded.items == good
    if good:
        np.testing.assert_array_equal(embedded.vectors, expected(engine, good))


def test_a_text_is_a_failure_for_an_embedder_of_images(shared: Embedder, items: list[Item]) -> None:
    text = Item(id="t", text="猫")
    embedded = shared.embed([items[0], text, items[1]])
    assert [failure.item for failure in embedded.failures] == [text]
    assert embedded.failures[0].message == ("item 't' has a text and no uri: no image to embed")
    assert embedded.items == items[:2]


@pytest.mark.parametrize("uri", ["", "/" + "a" * 5000, "a.png", "/a\0", "/\u4e2d\n"])
def test_a_path_of_any_form_is_a_failure(shared: Embedder, items: list[Item], uri: str) -> None:
    odd = Item(id="odd", uri=uri)
    embedded = shared.embed([odd, items[0]])
    assert [(one.item, one.error) for one in embedded.failures] == [(odd, "missing")]
    assert embedded.items == items[:1]


def test_a_file_system_that_does_not_answer_stops_the_run_and_the_next_one_works(
    shared: Embedder, engine: Engine, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = Decoder._parsed
    parsed: list[object] = []

    def fail_at_40(self: Decoder, answer: object) -> object:
        parsed.append(answer)
        return parse(self, ["", "too many open files"] if len(parsed) == 40 else answer)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "_parsed", fail_at_40)
        with pytest.raises(StorageError, match="too many open files"):
            shared.embed(items)
    assert_right(shared.embed(items), engine, items)


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_the_run_after_an_engines_error_is_right(
    shared: Embedder, engine: Engine, items: list[Item], fails_at: int
) -> None:
    engine.fails_at = fails_at
    with pytest.raises(EngineError, match="out of memory"):
        shared.embed(items[::-1])
    assert_right(shared.embed(items), engine, items)


def test_urls_and_files_become_vectors_and_the_prefetcher_has_the_urls_only(
    shared: Embedder,
    engine: Engine,
    items: list[Item],
    web: Web,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[list[str]] = []
    begin = shared._urls.begin

    def counted(urls: Sequence[str]) -> None:
        begun.append(list(urls))
        begin(urls)

    monkeypatch.setattr(shared._urls, "begin", counted)
    shared.embed(items[:1])
    assert begun == []
    remote = [Item(id=f"u{n}", uri=web.url(f"/{n}.png")) for n in range(8)]
    lost = Item(id="lost", uri=web.url("/nothing.png"))
    mixed = [*items[:3], *remote[:4], lost, *items[3:6], *remote[4:]]
    embedded = shared.embed(mixed)
    assert [(failure.item, failure.error) for failure in embedded.failures] == [(lost, "missing")]
    assert embedded.items == [item for item in mixed if item != lost]
    (folder / "remote").mkdir()
    files = []
    for n, item in enumerate(remote):
        (folder / "remote" / item.id).write_bytes(picture_bytes(n))
        files.append(Item(id=item.id, uri=str(folder / "remote" / item.id)))
    same = [*items[:3], *files[:4], *items[3:6], *files[4:]]
    np.testing.assert_array_equal(embedded.vectors, expected(engine, same))
    for _ in range(2):
        shared.embed(items[:1])
    urls = [item.uri for item in mixed if item.uri and item.uri.startswith("http")]
    assert begun == [urls, []]  # the second drops the rest of the first
    assert max(web.counts.values()) == 1


def test_the_next_images_are_decoded_while_the_engine_runs(
    shared: Embedder, engine: Engine, items: list[Item]
) -> None:
    """The engine waits for an answer that comes meanwhile: without overlap, for ever."""
    seen: list[object] = []

    def wait() -> None:
        decoders = shared._source
        assert isinstance(decoders, Decoders)
        if engine.calls == 1:
            sockets = [decoder.socket for decoder in decoders._decoders]
            seen.extend(select.select(sockets, [], [], PATIENCE_S)[0])

    engine.before = wait
    assert_right(shared.embed(items), engine, items)
    assert seen


def test_progress_is_reported_while_slow_pictures_are_waited_for(
    shared: Embedder, engine: Engine, folder: Path
) -> None:
    """Else a shard of slow images would be ended by its deadline, again and again."""
    slow = write_pictures(folder / "slow", 6, dict.fromkeys(range(6), "SLOW"))
    reported: list[int] = []
    embedded = shared.embed(slow, progress=reported.append)
    assert embedded.items == slow
    assert engine.calls == 1
    assert 0 in reported  # nothing got done, and the decoders live
    assert sum(reported) == len(slow)


def test_decoders_stay_from_run_to_run_and_end_with_their_embedder(items: list[Item]) -> None:
    with Embedder(
        FakeEngine(fake_card("img", dim=8, resolution=16)), Settings(decoders=1)
    ) as embedder:
        assert isinstance(embedder._source, Decoders)
        (decoder,) = embedder._source._decoders
        for count in (1, CHUNK, CHUNK + 1):
            assert len(embedder.embed(items[:count]).items) == count
        assert embedder._source._decoders == [decoder]
        assert decoder._process.poll() is None
    assert decoder._process.returncode is not None


def test_a_loaded_model_has_the_vectors_of_a_worker(tmp_path: Path, items: list[Item]) -> None:
    card = str(write_fake_engine(tmp_path, "img"))
    settings = Settings(model=card, decoders=1)
    with Embedder.from_settings(settings) as embedder:
        expected = embedder.embed(items).vectors
    with clipfleet.load_model(card, settings=settings) as model:
        images = [str(item.uri) for item in items]
        np.testing.assert_array_equal(model.encode_images(images), expected)


class JpegEngine(Engine):
    """A fake engine that takes pictures; its GPU decodes JPEG files, apart from some."""

    takes_pictures = decodes_jpegs = True

    def __init__(self) -> None:
        super().__init__(fake_card("img", dim=8, resolution=16))
        self.refused: set[bytes] = set()
        self.files = 0

    def pin(self, address: int, size_bytes: int) -> Callable[[], None]:
        return lambda: None

    def collect_pictures(self) -> None:
        pass

    def run_pictures(
        self,
        pictures: Iterable[Picture],
        features: NDArray[np.float32],
        progress: Progress,
    ) -> list[int]:
        left = []
        for number, picture in enumerate(pictures):
            if not picture.file_bytes:
                image = Image.fromarray(picture.pixels)
            elif (data := picture.file.tobytes()) in self.refused:
                left.append(number)
                image = Image.new("RGB", (1, 1))
            else:
                self.files += 1
                image = Image.open(io.BytesIO(data))
                image.putpixel((0, 0), (0, 0, 0))  # other pixels than the exact ones
            features[number] = self(preprocess_batch([image], 16))[0]
            progress(1)
            picture.free()
        return left


def test_what_the_gpu_does_not_decode_gets_the_exact_vector_or_the_exact_error(
    folder: Path, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    made = {}
    for number in range(12):
        path = folder / f"{number}.jpg"
        random = np.random.default_rng(number)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        made[path] = path.read_bytes()
    damaged = folder / "damaged.jpg"  # its header names a table that it does not have
    content = bytearray(made[path])
    content[content.index(b"\xff\xc0") + 12] = 3
    damaged.write_bytes(content)
    engine = JpegEngine()
    refused = list(made)[2:11:4]
    engine.refused = {made[path] for path in refused} | {damaged.read_bytes()}
    web.pages["/a.jpg"] = made[refused[0]]
    url = Item(id="url", uri=f"http://127.0.0.1:{web.port}/a.jpg")
    missing = Item(id="missing", uri=str(folder / "none.jpg"))
    items = [Item(id=path.name, uri=str(path)) for path in (*made, damaged)]
    items = [url, *items[:3], missing, *items[3:]]
    settings = Settings(
        decoders=1,
        read_attempts=1,
        url_private_hosts=(f"127.0.0.1:{web.port}",),
        url_schemes=("http",),
    )
    with Embedder(engine, settings) as embedder:
        with caplog.at_level(logging.INFO):
            embedded = embedder.embed(items)
        exact = embedder.embed(items, exact=True)
    (record,) = (one for one in caplog.records if "the CPU decodes" in one.msg)
    assert vars(record)["images"] == len(refused) + 2
    assert engine.files == len(made) - len(refused)
    assert embedded.items == exact.items
    assert embedded.sizes == exact.sizes
    assert embedded.failures == exact.failures
    errors = {failure.item.id: failure.error for failure in embedded.failures}
    assert errors == {"missing": "missing", damaged.name: "decode_failed"}
    equal = (embedded.vectors == exact.vectors).all(axis=1)
    same = {item.id for item, is_equal in zip(embedded.items, equal, strict=True) if is_equal}
    assert same == {"url", *(path.name for path in refused)}
