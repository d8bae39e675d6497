"""The builder process, with the interface of every version, and with TensorRT-RTX itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from clipfleet.convert.tensorrt import builder_process
from clipfleet.convert.tensorrt.builder import build_plan
from clipfleet.convert.tensorrt.builder_process import run_builder
from clipfleet.convert.tensorrt.options import BuildRequest
from clipfleet.errors import ConversionError, UsageError
from tests.convert.tensorrt_interfaces import (
    EVERY,
    LATEST,
    LATEST_WEAK,
    OLDEST,
    STRONG,
    WEAK,
    FakeTensorRT,
    Tensor,
)
from tests.nvidia_bindings import RTX

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo" / "model"


@pytest.fixture(params=EVERY)
def trt(request: pytest.FixtureRequest) -> FakeTensorRT:
    return FakeTensorRT(request.param)


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    return BuildRequest(
        onnx=str(DEMO / "demo.img.fp16.onnx"),
        plan=str(tmp_path / "demo.img.fp16.trt"),
        precision="fp16",
        smallest=1,
        optimum=1,
        largest=1,
    )


def silent(_: str) -> None:
    """Report nothing."""


def test_a_build_uses_only_what_its_version_has(trt: FakeTensorRT, request_: BuildRequest) -> None:
    messages: list[str] = []
    asked = replace(request_, optimization_level=4, workspace_bytes=1 << 30)
    result = build_plan(trt, asked, messages.append)
    assert Path(asked.plan).read_bytes() == b"plan"
    assert result.runtime_version == trt.__version__
    assert result.optimization_level == (None if trt.__version__ == OLDEST else 4)
    assert result.typing == ("weak" if trt.__version__ in WEAK else "strong")
    assert result.timing_cache is None
    config = trt.made["config"]
    assert ("FP16" in config._flags) is (trt.__version__ in WEAK)
    assert config._pools == {"WORKSPACE": 1 << 30}
    assert config._profiles == []
    assert messages[:2] == [
        "parsing demo.img.fp16.onnx",
        f"building with TensorRT {trt.__version__}",
    ]
    assert messages[2:] == (["Tactic timing: 1 of 4"] if trt.__version__ in STRONG else [])


def test_a_static_batch_is_fixed_in_the_network(trt: FakeTensorRT, request_: BuildRequest) -> None:
    trt.input_shape = (-1, 3, 32, 32)
    build_plan(trt, replace(request_, smallest=8, optimum=8, largest=8), silent)
    assert trt.made["network"].get_input(0).shape == (8, 3, 32, 32)
    assert trt.made["config"]._profiles == []


def test_a_range_of_batches_is_a_profile(trt: FakeTensorRT, request_: BuildRequest) -> None:
    trt.input_shape = (-1, 3, 32, 32)
    build_plan(trt, replace(request_, smallest=1, optimum=16, largest=32), silent)
    (profile,) = trt.made["config"]._profiles
    assert profile.shapes == {"image": ((1, 3, 32, 32), (16, 3, 32, 32), (32, 3, 32, 32))}
    assert trt.made["network"].get_input(0).shape == (-1, 3, 32, 32)


@pytest.mark.parametrize("version", WEAK)
def test_banned_operators_stay_in_float32(version: str, request_: BuildRequest) -> None:
    trt: Any = FakeTensorRT(version)
    graph = onnx.load(request_.onnx, load_external_data=False).graph
    trt.layers = [
        trt.Layer(node.name, [Tensor("t", (1,), trt.DataType.HALF)]) for node in graph.node
    ]
    build_plan(trt, replace(request_, fp32_ops=("Softmax",)), silent)
    kept = [layer.name for layer in trt.layers if layer._types]
    assert kept == [node.name for node in graph.node if node.op_type == "Softmax"]
    assert len(kept) > 1
    assert "OBEY_PRECISION_CONSTRAINTS" in trt.made["config"]._flags


def test_an_operator_that_the_model_has_not_is_refused(request_: BuildRequest) -> None:
    with pytest.raises(ConversionError, match=r"no operator Pow to keep.*it has Add, .*Softmax"):
        build_plan(FakeTensorRT(LATEST_WEAK), replace(request_, fp32_ops=("Pow", "Add")), silent)


def test_layers_that_do_not_say_where_they_come_from_are_refused(request_: BuildRequest) -> None:
    trt = FakeTensorRT(LATEST_WEAK)
    trt.layers = [trt.Layer("(Unnamed Layer* 0)", [])]
    with pytest.raises(ConversionError, match=r"none of the 1 layers .* comes from Softmax"):
        build_plan(trt, replace(request_, fp32_ops=("Softmax",)), silent)


def test_a_file_that_does_not_parse_names_the_operator(
    trt: FakeTensorRT, request_: BuildRequest
) -> None:
    trt.parses = False
    with pytest.raises(ConversionError, match=r"cannot take .*: node '\S+' \(\w+\): no importer"):
        build_plan(trt, request_, silent)


def test_a_build_that_fails_says_why(trt: FakeTensorRT, request_: BuildRequest) -> None:
    trt.plan = None
    with pytest.raises(ConversionError) as raised:
        build_plan(trt, request_, silent)
    assert "Could not find any implementation for node Conv_0." in str(raised.value)
    assert "a warning" not in str(raised.value)
    assert not Path(request_.plan).exists()


def test_too_little_memory_names_the_way_out(request_: BuildRequest) -> None:
    trt = FakeTensorRT(LATEST_WEAK)
    trt.plan, trt.complaint = None, "Cuda Runtime (out of memory)"
    with pytest.raises(ConversionError, match="--workspace-gib"):
        build_plan(trt, request_, silent)


def test_a_tactic_source_that_this_version_has_not_is_named(request_: BuildRequest) -> None:
    with pytest.raises(ConversionError, match="no tactic source 'CUDNN'"):
        build_plan(FakeTensorRT(LATEST), replace(request_, tactic_sources=("CUDNN",)), silent)


def test_the_timing_cache_lies_in_the_folder_under_its_own_name(
    trt: FakeTensorRT, request_: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfleet.workers.engines.cuda.runtime.device_name", lambda: "NVIDIA H100")
    result = build_plan(trt, replace(request_, timing_cache=str(tmp_path)), silent)
    name = f"tensorrt-{trt.__version__}-nvidia-h100.timing.cache"
    if trt.__version__ == RTX:
        assert result.timing_cache is None
    else:
        assert result.timing_cache == name
        assert (tmp_path / name).read_bytes() == b"measured"


def test_the_log_holds_all_that_tensorrt_says(request_: BuildRequest, tmp_path: Path) -> None:
    trt = FakeTensorRT(LATEST_WEAK)
    trt.plan = None
    with pytest.raises(ConversionError):
        build_plan(trt, replace(request_, log=str(tmp_path / "log")), silent)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "WARNING a warning",
        "ERROR Could not find any implementation for node Conv_0.",
    ]
    trt.say("VERBOSE", "TensorRT is taken down")  # the file is closed: nothing happens


def test_a_log_that_cannot_be_written_is_named(request_: BuildRequest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write the log .*none.*give --log another"):
        build_plan(
            FakeTensorRT(LATEST_WEAK), replace(request_, log=str(tmp_path / "none/l")), silent
        )


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("name", ["img.fp32", "img.fp16", "txt.fp32", "txt.fp16"])
def test_tensorrt_rtx_builds_the_demos_engines_in_a_process(
    name: str, request_: BuildRequest, tmp_path: Path
) -> None:
    messages: list[str] = []
    plan = tmp_path / f"demo.{name}.trt"
    asked = replace(
        request_,
        onnx=str(DEMO / f"demo.{name}.onnx"),
        plan=str(plan),
        precision="fp16" if name.endswith("fp16") else "fp32",
        optimization_level=1,
    )
    result = run_builder(asked, progress=messages.append, limit_s=120)
    weights = (DEMO / f"demo.{name}.onnx.extra_file").stat().st_size
    assert plan.stat().st_size > 0.9 * weights
    assert result.typing == "strong"
    assert result.optimization_level == 1
    assert messages[0] == f"parsing demo.{name}.onnx"


@pytest.mark.usefixtures("rtx")
def test_a_dynamic_onnx_becomes_static_or_ranged(
    request_: BuildRequest, dynamic_onnx: Path, tmp_path: Path
) -> None:
    asked = replace(request_, onnx=str(dynamic_onnx), largest=8, optimum=4)
    run_builder(asked, progress=silent, limit_s=120)
    assert Path(asked.plan).stat().st_size > 0
    run_builder(replace(asked, smallest=8, optimum=8), progress=silent, limit_s=120)


@pytest.mark.usefixtures("rtx")
def test_an_operator_that_tensorrt_does_not_know_is_named(
    request_: BuildRequest, tmp_path: Path
) -> None:
    node = onnx.helper.make_node("NoSuchOp", ["image"], ["features"], name="the_node")
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4])
        for name in ("image", "features")
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    path = tmp_path / "odd.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConversionError, match=r"odd\.onnx.*'the_node' \(NoSuchOp\)"):
        run_builder(replace(request_, onnx=str(path)), progress=silent, limit_s=120)


def child(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let the builder be another program."""
    (folder / "other_builder.py").write_text(f"import os, sys, time\n{script}\n")
    monkeypatch.setattr(builder_process, "_MODULE", "other_builder")
    monkeypatch.syspath_prepend(str(folder))


def test_a_build_is_bounded_and_its_process_killed(
    request_: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    child(
        monkeypatch,
        tmp_path,
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)",
    )
    monkeypatch.setattr(builder_process, "_TICK_S", 1.0)
    messages: list[str] = []
    with pytest.raises(ConversionError, match=r"not built within 5 s \(last: starting\)"):
        run_builder(request_, progress=messages.append, limit_s=5)
    assert messages[0].startswith("starting (")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_build_that_is_stopped_from_another_thread_leaves_no_process(
    request_: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, stop = tmp_path / "pid", threading.Event()
    child(
        monkeypatch,
        tmp_path,
        f"open({str(pid)!r}, 'w').write(str(os.getpid())); os.write(int(sys.argv[1]), b'{{}}\\n')\n"
        "time.sleep(60)",
    )

    def stopping(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            stop.set()
            yield line

    real = builder_process._lines
    monkeypatch.setattr(builder_process, "_lines", lambda reading: stopping(real(reading)))
    with pytest.raises(ConversionError, match="was stopped"):
        run_builder(request_, progress=silent, stop=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("os.kill(os.getpid(), 11)", "ended with signal SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "signal SIGKILL.*takes too much memory"),
        ("sys.exit(3)", "ended with exit code 3"),
    ],
)
def test_a_crash_is_a_named_error(
    request_: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, how: str
) -> None:
    child(monkeypatch, tmp_path, script)
    with pytest.raises(ConversionError, match=how):
        run_builder(request_, progress=silent)


def test_a_builder_ends_with_its_parent(request_: BuildRequest, tmp_path: Path) -> None:
    """Killed outright, the parent can do nothing: its child must notice."""
    (tmp_path / "tensorrt.py").write_text(
        "import os, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    script = (
        "from clipfleet.convert.tensorrt.options import BuildRequest\n"
        "from clipfleet.convert.tensorrt.builder_process import run_builder\n"
        f"run_builder({request_!r}, progress=print)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        started = _until((tmp_path / "pid").read_text)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert _until(lambda: not _alive(int(started)))


def _until(what: Any) -> Any:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            found = what()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("not in time")


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_builder_starts_where_no_folder_hides_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its working folder comes first on its path, and the package has a folder of that name."""
    started: dict[str, Any] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **how: started.update(how))
    builder_process._start(0)
    assert (Path(started["cwd"]) / "clipfleet").is_dir()
    assert not (Path(started["cwd"]) / "tensorrt").exists()
