"""The differences between TensorRT's versions, against the interfaces of their real bindings."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from clipfleet.errors import DependencyError
from clipfleet.workers.engines.tensorrt import compat as versions
from clipfleet.workers.engines.tensorrt.logger import Messages
from tests.convert.tensorrt_interfaces import (
    EVERY,
    FAKES,
    LATEST,
    LATEST_WEAK,
    OLDEST,
    STRONG,
    WEAK,
    FakeTensorRT,
    Named,
    Tensor,
    builder_interface,
)
from tests.nvidia_bindings import RTX, differences, run_with_tensorrt, takes


@pytest.fixture(params=EVERY)
def trt(request: pytest.FixtureRequest) -> FakeTensorRT:
    return FakeTensorRT(request.param)


@pytest.mark.parametrize("version", EVERY)
def test_networks_are_strongly_typed_from_10_on(version: str) -> None:
    trt = FakeTensorRT(version)
    assert versions.strongly_typed(trt) is (version in STRONG)
    flags: Any = trt.NetworkDefinitionCreationFlag
    wanted = flags.STRONGLY_TYPED if version in STRONG else flags.EXPLICIT_BATCH
    assert versions.network_flags(trt) == 1 << int(wanted)


def test_a_version_without_any_flag_is_strongly_typed() -> None:
    trt: Any = FakeTensorRT(LATEST)
    trt.NetworkDefinitionCreationFlag = type("Flags", (), {})
    assert versions.strongly_typed(trt)
    assert versions.network_flags(trt) == 0


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_precision_flags_are_the_versions_own(version: str, precision: Any) -> None:
    trt = FakeTensorRT(version)
    config = trt.Config(trt)
    versions.set_precision(trt, config, precision)
    half = {"FP16"} if precision == "fp16" and version in WEAK else set()
    assert config._flags == half  # and no TF32, which every version has on


@pytest.mark.parametrize("version", WEAK)
def test_float32_layers_keep_their_floating_outputs_and_no_others(version: str) -> None:
    trt: Any = FakeTensorRT(version)
    kinds = trt.DataType
    layer = trt.Layer("n", [Tensor("a", (1,), kinds.HALF), Tensor("b", (1,), kinds.INT32)])
    shape = trt.Layer("s", [Tensor("c", (1,), kinds.INT32)])
    config = trt.Config(trt)
    versions.set_precision(trt, config, "fp16", [layer, shape])
    assert config._flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert layer.precision.name == "FLOAT"
    assert layer._types == {0: "FLOAT"}
    assert shape._types == {}


def test_the_optimisation_level_is_set_where_there_is_one(trt: FakeTensorRT) -> None:
    config = trt.Config(trt)
    known = trt.__version__ != OLDEST
    assert versions.set_optimization_level(config, None) == (3 if known else None)
    assert versions.set_optimization_level(config, 5) == (5 if known else None)


def test_workspace_and_tactic_sources_are_set(trt: FakeTensorRT) -> None:
    config = trt.Config(trt)
    versions.set_workspace(trt, config, 1 << 30)
    assert config._pools == {"WORKSPACE": 1 << 30}
    versions.set_tactic_sources(trt, config, ["JIT_CONVOLUTIONS", "EDGE_MASK_CONVOLUTIONS"])
    sources: Any = trt.TacticSource
    wanted = 1 << int(sources.JIT_CONVOLUTIONS) | 1 << int(sources.EDGE_MASK_CONVOLUTIONS)
    assert config._sources == wanted
    with pytest.raises(ValueError, match="no tactic source 'CUBLASS': this version has"):
        versions.set_tactic_sources(trt, config, ["CUBLASS"])


def test_progress_is_watched_from_10_on(trt: FakeTensorRT) -> None:
    messages: list[str] = []
    config = trt.Config(trt)
    assert versions.watch_progress(trt, config, messages.append) is (trt.__version__ in STRONG)
    if trt.__version__ in STRONG:
        config.progress_monitor.phase_start("Tactic timing", None, 4)
        assert config.progress_monitor.step_complete("Tactic timing", 1) is True
        config.progress_monitor.phase_finish("Tactic timing")
        assert messages == ["Tactic timing: 2 of 4"]


def test_contexts_share_a_profile_only_where_that_must_be_asked_for(trt: FakeTensorRT) -> None:
    config = trt.Config(trt)
    versions.share_profile(trt, config)
    assert config._features == (
        {"PROFILE_SHARING_0806"} if trt.__version__ == LATEST_WEAK else set()
    )


def test_only_rtx_has_no_timing_cache(trt: FakeTensorRT) -> None:
    assert versions.has_timing_cache(trt) is (trt.__version__ != RTX)
    assert versions.is_rtx(trt) is (trt.__version__ == RTX)


def test_what_the_parser_could_not_take_is_named(trt: FakeTensorRT) -> None:
    trt.parses = False
    nodes = [("a", "Add")] * 17 + [("node_layer_norm", "LayerNormalization")]
    (problem,) = versions.parser_problems(trt.OnnxParser(None, None), nodes)
    assert problem == ("node 'node_layer_norm' (LayerNormalization): no importer registered for op")


@pytest.mark.parametrize(
    ("name", "metadata", "node"),
    [
        ("x", "[ONNX Layer: norm_1]", "norm_1"),
        ("norm", "", "norm"),
        ("norm_1", "", "norm_1"),
        ("norm_7", "", "norm"),
        ("ONNXTRT_Broadcast_3", "", None),
    ],
)
def test_a_layer_knows_its_onnx_node(name: str, metadata: str, node: str | None) -> None:
    layer = FakeTensorRT(LATEST_WEAK).Layer(name, [], metadata)
    assert versions.onnx_node(layer, {"norm", "norm_1"}) == node


def test_before_8_6_a_layers_name_is_its_nodes() -> None:
    layer = FakeTensorRT(OLDEST).Layer("norm", [])
    assert versions.onnx_node(layer, {"norm"}) == "norm"


def test_dtypes_have_numpys_names(trt: FakeTensorRT) -> None:
    kinds: Any = trt.DataType
    named = {name: versions.numpy_name(kind) for name, kind in kinds.__members__.items()}
    assert (named["FLOAT"], named["HALF"], named["INT32"]) == ("float32", "float16", "int32")
    assert named.get("INT64", "int64") == "int64"
    assert named.get("FP8", "fp8") == "fp8"


def test_errors_explain_before_warnings() -> None:
    messages = Messages()
    assert messages.explain() == "no reason given"
    messages.add("INFO", "nothing")
    messages.add("WARNING", "careful")
    assert messages.explain() == "careful"
    messages.add("INTERNAL_ERROR", "a")
    messages.add("ERROR", "b")
    assert messages.explain() == "a; b"


def test_rtx_serves_where_only_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = ModuleType("tensorrt_rtx_bindings")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", rtx)
    assert versions.load_tensorrt() is rtx


def test_without_tensorrt_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[gpu\]'"):
        versions.load_tensorrt()


@pytest.mark.parametrize("version", [version for version in EVERY if version != OLDEST])
def test_the_fakes_have_the_real_names_and_parameters(version: str) -> None:
    real = builder_interface(version).classes
    for name, fake in FAKES.items():
        different = differences(fake, real[name])
        if issubclass(fake, Named):  # it refuses the names that this version has not
            different = {found for found in different if "(" in found}
        assert different == set(), name
    assert takes(real["Builder"]["__init__"][0], ["logger"])
    assert takes(real["OnnxParser"]["__init__"][0], ["network", "logger"])
    assert {"dtype", "name", "shape"} <= set(real["ITensor"])


@pytest.mark.parametrize("name", [name for name, fake in FAKES.items() if issubclass(fake, Named)])
def test_every_name_of_a_fake_is_one_of_some_version(name: str) -> None:
    known = set().union(*(builder_interface(version).classes[name] for version in EVERY))
    assert {found for found in vars(FAKES[name]) if not found.startswith("_")} <= known


_SUBCLASSES = """
import importlib, json, sys
from types import SimpleNamespace
from clipfleet.workers.engines.tensorrt import compat
from clipfleet.workers.engines.tensorrt.logger import Messages
trt = importlib.import_module(sys.argv[1])
messages, told, config = Messages(), [], SimpleNamespace()
logger = messages.logger(trt)
logger.log(trt.ILogger.Severity.ERROR, "an error")
if compat.watch_progress(trt, config, told.append):
    assert isinstance(config.progress_monitor, trt.IProgressMonitor)
    config.progress_monitor.phase_start("Tactic timing", None, 4)
    config.progress_monitor.step_complete("Tactic timing", 1)
    config.progress_monitor.phase_finish("Tactic timing")
logged = isinstance(logger, trt.ILogger) and messages.errors
flags, half = compat.network_flags(trt), compat.numpy_name(trt.DataType.HALF)
json.dump([logged, told, flags, half], sys.stdout)
"""


@pytest.mark.parametrize("version", [version for version in EVERY if version != OLDEST])
def test_logger_and_monitor_are_subclasses_of_the_real_ones(version: str) -> None:
    logged, told, flags, half = json.loads(run_with_tensorrt(version, _SUBCLASSES))
    assert logged == ["an error"]
    assert told == (["Tactic timing: 2 of 4"] if version in STRONG else [])
    assert flags == versions.network_flags(FakeTensorRT(version))
    assert half == "float16"
