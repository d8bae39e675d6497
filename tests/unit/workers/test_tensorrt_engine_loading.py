"""Which TensorRT engines are refused, and in which words."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipfleet.engine_files import read_engine, sha256_of
from clipfleet.errors import (
    CardError,
    DependencyError,
    EngineDamagedError,
    EngineError,
    EngineMismatchError,
    EngineUnverifiedError,
    EngineVersionError,
    GpuLostError,
    GpuMemoryError,
)
from clipfleet.model_card import Parity, TensorSpec, card_path
from clipfleet.settings import Settings
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine
from tests.unit.workers.fake_cuda import GPU
from tests.unit.workers.fake_tensorrt import (
    WORDS,
    State,
    assert_nothing_held,
    install,
    plan,
    write_engine,
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch)


def parity_of(folder: Path) -> Parity:
    card, _ = write_engine(folder)
    assert card.parity is not None
    return card.parity


def test_a_truncated_file_is_damaged_before_anything_else(machine: State, tmp_path: Path) -> None:
    card, path = write_engine(tmp_path, proven=False)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EngineDamagedError, match=f"has SHA-256 .*{card.engine_sha256}"):
        TensorRTEngine(replace(card, runtime_version="10.0"), path)
    path.unlink()
    with pytest.raises(EngineDamagedError, match="is missing"):
        TensorRTEngine(card, path)
    assert not machine.cuda.calls


def test_the_bytes_that_were_checked_are_those_that_run(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, path = write_engine(tmp_path)

    def read_and_be_replaced(*arguments: Any) -> bytes:
        data = read_engine(*arguments)
        path.write_bytes(plan(broken="damaged"))
        return data

    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.open.read_engine", read_and_be_replaced)
    TensorRTEngine(card, path, contexts=1).close()


@pytest.mark.parametrize(("version", "warnings"), [("8.6.0", 0), ("11.4.0.106", 1)])
def test_a_version_that_never_ran_in_the_gpu_tests_is_a_warning_once_a_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    warnings: int,
) -> None:
    install(monkeypatch, version)
    card, path = write_engine(tmp_path, version=version)
    for _ in range(2):
        TensorRTEngine(card, path, contexts=1).close()
    assert caplog.text.count(f"ran with TensorRT 8.6.0, not with TensorRT {version}") == warnings
    assert caplog.text.count("ran with TensorRT") == warnings


@pytest.mark.parametrize("allow_unverified", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtime_version": "10.3.0"}, r"built by TensorRT 10\.3\.0 and this is 8\.6\.0"),
        ({"gpu": "Tesla T4"}, f"built for Tesla T4 and this is {GPU}"),
    ],
)
def test_another_version_or_gpu_is_refused_with_the_command_that_rebuilds(
    machine: State,
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
    allow_unverified: bool,
) -> None:
    card, path = write_engine(tmp_path)
    with pytest.raises(EngineVersionError, match=message) as caught:
        TensorRTEngine(replace(card, **change), path, allow_unverified=allow_unverified)
    assert "clipfleet build" in str(caught.value)
    assert "clipfleet worker --build-if-missing" in str(caught.value)


def test_an_unproven_engine_runs_only_where_that_is_allowed(machine: State, tmp_path: Path) -> None:
    card, path = write_engine(tmp_path, proven=False)
    with pytest.raises(EngineUnverifiedError, match=r"has no parity.*clipfleet adopt") as caught:
        TensorRTEngine(card, path)
    assert "--allow-unverified" in str(caught.value)
    assert_nothing_held(machine)
    TensorRTEngine(card, path, contexts=1, allow_unverified=True).close()


@pytest.mark.parametrize(
    "change", [{"engine_sha256": "1" * 64}, {"runtime_version": "8.6.1"}, {"gpu": "Tesla T4"}]
)
def test_a_parity_that_was_measured_elsewhere_proves_nothing(
    machine: State, tmp_path: Path, change: dict[str, str]
) -> None:
    card, path = write_engine(tmp_path)
    parity = parity_of(tmp_path)
    assert parity.measured_on is not None
    elsewhere = replace(parity, measured_on=replace(parity.measured_on, **change))
    with pytest.raises(EngineUnverifiedError, match="its parity was measured"):
        TensorRTEngine(replace(card, parity=elsewhere), path)


def test_a_parity_below_its_threshold_proves_nothing(machine: State, tmp_path: Path) -> None:
    card, path = write_engine(tmp_path)
    failed = replace(parity_of(tmp_path), cosine_min=0.91)
    with pytest.raises(EngineUnverifiedError, match=r"cosine 0\.910000, below 0\.9999"):
        TensorRTEngine(replace(card, parity=failed), path)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("damaged", EngineDamagedError),
        ("version", EngineVersionError),
        ("gpu", EngineVersionError),
        ("memory", GpuMemoryError),
    ],
)
def test_an_engine_that_tensorrt_refuses_is_an_error_with_its_message(
    machine: State, tmp_path: Path, broken: str, error: type[EngineError]
) -> None:
    card, path = write_engine(tmp_path, plan(broken=broken))
    with pytest.raises(error, match=re.escape(WORDS[broken])) as caught:
        TensorRTEngine(card, path)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert_nothing_held(machine)


def test_the_words_are_those_of_the_engine_that_was_refused(machine: State, tmp_path: Path) -> None:
    for broken in ("version", "damaged"):
        card, path = write_engine(tmp_path, plan(broken=broken))
        with pytest.raises(EngineError) as caught:
            TensorRTEngine(card, path)
    assert isinstance(caught.value, EngineDamagedError)
    assert WORDS["version"] not in str(caught.value)


def test_a_file_that_is_no_engine_is_damaged(machine: State, tmp_path: Path) -> None:
    card, path = write_engine(tmp_path)
    path.write_bytes(b"not an engine")
    card = replace(card, engine_sha256=sha256_of(path))
    with pytest.raises(EngineDamagedError, match="TensorRT cannot read"):
        TensorRTEngine(card, path, allow_unverified=True)


@pytest.mark.parametrize(
    ("role", "change", "message"),
    [
        ("input", {"name": "pixels"}, "'image', float32 .*says 'pixels'"),
        ("input", {"shape": (4, 3, 8, 8)}, r"\(1, 3, 8, 8\): its card says .*\(4, 3, 8, 8\)"),
        ("input", {"dtype": "float16"}, "its card says 'image', float16"),
        ("output", {"shape": (1, 7)}, r"\(1, 6\): its card says .*\(1, 7\)"),
        ("output", {"name": "features"}, "'unnorm_image_features', .* says 'features'"),
    ],
)
def test_an_engine_that_differs_from_its_card_is_refused(
    machine: State, tmp_path: Path, role: str, change: dict[str, Any], message: str
) -> None:
    card, path = write_engine(tmp_path)
    spec: TensorSpec = replace(getattr(card, role), **change)
    with pytest.raises(EngineMismatchError, match=message):
        TensorRTEngine(replace(card, **{role: spec}), path)  # type: ignore[arg-type]
    assert_nothing_held(machine)


def test_an_engine_with_two_outputs_is_refused(machine: State, tmp_path: Path) -> None:
    data = plan().replace(
        b'"tensors": [', b'"tensors": [{"name": "more", "mode": 2, "shape": [1]},'
    )
    card, path = write_engine(tmp_path)
    path.write_bytes(data)
    card = replace(card, engine_sha256=sha256_of(path))
    with pytest.raises(EngineMismatchError, match="has the outputs 'more', 'unnorm_image_feat"):
        TensorRTEngine(card, path, allow_unverified=True)
    assert_nothing_held(machine)


def test_without_a_gpu_tensorrt_is_not_touched(machine: State, tmp_path: Path) -> None:
    machine.cuda.lose("cudaErrorNoDevice")
    with pytest.raises(GpuLostError, match="no GPU can be used here"):
        TensorRTEngine(*write_engine(tmp_path))
    assert machine.logger is None


def test_a_missing_tensorrt_is_named_with_its_extra(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[gpu\]'"):
        TensorRTEngine(*write_engine(tmp_path))


def test_a_worker_that_is_given_an_engine_without_a_card_names_adopt(tmp_path: Path) -> None:
    _, path = write_engine(tmp_path)
    card_path(path).unlink()
    for named in (path, card_path(path)):
        with pytest.raises(CardError, match=f"has no model card: `clipfleet adopt {path}`"):
            load_engine(named, Settings())
