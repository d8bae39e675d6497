"""TensorRT engines that take pictures, on a fake GPU: order, resize, and when each is freed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipfleet.errors import EngineError, GpuLostError
from clipfleet.workers.engines.base import PictureEngine
from clipfleet.workers.engines.cuda import resize
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.resize import PictureBuffer, Resizer
from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.preprocess import preprocess_batch
from tests.unit.workers.fake_tensorrt import (
    State,
    assert_nothing_held,
    expected,
    install,
    plan,
    write_engine,
)

SIDE = 8
DIM = 6
DYNAMIC = plan(shape=(-1, 3, SIDE, SIDE), sizes=(1, 4, 8))
BATCH_4 = plan(shape=(4, 3, SIDE, SIDE))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch)


def engine_of(folder: Path, state: State, data: bytes | None = None, **options: Any) -> Any:
    card, path = write_engine(folder, data, version=state.version)
    return TensorRTEngine(card, path, **options)


def pixels(number: int) -> NDArray[np.uint8]:
    """Return a picture of a size of its own."""
    random = np.random.default_rng(number)
    size = (3 + number * 5 % 40, 4 + number * 7 % 30, 3)
    return random.integers(0, 256, size, dtype=np.uint8)


class FakePicture:
    """A picture whose memory a decoder uses again as soon as it is free."""

    on_gpu = False
    file_bytes = 0

    def __init__(self, number: int, freed: list[int]) -> None:
        self._pixels = pixels(number)
        self.number = number
        self.height, self.width, _ = self._pixels.shape
        self.address = self._pixels.ctypes.data
        self._freed = freed

    def free(self) -> None:
        self._pixels[:] = 255
        self._freed.append(self.number)


def pictures(count: int, freed: list[int]) -> Iterator[Picture]:
    for number in range(count):
        yield cast("Picture", FakePicture(number, freed))


def features_of(numbers: Sequence[int]) -> NDArray[np.float32]:
    images = [Image.fromarray(pixels(number)) for number in numbers]
    made: NDArray[np.float32] = expected(preprocess_batch(images, SIDE))
    return made


def run(engine: PictureEngine, count: int, freed: list[int]) -> NDArray[np.float32]:
    reported: list[int] = []
    made = np.full((count + 3, DIM), 7, np.float32)
    left = engine.run_pictures(pictures(count, freed), made, reported.append)
    assert left == []
    assert (made[count:] == 7).all()
    assert sum(reported) == count
    return made[:count]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 9, 37])
@pytest.mark.parametrize("contexts", [1, 3])
@pytest.mark.parametrize("data", [plan(), BATCH_4, DYNAMIC], ids=["batch 1", "batch 4", "dynamic"])
def test_features_of_pictures_come_in_order_for_any_number(
    machine: State, tmp_path: Path, data: bytes, contexts: int, count: int
) -> None:
    with engine_of(tmp_path, machine, data, contexts=contexts) as engine:
        assert engine.takes_pictures
        assert isinstance(engine, PictureEngine)
        for _ in range(2):
            freed: list[int] = []
            np.testing.assert_array_equal(run(engine, count, freed), features_of(range(count)))
            assert freed == list(range(count))
    assert_nothing_held(machine)


def test_as_many_batches_of_pictures_are_in_flight_as_there_are_contexts(
    machine: State, tmp_path: Path
) -> None:
    with engine_of(tmp_path, machine, BATCH_4, contexts=3) as engine:
        machine.cuda.in_flight_most = 0
        run(engine, 40, [])
    assert machine.cuda.in_flight_most == 3


def test_pictures_are_freed_when_their_batch_is_done_and_not_before(
    machine: State, tmp_path: Path
) -> None:
    freed: list[int] = []

    def decoded(engine: PictureEngine) -> Iterator[Picture]:
        for number, picture in enumerate(pictures(12, freed)):
            if number == 9:  # two batches are in flight, and nothing has waited for them
                engine.collect_pictures()
                assert freed == []
                cuda.synchronize()
                engine.collect_pictures()
                assert freed == list(range(8))
                engine.collect_pictures()
                assert freed == list(range(8))
            yield picture

    made = np.empty((12, DIM), np.float32)
    with engine_of(tmp_path, machine, BATCH_4, contexts=3) as engine:
        assert engine.run_pictures(decoded(engine), made, lambda _: None) == []
    assert freed == list(range(12))
    np.testing.assert_array_equal(made, features_of(range(12)))


def waiting(state: State) -> int:
    """Return how many operations wait in all streams."""
    return sum(len(one.waiting) for one in state.cuda.held.values() if hasattr(one, "waiting"))


@pytest.mark.parametrize("after", [0, 1, 3, 5, 11])
@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaGraphLaunch", "cudaEventRecord"])
def test_an_error_abandons_all_batches_and_the_next_run_is_right(
    machine: State, tmp_path: Path, call: str, after: int
) -> None:
    with engine_of(tmp_path, machine, plan(), contexts=2) as engine:
        freed: list[int] = []
        machine.cuda.fail(call, "cudaErrorInvalidValue", after=after)
        with pytest.raises(EngineError, match=call):
            run(engine, 20, freed)
        assert waiting(machine) == 0  # the GPU reads no picture any more
        assert freed == list(range(len(freed)))
        machine.cuda._failures.clear()
        np.testing.assert_array_equal(run(engine, 9, []), features_of(range(9)))
    assert_nothing_held(machine)


def test_an_error_of_the_decoders_abandons_all_batches(machine: State, tmp_path: Path) -> None:
    def decoded() -> Iterator[Picture]:
        yield from pictures(9, [])
        raise OSError("no process starts")

    with engine_of(tmp_path, machine, BATCH_4, contexts=2) as engine:
        with pytest.raises(OSError, match="no process starts"):
            engine.run_pictures(decoded(), np.empty((12, DIM), np.float32), lambda _: None)
        assert waiting(machine) == 0
        np.testing.assert_array_equal(run(engine, 9, []), features_of(range(9)))


def test_a_lost_gpu_is_told_from_another_error(machine: State, tmp_path: Path) -> None:
    with engine_of(tmp_path, machine, plan(), contexts=2) as engine:
        machine.cuda.lose()
        with pytest.raises(GpuLostError):
            run(engine, 5, [])


def test_too_little_memory_for_a_large_batch_leaves_smaller_ones(
    machine: State, tmp_path: Path
) -> None:
    with engine_of(tmp_path, machine, BATCH_4, contexts=1) as engine:
        run(engine, 4, [])
        large = FakePicture(0, [])
        large._pixels = np.zeros((500, 500, 3), np.uint8)
        large.height, large.width, large.address = 500, 500, large._pixels.ctypes.data
        machine.cuda.limit_bytes = machine.cuda.bytes_held() + 100_000
        with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
            engine.run_pictures([large], np.empty((1, DIM), np.float32), lambda _: None)
        np.testing.assert_array_equal(run(engine, 9, []), features_of(range(9)))
    assert_nothing_held(machine)


def test_an_engine_whose_resize_is_not_pillows_takes_no_pictures(
    machine: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(resize, "is_y_first", lambda width, height, side: height < width)
    with caplog.at_level(logging.WARNING), engine_of(tmp_path, machine, contexts=1) as engine:
        assert not engine.takes_pictures
    assert "the CPU resizes all pictures: the GPU's pixels differ" in caplog.text
    assert_nothing_held(machine)


def test_an_engine_whose_driver_refuses_the_kernels_takes_no_pictures(
    machine: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.driver.refuses_ptx = True
    with caplog.at_level(logging.WARNING), engine_of(tmp_path, machine, contexts=1) as engine:
        assert not engine.takes_pictures
    assert "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in caplog.text
    assert_nothing_held(machine)


@pytest.mark.parametrize(
    "data",
    [plan(dtype="HALF"), plan(name="text", shape=(1, 10), dtype="INT32")],
    ids=["float16", "texts"],
)
def test_an_engine_without_float32_pixels_takes_no_pictures(
    machine: State, tmp_path: Path, data: bytes
) -> None:
    with engine_of(tmp_path, machine, data, contexts=1) as engine:
        assert not engine.takes_pictures


def test_what_an_engine_took_is_freed_if_the_gpu_is_lost_at_the_check(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(resolution: int) -> bool:
        raise GpuLostError("gone")

    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.engine.resizes_exactly", lose)
    with pytest.raises(GpuLostError):
        engine_of(tmp_path, machine, contexts=1)
    gc.collect()
    assert_nothing_held(machine)


def test_weights_are_kept_for_some_sizes_only(
    machine: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resize, "_MAX_TABLES", 3)
    resizer = Resizer(SIDE)
    first = resizer.table(10)
    for size in (11, 12, 10, 13):
        resizer.table(size)
    assert resizer.table(10) is first
    assert set(resizer._tables) == {10, 12, 13}
    resizer.close()
    assert_nothing_held(machine)


def test_pictures_of_many_sizes_equal_pillows_in_one_batch(machine: State) -> None:
    resizer = Resizer(SIDE)
    numbers = range(60)
    freed: list[int] = []
    given = list(pictures(len(numbers), freed))
    buffer, stream = PictureBuffer(resizer, len(given)), cuda.Stream()
    made = cuda.PinnedBuffer((len(given), 3, SIDE, SIDE), "float32")
    buffer.copy(given, made.handle, stream)
    stream.synchronize()
    images = [Image.fromarray(pixels(number)) for number in numbers]
    np.testing.assert_array_equal(made.array, preprocess_batch(images, SIDE))
    for one in (made, stream, buffer, resizer):
        one.close()
    assert_nothing_held(machine)


def test_memory_of_others_is_pinned_until_it_is_released(
    machine: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = np.zeros(100, np.uint8)
    with engine_of(tmp_path, machine, contexts=1) as engine:
        release = engine.pin(memory.ctypes.data, 100)
        assert machine.cuda.registered == {memory.ctypes.data: 100}
        release()
        assert not machine.cuda.registered
        machine.cuda.fail("cudaHostRegister", "cudaErrorMemoryAllocation")
        engine.pin(memory.ctypes.data, 100)()
    assert "100 bytes cannot be locked: cudaErrorMemoryAllocation" in caplog.text
