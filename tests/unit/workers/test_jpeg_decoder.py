"""TensorRT engines whose GPU decodes JPEG files, on a fake GPU: order, fallback and proof."""

from __future__ import annotations

import gc
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipfleet.errors import DependencyError, EngineUnverifiedError, GpuLostError, UsageError
from clipfleet.workers.engines.load import check_decode
from clipfleet.workers.engines.tensorrt import runner
from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.preprocess import preprocess_batch
from tests.unit.workers.fake_nvimgcodec import Machine
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
BATCH_4 = plan(shape=(4, 3, SIDE, SIDE))
COUNT = 23  # divisible by neither batch size, with more batches than contexts


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, state: State) -> Machine:
    made = Machine(state.cuda)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", made.module())
    return made


def engine_of(folder: Path, state: State, data: bytes = BATCH_4) -> Any:
    card, path = write_engine(folder, data, version=state.version)
    return TensorRTEngine(card, path, contexts=2, decode="gpu")


class FakePicture:
    """A picture, a JPEG file or pixels, whose memory is used again as soon as it is free."""

    on_gpu = False

    def __init__(self, number: int, freed: list[int], *, is_file: bool) -> None:
        random = np.random.default_rng(number)
        shape = (3 + number * 5 % 40, 4 + number * 7 % 30, 3)
        self.height, self.width, _ = shape
        self.number = number
        self._freed = freed
        content = io.BytesIO()
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(content, "JPEG")
        self.data = content.getvalue()
        self.image = Image.open(io.BytesIO(self.data))
        self.image.load()
        held = np.frombuffer(self.data, np.uint8) if is_file else np.asarray(self.image)
        self.file = held.copy()
        self.file_bytes = len(self.data) if is_file else 0
        self.address = self.file.ctypes.data

    def free(self) -> None:
        self.file[:] = 255
        self._freed.append(self.number)


def pictures(freed: list[int], count: int = COUNT) -> list[FakePicture]:
    return [FakePicture(number, freed, is_file=number % 3 != 0) for number in range(count)]


def run(engine: Any, given: Sequence[FakePicture]) -> tuple[list[int], NDArray[np.float32]]:
    features = np.empty((len(given), DIM), np.float32)
    left = engine.run_pictures(cast("list[Picture]", given), features, lambda _: None)
    return left, features


def features_of(given: Sequence[FakePicture]) -> NDArray[np.float32]:
    made: NDArray[np.float32] = expected(preprocess_batch([one.image for one in given], SIDE))
    return made


@pytest.mark.parametrize("data", [plan(), BATCH_4], ids=["batch 1", "batch 4"])
def test_files_and_pixels_become_features_in_order(
    state: State, machine: Machine, tmp_path: Path, data: bytes
) -> None:
    freed: list[int] = []
    given = pictures(freed)
    with engine_of(tmp_path, state, data) as engine:
        assert engine.decodes_jpegs
        left, features = run(engine, given)
        assert left == []
        np.testing.assert_array_equal(features, features_of(given))
        assert freed == list(range(COUNT))
    assert state.cuda.kept_bytes == 2**64 - 1
    assert machine.open == 0
    gc.collect()
    assert machine.freed_late == 0
    assert_nothing_held(state)


def half(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels of another height, as if the file had another header."""
    kept: NDArray[np.uint8] = pixels[: len(pixels) // 2].copy()
    return kept


@pytest.mark.parametrize("how", ["refused", "of another size"])
def test_what_the_gpu_does_not_decode_is_named_and_the_others_are_right(
    state: State, machine: Machine, tmp_path: Path, how: str
) -> None:
    given = pictures([])
    bad = {given[number].data: number for number in (1, 2, 10, COUNT - 1)}
    with engine_of(tmp_path, state) as engine:
        if how == "refused":
            machine.takes = lambda data: data not in bad
        else:
            sizes = {(given[number].height, given[number].width) for number in bad.values()}
            machine.changes = lambda p: half(p) if p.shape[:2] in sizes else p
        left, features = run(engine, given)
    others = [number for number in range(COUNT) if number not in left]
    assert set(left) >= set(bad.values())
    assert how != "refused" or left == sorted(bad.values())
    assert others
    np.testing.assert_array_equal(features[others], features_of(given)[others])
    assert_nothing_held(state)


def test_a_batch_that_nvimagecodec_fails_on_is_left_whole(
    state: State, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = pictures([], 4)
    with engine_of(tmp_path, state) as engine:
        machine.error = RuntimeError("no memory")
        left, features = run(engine, given)
        assert left == [1, 2]
        np.testing.assert_array_equal(features[[0, 3]], features_of(given)[[0, 3]])
        assert "the GPU decoded none of 2 JPEG files: no memory" in caplog.text
        state.cuda.lose()
        with pytest.raises(GpuLostError):
            run(engine, given)


def test_a_batch_is_cut_where_its_files_are_too_large_decoded(
    state: State, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [FakePicture(8, [], is_file=True) for _ in range(8)]
    with engine_of(tmp_path, state) as engine:
        monkeypatch.setattr(runner, "_MAX_DECODED_BYTES", 2 * 3 * given[0].width * given[0].height)
        machine.batches.clear()
        left, features = run(engine, given)
        assert machine.batches == [2, 2, 2, 2]
        monkeypatch.setattr(runner, "_MAX_DECODED_BYTES", 1)  # each of its own: none is refused
        assert run(engine, [FakePicture(8, [], is_file=True)])[0] == []
    assert left == []
    np.testing.assert_array_equal(features, features_of(given))


def test_the_proof_is_logged_with_its_figures(
    state: State, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.changes = lambda pixels: np.where(pixels < 255, pixels + 1, pixels).astype(np.uint8)
    with caplog.at_level(logging.INFO), engine_of(tmp_path, state):
        pass
    (record,) = (one for one in caplog.records if one.msg == "the GPU decodes JPEG files")
    figures = vars(record)
    assert (figures["photographs"], figures["levels"]) == (8, 1)
    assert 0.9999 <= figures["cosine_min"] <= figures["cosine_mean"] < 1


def mirrored(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    turned: NDArray[np.uint8] = pixels[::-1, ::-1].copy()
    return turned


@pytest.mark.parametrize(
    ("set_up", "reason"),
    [
        (lambda m: setattr(m, "changes", mirrored), r"cosines of 8 photographs: mean 0\.\d+"),
        (lambda m: setattr(m, "takes", lambda data: False), "does not decode astronaut.jpg, br"),
    ],
    ids=["other pixels", "no decoder"],
)
def test_an_engine_whose_gpu_decodes_otherwise_does_not_load(
    state: State,
    machine: Machine,
    tmp_path: Path,
    set_up: Callable[[Machine], None],
    reason: str,
) -> None:
    set_up(machine)
    with pytest.raises(EngineUnverifiedError, match=reason) as caught:
        engine_of(tmp_path, state)
    assert "leave --decode gpu out" in str(caught.value)
    assert machine.open == 0
    del caught
    assert_nothing_held(state)


def test_an_engine_whose_gpu_does_not_resize_exactly_decodes_nothing(
    state: State, machine: Machine, tmp_path: Path
) -> None:
    state.driver.refuses_ptx = True
    with pytest.raises(EngineUnverifiedError, match="it does not resize exactly"):
        engine_of(tmp_path, state)


def test_without_the_extra_nothing_starts(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", cast("ModuleType", None))
    remedy = re.escape("pip install '.[gpu,gpu-decode]'")
    with pytest.raises(DependencyError, match=remedy):
        check_decode("gpu", tower="img", runtime="tensorrt")
    with pytest.raises(DependencyError, match=remedy):
        engine_of(tmp_path, state)
    check_decode("exact", tower="img", runtime="tensorrt")
    assert_nothing_held(state)


def test_without_nvjpeg_an_engine_does_not_load(
    state: State, machine: Machine, tmp_path: Path
) -> None:
    machine.has_nvjpeg = False
    with pytest.raises(DependencyError, match=r"nvJPEG \(Internal error - Could not create"):
        engine_of(tmp_path, state)
    assert_nothing_held(state)


@pytest.mark.parametrize(("tower", "runtime"), [("txt", "tensorrt"), ("img", "onnxruntime")])
def test_other_engines_do_not_decode_on_the_gpu(tower: Any, runtime: str) -> None:
    with pytest.raises(UsageError, match=f"this is a {runtime} engine of the {tower} tower"):
        check_decode("gpu", tower=tower, runtime=runtime)
    check_decode("exact", tower=tower, runtime=runtime)
