"""TensorRT's Python interface in each version, and a module that has only the names of one.

8.6.0 and RTX 1.7.1 were recorded from the bindings themselves (`dir`, `__members__`); 8.5 and 10
are read from the public sources of the bindings, python/src/infer/pyCore.cpp; 11 has the rest of 10
once its deprecated names are gone. Only the classes that a builder meets are here.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

_CONFIG_85 = """DLA_core add_optimization_profile algorithm_selector avg_timing_iterations
can_run_on_DLA clear_flag clear_quantization_flag create_timing_cache default_device_type
engine_capability flags get_calibration_profile get_device_type get_flag get_memory_pool_limit
get_preview_feature get_quantization_flag get_tactic_sources get_timing_cache int8_calibrator
is_device_type_set max_workspace_size min_timing_iterations num_optimization_profiles
profile_stream profiling_verbosity quantization_flags reset reset_device_type
set_calibration_profile set_device_type set_flag set_memory_pool_limit set_preview_feature
set_quantization_flag set_tactic_sources set_timing_cache"""
_CONFIG_86 = f"""{_CONFIG_85} builder_optimization_level hardware_compatibility_level
max_aux_streams plugins_to_serialize"""
_CONFIG_RTX = """DLA_core add_optimization_profile all_build_routes avg_timing_iterations
build_route builder_optimization_level can_run_on_DLA clear_flag create_timing_cache
default_device_type engine_capability flags get_compute_capability get_device_type get_flag
get_memory_pool_limit get_preview_feature get_tactic_sources get_timing_cache
hardware_compatibility_level
is_device_type_set l2_limit_for_tiling max_aux_streams max_num_tactics num_compute_capabilities
num_optimization_profiles plugins_to_serialize profile_stream profiling_verbosity
progress_monitor reset reset_device_type runtime_platform set_compute_capability
set_device_type set_flag set_memory_pool_limit set_preview_feature set_tactic_sources
set_timing_cache tiling_optimization_level"""
_CONFIG_11 = " ".join(
    name
    for name in _CONFIG_RTX.split()
    if "compute_capabilit" not in name and "build_route" not in name
)
_CONFIG_10 = f"""{_CONFIG_11} algorithm_selector clear_quantization_flag get_calibration_profile
get_quantization_flag int8_calibrator quantization_flags set_calibration_profile
set_quantization_flag"""
_LAYER_RTX = (
    "get_input get_output get_output_type metadata name num_inputs num_outputs set_input type"
)
_LAYER_86 = f"""{_LAYER_RTX} output_type_is_set precision precision_is_set reset_output_type
reset_precision set_output_type"""
_ERROR_85 = "code desc file func line node"
_ERROR_10 = f"{_ERROR_85} local_function_stack local_function_stack_size node_name node_operator"
_FLAGS_85 = """FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32
SPARSE_WEIGHTS SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO
REJECT_EMPTY_ALGORITHMS ENABLE_TACTIC_HEURISTIC"""
_FLAGS_86 = f"{_FLAGS_85} VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8"
_FLAGS_RTX = """DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE EDITABLE_TIMING_CACHE TF32
SPARSE_WEIGHTS SAFETY_SCOPE DIRECT_IO VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME
ERROR_ON_TIMING_CACHE_MISS DISABLE_COMPILATION_CACHE STRIP_PLAN REFIT_IDENTICAL
WEIGHT_STREAMING REFIT_INDIVIDUAL STRICT_NANS MONITOR_MEMORY DISTRIBUTIVE_INDEPENDENCE
REQUIRE_USER_ALLOCATION"""
_FLAGS_10 = f"FP16 BF16 INT8 FP8 OBEY_PRECISION_CONSTRAINTS {_FLAGS_RTX}"
_SOURCES_RTX = "EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS"
_SOURCES = f"CUBLAS CUBLAS_LT CUDNN {_SOURCES_RTX}"
_FEATURES_85 = "FASTER_DYNAMIC_SHAPES_0805 DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"
_FEATURES_RTX = "ALIASED_PLUGIN_IO_10_03 RUNTIME_ACTIVATION_RESIZE_10_10"
_TYPES_85 = "FLOAT HALF INT8 INT32 BOOL UINT8"
_TYPES_RTX = "FLOAT HALF BF16 INT8 INT32 INT64 BOOL UINT8 FP8 INT4 FP4 E8M0"

Names = dict[str, str]

INTERFACES: dict[str, Names] = {
    "8.5.2.2": {
        "IBuilderConfig": _CONFIG_85,
        "ILayer": _LAYER_86.replace("metadata ", ""),
        "ParserError": _ERROR_85,
        "BuilderFlag": _FLAGS_85,
        "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH EXPLICIT_PRECISION",
        "TacticSource": _SOURCES,
        "DataType": _TYPES_85,
        "PreviewFeature": _FEATURES_85,
    },
    "8.6.0": {
        "IBuilderConfig": _CONFIG_86,
        "ILayer": _LAYER_86,
        "ParserError": _ERROR_85,
        "BuilderFlag": _FLAGS_86,
        "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH EXPLICIT_PRECISION",
        "TacticSource": _SOURCES,
        "DataType": f"{_TYPES_85} FP8",
        "PreviewFeature": f"{_FEATURES_85} PROFILE_SHARING_0806",
    },
    "10.16.1": {
        "IBuilderConfig": _CONFIG_10,
        "ILayer": _LAYER_86,
        "ParserError": _ERROR_10,
        "IProgressMonitor": "",
        "BuilderFlag": _FLAGS_10,
        "NetworkDefinitionCreationFlag": (
            "EXPLICIT_BATCH STRONGLY_TYPED PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS"
        ),
        "TacticSource": _SOURCES,
        "DataType": _TYPES_RTX,
        "PreviewFeature": f"PROFILE_SHARING_0806 {_FEATURES_RTX}",
    },
    "11.1.0": {
        "IBuilderConfig": _CONFIG_11,
        "ILayer": _LAYER_RTX,
        "ParserError": _ERROR_10,
        "IProgressMonitor": "",
        "BuilderFlag": _FLAGS_RTX,
        "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
        "TacticSource": _SOURCES_RTX,
        "DataType": _TYPES_RTX,
        "PreviewFeature": _FEATURES_RTX,
    },
    "1.7.1": {
        "IBuilderConfig": _CONFIG_RTX,
        "ILayer": f"{_LAYER_RTX} num_ranks",
        "ParserError": _ERROR_10,
        "IProgressMonitor": "",
        "BuilderFlag": _FLAGS_RTX,
        "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
        "TacticSource": _SOURCES_RTX,
        "DataType": _TYPES_RTX,
        "PreviewFeature": _FEATURES_RTX,
    },
}
RTX = "1.7.1"
WEAK = ("8.5.2.2", "8.6.0")
STRONG = ("10.16.1", "11.1.0", RTX)
_TIMING_CACHE = "combine reset serialize"
_ENUMERATIONS = (
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "TacticSource",
    "DataType",
    "PreviewFeature",
)
DAMAGED = b"damaged"


class Member(int):
    """An enumeration's member: an int with a name."""

    name: str


def _enum(name: str, members: str) -> type:
    values = {}
    for number, member in enumerate(members.split()):
        values[member] = Member(number)
        values[member].name = member
    return type(name, (), {**values, "__members__": values})


class Recorded:
    """An object that has the names of one version's class, and no others."""

    names: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in type(self).names:
            raise AttributeError(f"this version's {type(self).__name__} has no {name!r}")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in type(self).names:
            raise AttributeError(f"this version's {type(self).__name__} has no {name!r}")
        super().__setattr__(name, value)


class Cache(Recorded):
    """A timing cache whose content is lines."""

    names = frozenset(_TIMING_CACHE.split())

    def __init__(self, content: bytes) -> None:
        self._lines = set(content.split(b"\n")) - {b""}

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self._lines |= other._lines
        return True

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self._lines))


class Config(Recorded):
    def __init__(self, trt: Any) -> None:
        self._flags = {"TF32"}
        self._pools: dict[str, int] = {}
        self._sources: int | None = None
        self._features: set[str] = set()
        self._profiles: list[Any] = []
        self._cache: Cache | None = None
        if "builder_optimization_level" in type(self).names:
            self.builder_optimization_level = 3

    def set_flag(self, flag: Member) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Member) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Member, size: int) -> None:
        self._pools[pool.name] = size

    def set_preview_feature(self, feature: Member, enable: bool) -> None:
        assert enable
        self._features.add(feature.name)

    def set_tactic_sources(self, sources: int) -> bool:
        self._sources = sources
        return True

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return 0

    def create_timing_cache(self, content: bytes) -> Cache | None:
        return None if content == DAMAGED else Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self._cache = cache
        return True


class Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer(Recorded):
    def __init__(self, name: str, outputs: list[Tensor], metadata: str = "") -> None:
        self._types: dict[int, str] = {}
        self._outputs = outputs
        self.name = name
        if "metadata" in type(self).names:
            self.metadata = metadata

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]

    def set_output_type(self, index: int, dtype: Member) -> None:
        self._types[index] = dtype.name


class ParserError(Recorded):
    def code(self) -> str:
        return "UNSUPPORTED_NODE"

    def desc(self) -> str:
        return "no importer registered for op"

    def node(self) -> int:
        return 17

    def node_name(self) -> str:
        return "node_layer_norm"

    def node_operator(self) -> str:
        return "LayerNormalization"


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, *shapes: Any) -> None:
        self.shapes[name] = shapes


class Network:
    def __init__(self, flags: int, source: Tensor, layers: list[Any]) -> None:
        self.flags, self._source, self._layers = flags, source, layers

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Tensor:
        assert index == 0
        return self._source


class FakeTensorRT(ModuleType):
    """The `tensorrt` module of one version; `made` holds the objects of a build."""

    def __init__(self, version: str) -> None:
        super().__init__("tensorrt_rtx_bindings" if version == RTX else "tensorrt")
        names = INTERFACES[version]
        self.__version__ = version
        self.made: dict[str, Any] = {}
        self.input_shape: tuple[int, ...] = (1, 3, 32, 32)
        self.layers: list[Any] = []
        self.parses = True
        self.plan: bytes | None = b"plan"
        self.complaint = "Could not find any implementation for node Conv_0."
        for name in _ENUMERATIONS:
            setattr(self, name, _enum(name, names[name]))
        self.MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE DLA_MANAGED_SRAM")
        self.Config = self._recorded(Config, "IBuilderConfig")
        self.Layer = self._recorded(Layer, "ILayer")
        self.ParserError = self._recorded(ParserError, "ParserError")
        self.ILogger = type("ILogger", (), {"__init__": lambda logger: None})
        if "IProgressMonitor" in names:
            self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda monitor: None})

    def _recorded(self, base: type, name: str) -> Any:
        names = frozenset(INTERFACES[self.__version__][name].split())
        return type(name, (base,), {"names": names})

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        self.made["logger"] = logger
        return _Builder(self)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        return _Parser(self)

    def say(self, severity: str, message: str) -> None:
        member = Member(0)
        member.name = severity
        self.made["logger"].log(member, message)


class _Builder:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def create_network(self, flags: int) -> Network:
        trt: Any = self._trt
        source = Tensor("image", trt.input_shape, trt.DataType.FLOAT)
        trt.made["network"] = Network(flags, source, trt.layers)
        network: Network = trt.made["network"]
        return network

    def create_builder_config(self) -> Any:
        self._trt.made["config"] = self._trt.Config(self._trt)
        return self._trt.made["config"]

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        if self._trt.plan is None:
            self._trt.say("WARNING", "a warning")
            self._trt.say("ERROR", self._trt.complaint)
        monitor = config.progress_monitor if hasattr(config, "progress_monitor") else None
        if monitor is not None:
            monitor.phase_start("Tactic timing", None, 4)
            assert monitor.step_complete("Tactic timing", 0) is True
            monitor.phase_finish("Tactic timing")
        if config._cache is not None:
            config._cache._lines.add(b"measured")
        return self._trt.plan


class _Parser:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self.num_errors = 0 if trt.parses else 1

    def parse_from_file(self, path: str) -> bool:
        assert Path(path).is_absolute()
        return self._trt.parses

    def get_error(self, index: int) -> Any:
        return self._trt.ParserError()
