"""Measuring in one process: every cell ends as figures or as a reason, and is on disk at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import measure
from bench.gpu.machine import Clocks
from bench.gpu.measurement import Cell, read_measurements
from bench.gpu.timing.rates import measure_rate
from clipfleet.architectures import load_architecture
from clipfleet.convert.benchmark.inputs import random_inputs
from clipfleet.convert.benchmark.runtimes import Target
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from tests.unit.bench.support import MACHINE

CLOCKS = Clocks(sm_mhz=1755, memory_mhz=2619, temperature_c=41, power_w=95)
MODEL = Path(__file__).parents[3] / "examples" / "demo" / "model" / "demo"


class FakeContexts(FakeEngine):
    uses_graphs = True

    def __init__(self, contexts: int) -> None:
        super().__init__(fake_card("txt"), max_batch=1)
        self.contexts = contexts or 4


@pytest.fixture
def plan(tmp_path: Path) -> measure.Plan:
    architecture = load_architecture("demo")
    for name in ("one.trt", "b32.trt"):
        (tmp_path / name).write_bytes(b"an engine")
    return measure.Plan(
        target=Target(architecture=architecture, tower="txt", batch_size=1, context_length=52),
        inputs=random_inputs(architecture, "txt", count=64),
        checkpoint=None,
        onnx=None,
        engine=tmp_path / "one.trt",
        engine_b32=tmp_path / "b32.trt",
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """No GPU and short runs. Returns the calls: file, batch size, contexts; -1: a file read."""
    opened: list[tuple[str, int, int]] = []

    @contextmanager
    def open_file(target: Target, path: Path) -> Iterator[Callable[[int], FakeContexts]]:
        def with_contexts(count: int) -> FakeContexts:
            opened.append((path.name, target.batch_size, count))
            return FakeContexts(count)

        opened.append((path.name, target.batch_size, -1))
        yield with_contexts

    monkeypatch.setattr(measure, "opened", open_file)
    monkeypatch.setattr(measure, "this_machine", lambda: MACHINE)
    monkeypatch.setattr(measure, "clocks_now", lambda: CLOCKS)
    monkeypatch.setattr(measure, "_LATENCY_S", 0.01)
    monkeypatch.setattr(
        measure,
        "measure_rate",
        lambda call, inputs, contexts, empty: measure_rate(
            call, inputs, contexts=contexts, empty=empty, round_s=0.01, rounds=2
        ),
    )
    return opened


def test_every_number_of_contexts_and_both_batches_are_measured(
    plan: measure.Plan, tmp_path: Path, quick: list[tuple[str, int, int]]
) -> None:
    found = measure.run(plan, "today", tmp_path / "out.json")
    assert read_measurements(tmp_path / "out.json") == [found]
    assert quick == [
        *(("one.trt", 1, k) for k in (-1, 1, -1, 0, 1, 2, 8)),
        *(("b32.trt", 32, k) for k in (-1, 1, 0, 1, 2)),
    ]
    one, many, b32 = (
        found.cells[name] for name in ("tensorrt", "tensorrt-contexts", "tensorrt-b32")
    )
    assert one.latency is not None
    assert (one.batch_size, one.before, one.after, one.graphs) == (1, CLOCKS, CLOCKS, True)
    assert [rate.contexts for rate in many.rates] == [1, 2, 4, 8]
    assert many.chosen_contexts == b32.chosen_contexts == 4
    assert many.chosen == many.rates[2]
    assert [cell.missing for cell in found.cells.values()] == [None] * 3
    assert [rate.contexts for rate in b32.rates] == [1, 2, 4]
    assert b32.batch_size == 32
    assert b32.latency is not None
    assert found.item_flops == pytest.approx(0.050e9, rel=0.01)
    assert found.finished_at is not None


def test_a_runtime_that_fails_leaves_its_reason_and_the_next_is_measured(
    plan: measure.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, path: Path) -> Iterator[Cell]:
        raise RuntimeError(f"no room for {path}\nand more")

    monkeypatch.setattr(measure, "tensorrt_cell", fail)
    found = measure.run(plan, "today", tmp_path / "out.json")
    assert found.cells["tensorrt"].missing == "RuntimeError: no room for one.trt"
    assert found.cells["tensorrt-contexts"].missing is None


@pytest.mark.parametrize("error", [RuntimeError("no room"), KeyboardInterrupt()])
def test_what_was_measured_stands_when_a_later_number_of_contexts_fails_or_is_killed(
    plan: measure.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def rate_up_to_four(call: Any, inputs: Any, *, contexts: int, empty: Any) -> Any:
        if contexts == 8:
            raise error
        return measure_rate(call, inputs, contexts=contexts, empty=empty, round_s=0.01, rounds=2)

    monkeypatch.setattr(measure, "measure_rate", rate_up_to_four)
    killed = isinstance(error, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt) if killed else nullcontext():
        measure.run(plan, "today", tmp_path / "out.json")
    [found] = read_measurements(tmp_path / "out.json")
    cell = found.cells["tensorrt-contexts"]
    assert [rate.contexts for rate in cell.rates] == [1, 2, 4]
    assert cell.chosen_contexts == 4
    assert cell.missing == (measure.NOT_REACHED if killed else "RuntimeError: no room")
    assert (found.cells["tensorrt-b32"].latency is None) == killed


def test_a_missing_engine_is_a_reason(plan: measure.Plan, tmp_path: Path) -> None:
    found = measure.run(
        replace(plan, engine=None, engine_b32=tmp_path / "none.trt"), "today", tmp_path / "o.json"
    )
    assert found.cells == {"tensorrt-b32": Cell(missing="no file none.trt")}


def test_a_process_that_is_killed_leaves_what_it_had(
    plan: measure.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> Iterator[Cell]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "batch_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        measure.run(plan, "today", tmp_path / "out.json")
    [found] = read_measurements(tmp_path / "out.json")
    assert found.cells["tensorrt"].latency is not None
    assert found.cells["tensorrt-b32"].missing == measure.NOT_REACHED
    assert found.finished_at is None


def test_a_round_is_as_long_as_asked_for_and_the_rate_is_the_median() -> None:
    """A clock of calls: 64 items take 0.1 s, and the three rounds 1, 2 and 4 s."""
    taken = iter([0.1, 1.0, 4.0, 2.0])
    now = 0.0
    sizes: list[int] = []
    reads = count()

    def clock() -> float:
        nonlocal now
        if next(reads) % 2:
            now += next(taken)
        return now

    def call(inputs: np.ndarray[Any, Any]) -> None:
        sizes.append(len(inputs))

    found = measure_rate(
        call,
        np.zeros((64, 2)),
        contexts=2,
        empty=lambda count: np.empty((count, 2)),
        round_s=0.7,
        rounds=3,
        clock=clock,
    )
    assert sizes == [64, 64, 448, 448, 448]
    assert found.rounds == pytest.approx((448, 112, 224))
    assert found.items_s == pytest.approx(224)
    assert (found.items, found.contexts) == (448, 2)
