"""Several builds of one request: the fastest is kept, and none is left behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipfleet.errors import ConversionError
from convert import candidates
from convert.build_request import BuildRequest, BuildResult
from convert.candidates import build_fastest


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    return BuildRequest(
        onnx="m.onnx",
        plan=str(tmp_path / "m.trt"),
        precision="fp16",
        smallest=1,
        optimum=1,
        largest=1,
        timing_cache=str(tmp_path / "cache"),
    )


def result(seconds: float) -> BuildResult:
    return BuildResult(
        seconds=seconds,
        runtime_version="8.6.0",
        optimization_level=3,
        timing_cache=None,
        typing="weak",
    )


Build = Callable[..., BuildResult]


def use(monkeypatch: pytest.MonkeyPatch, build: Build, speeds: dict[str, float]) -> list[str]:
    """Play a builder, and engines whose speed their bytes say; return the plans asked for."""
    asked: list[str] = []

    def run_builder(request: BuildRequest, **options: Any) -> BuildResult:
        asked.append(Path(request.plan).name)
        assert request.timing_cache is None, "they would all choose alike"
        return build(request, **options)

    monkeypatch.setattr(candidates, "run_builder", run_builder)
    monkeypatch.setattr(
        candidates, "_speed", lambda one, progress: speeds[one.plan.read_text(encoding="utf-8")]
    )
    return asked


def build_named(request: BuildRequest, **_: Any) -> BuildResult:
    number = request.plan[-1]
    Path(request.plan).write_text(number, encoding="utf-8")
    return result(float(number))


def test_the_fastest_is_kept_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, request_: BuildRequest
) -> None:
    asked = use(monkeypatch, build_named, {"1": 2900.0, "2": 3700.0, "3": 3000.0})
    assert build_fastest(request_, count=3, progress=print).seconds == 2.0
    assert sorted(asked) == ["m.trt.1", "m.trt.2", "m.trt.3"]
    plan = Path(request_.plan)
    assert plan.read_text() == "2"
    assert list(plan.parent.iterdir()) == [plan]


def test_one_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, request_: BuildRequest
) -> None:
    def build(request: BuildRequest, **options: Any) -> BuildResult:
        if request.plan.endswith("2"):
            raise ConversionError("the kernel killed it")
        return build_named(request, **options)

    use(monkeypatch, build, {"1": 2900.0, "3": 3000.0})
    told: list[str] = []
    found = build_fastest(request_, count=3, progress=told.append)
    assert (found.seconds, found.candidates) == (3.0, 2)
    assert told == ["not built: the kernel killed it (candidate 2 of 3)"]


def test_each_has_a_log_of_its_own(monkeypatch: pytest.MonkeyPatch, request_: BuildRequest) -> None:
    logs: list[str | None] = []

    def build(request: BuildRequest, **options: Any) -> BuildResult:
        logs.append(request.log)
        return build_named(request, **options)

    use(monkeypatch, build, {"1": 1.0, "2": 2.0})
    build_fastest(replace(request_, log="/logs/all"), count=2, progress=print)
    build_fastest(request_, count=2, progress=print)
    assert sorted(map(str, logs)) == ["/logs/all.1", "/logs/all.2", "None", "None"]


def test_when_all_fail_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, request_: BuildRequest
) -> None:
    def build(request: BuildRequest, **_: Any) -> BuildResult:
        raise ConversionError(f"no room for {Path(request.plan).name}")

    use(monkeypatch, build, {})
    with pytest.raises(ConversionError, match=r"no room for m\.trt\.1"):
        build_fastest(request_, count=2, progress=print)


def test_an_interrupt_stops_every_builder(
    monkeypatch: pytest.MonkeyPatch, request_: BuildRequest
) -> None:
    stopped: list[str] = []
    started = threading.Barrier(3)

    def build(request: BuildRequest, *, stop: threading.Event, **_: Any) -> BuildResult:
        started.wait(10)
        assert stop.wait(10)
        stopped.append(request.plan[-1])
        raise ConversionError("stopped")

    def interrupt() -> None:
        started.wait(10)
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    use(monkeypatch, build, {})
    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        build_fastest(request_, count=2, progress=print)
    sender.join()
    assert sorted(stopped) == ["1", "2"]
