"""Running TensorRT engines, on a fake GPU: order, padding, contexts, graphs, and what is freed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.errors import EngineError, GpuLostError, GpuMemoryError
from clipfleet.settings import Settings
from clipfleet.workers.engines.cuda.host_copy import HostCopy
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.engines.tensorrt import engine as engine_module
from clipfleet.workers.engines.tensorrt.autotune import items_per_second
from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine
from tests.unit.workers.fake_tensorrt import (
    WORDS,
    State,
    assert_nothing_held,
    expected,
    images,
    install,
    plan,
    write_engine,
)

VERSIONS = ["8.5.2", "8.6.0", "10.3.0", "11.1.0"]
DYNAMIC = plan(shape=(-1, 3, 8, 8), sizes=(1, 4, 8))
STATIC = plan(shape=(4, 3, 8, 8))
SPEED = "clipfleet.workers.engines.tensorrt.runner.items_per_second"
TEXT = plan(name="text", shape=(1, 10), dtype="INT32")


@pytest.fixture(autouse=True)
def unchecked_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_tensorrt_pictures.py` tests what is computed at each load of an image engine."""
    monkeypatch.setattr(engine_module, "resizes_exactly", lambda _: True)


@pytest.fixture(params=VERSIONS)
def any_version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch, request.param)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch)


def engine_of(
    folder: Path, state: State, data: bytes | None = None, **options: Any
) -> TensorRTEngine:
    card, path = write_engine(folder, data, version=state.version)
    return TensorRTEngine(card, path, **options)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 9, 37])
@pytest.mark.parametrize("contexts", [1, 3])
@pytest.mark.parametrize("data", [plan(), STATIC, DYNAMIC], ids=["batch 1", "batch 4", "dynamic"])
def test_features_come_in_order_for_any_number_of_inputs(
    machine: State, tmp_path: Path, data: bytes, contexts: int, count: int
) -> None:
    with engine_of(tmp_path, machine, data, contexts=contexts) as engine:
        assert engine.contexts == contexts
        for inputs in (images(count), images(count)[::-1]):
            features = engine(inputs)
            assert features.dtype == np.float32
            np.testing.assert_array_equal(features, expected(inputs))
    assert_nothing_held(machine)


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("data", [plan(), DYNAMIC], ids=["batch 1", "dynamic"])
def test_every_version_runs_engines(
    any_version: State, tmp_path: Path, data: bytes, cuda_graphs: bool
) -> None:
    with engine_of(tmp_path, any_version, data, contexts=1, cuda_graphs=cuda_graphs) as engine:
        assert engine.uses_graphs == cuda_graphs
        np.testing.assert_array_equal(engine(images(21)), expected(images(21)))
    assert ("cudaGraphLaunch" in any_version.cuda.calls) == cuda_graphs
    assert_nothing_held(any_version)


def test_as_many_batches_are_in_flight_as_there_are_contexts(
    machine: State, tmp_path: Path
) -> None:
    with engine_of(tmp_path, machine, contexts=5) as engine:
        engine(images(40))
    assert machine.cuda.in_flight_most == 5


@pytest.mark.parametrize("data", [plan(), STATIC, DYNAMIC], ids=["batch 1", "batch 4", "dynamic"])
def test_features_of_a_stream_come_in_order(machine: State, tmp_path: Path, data: bytes) -> None:
    given = images(40)
    made = np.full((43, 6), 7, np.float32)
    done: list[int] = []
    arrays = np.split(given, [8, 8, 9, 28])
    with engine_of(tmp_path, machine, data, contexts=3) as engine:
        assert engine.run_stream(iter(arrays), made, done.append) == 40
        assert done == [len(array) for array in arrays]
        assert engine.run_stream(iter([]), made, lambda _: None) == 0
    np.testing.assert_array_equal(made[:40], expected(given))
    assert (made[40:] == 7).all()
    assert_nothing_held(machine)


def test_batches_of_a_stream_are_in_flight_while_its_next_inputs_are_made(
    machine: State, tmp_path: Path
) -> None:
    given = images(24)

    def made_late() -> Iterator[NDArray[np.float32]]:
        for start in (0, 8, 16):
            assert waiting(machine) == (2 if start else 0)  # streams
            rows = given[start : start + 8].copy()
            yield rows
            rows[:] = 0  # nothing reads them any more

    features = np.empty((24, 6), np.float32)
    with engine_of(tmp_path, machine, STATIC, contexts=2) as engine:
        engine.run_stream(made_late(), features, lambda _: None)
    np.testing.assert_array_equal(features, expected(given))


def test_a_stream_whose_inputs_fail_leaves_no_batch_and_the_next_run_is_right(
    machine: State, tmp_path: Path
) -> None:
    def broken() -> Iterator[NDArray[np.float32]]:
        yield images(8)
        raise OSError("no text")

    with engine_of(tmp_path, machine, STATIC, contexts=2) as engine:
        with pytest.raises(OSError, match="no text"):
            engine.run_stream(broken(), np.empty((24, 6), np.float32), lambda _: None)
        assert waiting(machine) == 0
        np.testing.assert_array_equal(engine(images(5)), expected(images(5)))
    assert_nothing_held(machine)


def waiting(state: State) -> int:
    """Return how many streams have operations that wait."""
    return sum(bool(one.waiting) for one in state.cuda.held.values() if hasattr(one, "waiting"))


def test_nan_passes_through(machine: State, tmp_path: Path) -> None:
    inputs = images(3)
    inputs[1] = np.nan
    with engine_of(tmp_path, machine, contexts=2) as engine:
        features = engine(inputs)
    np.testing.assert_array_equal(np.isnan(features).all(axis=1), [False, True, False])


def test_ids_are_converted_to_the_engines_dtype(machine: State, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 21128, (9, 10))
    with engine_of(tmp_path, machine, TEXT, contexts=2) as engine:
        np.testing.assert_array_equal(engine(ids), expected(ids))


def test_float16_features_become_float32(machine: State, tmp_path: Path) -> None:
    with engine_of(tmp_path, machine, plan(output_dtype="HALF"), contexts=1) as engine:
        features = engine(images(5))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected(images(5)), atol=1e-2)


def test_a_dynamic_engine_runs_the_rest_in_the_smallest_batch_that_holds_it(
    machine: State, tmp_path: Path
) -> None:
    with engine_of(tmp_path, machine, DYNAMIC, contexts=2) as engine:
        cuts = [(slot.size, start, size) for slot, start, size in engine._runner._cuts(19)]
    assert cuts == [(4, 16, 3), (8, 0, 8), (8, 8, 8)]


def test_a_dynamic_engine_starts_at_its_smallest_batch(machine: State, tmp_path: Path) -> None:
    data = plan(shape=(-1, 3, 8, 8), sizes=(3, 6, 12))
    with engine_of(tmp_path, machine, data, contexts=1) as engine:
        assert [slot.size for slot in engine._runner._small] == [4, 8]
        np.testing.assert_array_equal(engine(images(13)), expected(images(13)))


def test_a_dynamic_engine_without_profile_sharing_runs_in_one_context(
    machine: State, tmp_path: Path
) -> None:
    data = plan(shape=(-1, 3, 8, 8), sizes=(1, 4, 8), shares_profile=False)
    with engine_of(tmp_path, machine, data) as engine:
        assert engine.contexts == 1
        np.testing.assert_array_equal(engine(images(13)), expected(images(13)))
    with pytest.raises(EngineError, match=r"one execution context only .*set engine_contexts to 1"):
        engine_of(tmp_path, machine, data, contexts=2)
    assert_nothing_held(machine)


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ([100, 104, 999], 1),
        ([100, 106, 110, 999], 2),
        ([100, 150, 160, 160], 4),
        ([100, 150, 200, 250], 8),
    ],
)
def test_contexts_grow_while_they_gain_five_per_cent(
    machine: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speeds: list[float],
    chosen: int,
) -> None:
    measured = iter([1, *speeds])  # the first only warms up
    monkeypatch.setattr(SPEED, lambda *_, **__: next(measured))
    with engine_of(tmp_path, machine) as engine:
        assert engine.contexts == chosen
        assert machine.alive.count("context") == chosen
        assert engine.max_batch == max(chosen, 16 * chosen)
    assert_nothing_held(machine)


def test_the_measured_speed_is_items_a_second(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with engine_of(tmp_path, machine, STATIC, contexts=1) as engine:
        # The clock is read before each batch and at the end: 20 batches of 4 in 22 readings.
        speed = items_per_second(engine._runner._slots, images(8), 20, dim=6)
    assert speed == pytest.approx(4 * 19 / 21)


@pytest.mark.parametrize("measured", [True, False])
def test_too_little_memory_stops_the_growth(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    monkeypatch.setattr(SPEED, lambda slots, *_, **__: 100.0 * len(slots))
    machine.contexts_limit = 3
    if measured:
        with engine_of(tmp_path, machine) as engine:
            assert engine.contexts == 2
            np.testing.assert_array_equal(engine(images(5)), expected(images(5)))
    else:
        with pytest.raises(GpuMemoryError, match=r"at batch 1, .* MiB free .*OutOfMemory"):
            engine_of(tmp_path, machine, contexts=4)
    assert_nothing_held(machine)


def test_the_pipeline_is_asked_for_some_rounds_but_not_for_gigabytes(
    machine: State, tmp_path: Path
) -> None:
    for data, contexts, handed_over in [
        (plan(), 1, 16),
        (plan(), 8, 128),
        (plan(shape=(32, 3, 8, 8)), 2, 256),
        (plan(shape=(128, 3, 8, 8)), 4, 512),
    ]:
        with engine_of(tmp_path, machine, data, contexts=contexts) as engine:
            assert engine.max_batch == handed_over


def test_a_single_item_is_waited_for_on_a_core_and_batches_asleep(
    machine: State, tmp_path: Path
) -> None:
    def flags(engine: TensorRTEngine) -> set[int]:
        before = len(machine.cuda.waited_with)
        engine(images(8))
        return set(machine.cuda.waited_with[before:])

    with engine_of(tmp_path, machine, contexts=1) as engine:
        assert flags(engine) == {2}
    with engine_of(tmp_path, machine, contexts=2) as engine:
        assert flags(engine) == {3}
    with engine_of(tmp_path, machine, plan(shape=(8, 3, 8, 8)), contexts=1) as engine:
        assert flags(engine) == {3}


def test_kernels_go_one_by_one_where_they_cannot_be_captured(
    machine: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.capturable = False
    with engine_of(tmp_path, machine, contexts=2) as engine:
        assert not engine.uses_graphs
        np.testing.assert_array_equal(engine(images(5)), expected(images(5)))
    assert "no CUDA graph for" in caplog.text
    assert "operation not permitted when stream is capturing" in caplog.text
    assert_nothing_held(machine)


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_a_graph_that_cuda_refuses_is_done_without(
    machine: State, tmp_path: Path, call: str
) -> None:
    machine.cuda.fail(call, "cudaErrorStreamCaptureUnsupported")
    with engine_of(tmp_path, machine, contexts=2) as engine:
        assert not engine.uses_graphs
        np.testing.assert_array_equal(engine(images(5)), expected(images(5)))
    assert_nothing_held(machine)


CALLS = [
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaStreamCreateWithFlags",
    "cudaEventCreateWithFlags",
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
]


@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("call", CALLS)
def test_loading_that_fails_in_the_middle_frees_all(
    machine: State, tmp_path: Path, call: str, after: int
) -> None:
    machine.cuda.fail(call, "cudaErrorMemoryAllocation", after=after)
    with pytest.raises(GpuMemoryError, match=f"{call} failed: cudaErrorMemoryAllocation"):
        engine_of(tmp_path, machine, contexts=8)
    assert_nothing_held(machine)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_a_lost_gpu_is_named_and_all_is_let_go(
    machine: State, tmp_path: Path, cuda_graphs: bool
) -> None:
    with engine_of(tmp_path, machine, contexts=3, cuda_graphs=cuda_graphs) as engine:
        machine.cuda.lose()
        with pytest.raises(GpuLostError, match=r"cudaErrorIllegalAddress .*start it again"):
            engine(images(9))
    assert_nothing_held(machine)


def test_a_gpu_that_is_lost_inside_tensorrt_is_named(machine: State, tmp_path: Path) -> None:
    with engine_of(tmp_path, machine, contexts=1, cuda_graphs=False) as engine:
        machine.fails_at = machine.runs + 1
        machine.cuda.fail("cudaDeviceSynchronize", "cudaErrorLaunchFailure")
        with pytest.raises(GpuLostError, match="cudaErrorLaunchFailure"):
            engine(images(1))


@pytest.mark.parametrize("contexts", [0, 1, 3])
@pytest.mark.parametrize("run", [1, 2])  # 2 is captured
def test_a_gpu_that_is_lost_while_an_engine_loads_is_named(
    machine: State, tmp_path: Path, contexts: int, run: int
) -> None:
    machine.fails_at = run
    machine.cuda.fail("cudaDeviceSynchronize", "cudaErrorLaunchFailure")
    with pytest.raises(GpuLostError, match="cudaErrorLaunchFailure"):
        engine_of(tmp_path, machine, contexts=contexts)
    assert_nothing_held(machine)


@pytest.mark.parametrize(
    "words",
    [
        "[executionContext.cpp::enqueueInternal::795] Error Code 2: OutOfMemory (no further)",
        "Error Code 1: Cuda Runtime (out of memory)",
        "Requested amount of GPU memory (4096 bytes) could not be allocated.",
        "Error Code 1: Cudnn (CUDNN_STATUS_ALLOC_FAILED)",
    ],
)
@pytest.mark.parametrize("while_measured", [False, True])
def test_too_little_memory_for_a_slots_first_run_stops_the_growth(
    machine: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    while_measured: bool,
) -> None:
    def speed(slots: list[Any], *_: Any, **__: Any) -> float:
        if len(slots) > 2 and while_measured:
            raise GpuMemoryError(words)
        return 100.0 * len(slots)

    monkeypatch.setattr(SPEED, speed)
    machine.fails_at, machine.fails_with = None if while_measured else 3, words
    with engine_of(tmp_path, machine, cuda_graphs=False) as engine:
        assert engine.contexts == 2
        np.testing.assert_array_equal(engine(images(5)), expected(images(5)))
    assert_nothing_held(machine)


def test_earlier_messages_of_tensorrt_explain_no_later_failure(
    machine: State, tmp_path: Path
) -> None:
    with engine_of(tmp_path, machine, contexts=1, cuda_graphs=False) as engine:
        machine.fails_at, machine.fails_with = machine.runs + 1, WORDS["memory"]
        with pytest.raises(GpuMemoryError, match="OutOfMemory"):
            engine(images(1))
        machine.fails_at, machine.fails_with = machine.runs + 1, "another reason"
        with pytest.raises(EngineError, match="another reason") as caught:
            engine(images(1))
    assert not isinstance(caught.value, GpuMemoryError)


def test_an_engine_is_closed_after_the_call_that_runs(machine: State, tmp_path: Path) -> None:
    engine = engine_of(tmp_path, machine, contexts=1)
    with engine._runner._lock:  # as a call in another thread holds it
        closing = threading.Thread(target=engine.close)
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
        assert machine.alive
    closing.join(10)
    assert_nothing_held(machine)


def test_after_an_error_the_engine_still_runs(machine: State, tmp_path: Path) -> None:
    with engine_of(tmp_path, machine, contexts=3, cuda_graphs=False) as engine:
        machine.fails_at = machine.runs + 7
        with pytest.raises(EngineError, match=r"TensorRT failed in .*something else"):
            engine(images(9))
        np.testing.assert_array_equal(engine(images(9)), expected(images(9)))
    assert_nothing_held(machine)


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 3, 8, 9), np.float32),
        np.zeros((3, 8, 8), np.float32),
        np.zeros((2, 3, 8, 8), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_inputs_of_another_shape_or_kind_are_refused(
    machine: State, tmp_path: Path, inputs: Any
) -> None:
    with (
        engine_of(tmp_path, machine, contexts=1) as engine,
        pytest.raises(EngineError, match=r"takes float32 \(n, 3, 8, 8\) as 'image'"),
    ):
        engine(inputs)


def test_a_closed_engine_says_so_and_closes_again(machine: State, tmp_path: Path) -> None:
    engine = engine_of(tmp_path, machine, contexts=1)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed: load it again"):
        engine(images(1))


@pytest.mark.parametrize("data", [plan(), STATIC, DYNAMIC], ids=["batch 1", "batch 4", "dynamic"])
def test_full_batches_in_pinned_memory_are_not_copied_on_the_host(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    with engine_of(tmp_path, machine, data, contexts=3) as engine:
        own = engine.empty_inputs(24)
        own[...] = images(24)
        copied: list[int] = []
        monkeypatch.setattr(HostCopy, "__call__", lambda *pair: copied.append(len(pair[-1])))
        np.testing.assert_array_equal(engine(own), expected(own))
        np.testing.assert_array_equal(engine(own[8:16]), expected(own[8:16]))
        assert copied == []
        engine(own[::2])
        assert sum(copied) == 12, "not contiguous"


def test_ids_are_made_in_the_engines_dtype(machine: State, tmp_path: Path) -> None:
    with engine_of(tmp_path, machine, TEXT, contexts=2) as engine:
        ids = engine.empty_inputs(9)
        assert ids.dtype == np.int32
        assert ids.shape == (9, 10)
        ids[:] = np.random.default_rng(0).integers(0, 21128, (9, 10))
        np.testing.assert_array_equal(engine(ids), expected(ids))


@pytest.mark.parametrize(
    "call", ["cudaMemcpyAsync", "cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"]
)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_nothing_reads_its_memory_after_a_failure(
    machine: State, tmp_path: Path, call: str, after: int
) -> None:
    with engine_of(tmp_path, machine, contexts=3) as engine:
        own = engine.empty_inputs(9)
        own[...] = images(9)
        machine.cuda.fail(call, "cudaErrorInvalidValue", after=after)
        with pytest.raises(EngineError, match=call):
            engine(own)
        assert not any(getattr(held, "waiting", None) for held in machine.cuda.held.values())
        machine.cuda.fail(call, "cudaSuccess")
        del own
        again = engine.empty_inputs(9)
        again[...] = images(9) + 1
        np.testing.assert_array_equal(engine(again), expected(again))
    del again
    assert_nothing_held(machine)


def test_where_no_memory_can_be_locked_inputs_are_made_elsewhere(
    machine: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_of(tmp_path, machine, TEXT, contexts=1) as engine:
        machine.cuda.fail("cudaHostAlloc", "cudaErrorMemoryAllocation")
        for _ in range(3):
            ids = engine.empty_inputs(2)
            ids[:] = 7
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(engine(ids), expected(ids))
    assert caplog.text.count("too little memory can be locked") == 1


def test_inputs_outlive_their_engine(machine: State, tmp_path: Path) -> None:
    with engine_of(tmp_path, machine, contexts=2) as engine:
        own = engine.empty_inputs(5)
    own[...] = images(5)
    np.testing.assert_array_equal(own, images(5))
    del own
    assert_nothing_held(machine)


def test_the_threads_that_copy_end_before_their_memory_is_freed(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    close = HostCopy.close

    def closing(copy: HostCopy) -> None:
        close(copy)
        held.append(machine.cuda.bytes_held())

    monkeypatch.setattr(HostCopy, "close", closing)
    with engine_of(tmp_path, machine, contexts=2):
        held_open = machine.cuda.bytes_held()
    assert held == [held_open]


def test_two_engines_live_in_one_process(machine: State, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with (
        engine_of(tmp_path, machine, contexts=2) as first,
        engine_of(tmp_path / "b", machine, TEXT, contexts=1) as second,
    ):
        ids = np.arange(30).reshape(3, 10)
        np.testing.assert_array_equal(second(ids), expected(ids))
        np.testing.assert_array_equal(first(images(3)), expected(images(3)))
    assert_nothing_held(machine)


def test_the_settings_reach_the_engine(machine: State, tmp_path: Path) -> None:
    card, path = write_engine(tmp_path, proven=False)
    settings = Settings(engine_contexts=3, cuda_graphs=False, allow_unverified=True)
    with load_engine(path, settings) as engine:
        assert isinstance(engine, TensorRTEngine)
        assert (engine.card, engine.contexts, engine.uses_graphs) == (card, 3, False)
