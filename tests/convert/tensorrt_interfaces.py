"""A `tensorrt` module of each version, with the names of that version's builder and no others.

The names and numbers are read from NVIDIA's bindings (`tests/nvidia_bindings.py`). Those of 8.5,
which has no wheel for CPython 3.11, are 8.6's without what 8.6 added, by the public sources of the
bindings (python/src/infer/pyCore.cpp).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from tests.nvidia_bindings import RTX, TENSORRT, Interface, tensorrt_interface

OLDEST = "8.5.2.2"
WEAK = (OLDEST, TENSORRT[0])
STRONG = (*TENSORRT[1:], RTX)
EVERY = (*WEAK, *STRONG)
LATEST_WEAK, LATEST = TENSORRT[0], TENSORRT[-1]
DAMAGED = b"damaged"

Of = TypeVar("Of")

_ADDED_BY_86 = {
    "IBuilderConfig": "builder_optimization_level hardware_compatibility_level max_aux_streams "
    "plugins_to_serialize",
    "ILayer": "metadata",
    "BuilderFlag": "VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8",
    "DataType": "FP8",
    "PreviewFeature": "PROFILE_SHARING_0806",
}
_ENUMERATIONS = (
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "TacticSource",
    "DataType",
    "PreviewFeature",
    "MemoryPoolType",
)


@cache
def builder_interface(version: str) -> Interface:
    """Return the interface of one of `EVERY`."""
    if version != OLDEST:
        return tensorrt_interface(version)
    newer = tensorrt_interface(LATEST_WEAK)
    classes, enumerations = _older(newer.classes), _older(newer.enumerations)
    return replace(newer, version=version, classes=classes, enumerations=enumerations)


def _older(found: dict[str, dict[str, Of]]) -> dict[str, dict[str, Of]]:
    """Return the names of 8.6 without those that it added."""
    added = {name: members.split() for name, members in _ADDED_BY_86.items()}
    return {
        name: {key: value for key, value in members.items() if key not in added.get(name, ())}
        for name, members in found.items()
    }


class Member(int):
    """An enumeration's member: an int with a name."""

    name: str


def _enum(name: str, members: dict[str, int]) -> type:
    values = {}
    for member, number in members.items():
        values[member] = Member(number)
        values[member].name = member
    return type(name, (), {**values, "__members__": values})


class Named:
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


class Cache:
    """A timing cache whose content is lines."""

    def __init__(self, content: bytes) -> None:
        self._lines = set(content.split(b"\n")) - {b""}

    def combine(self, input_cache: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self._lines |= input_cache._lines
        return True

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self._lines))


class Config(Named):
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

    def set_memory_pool_limit(self, pool: Member, pool_size: int) -> None:
        self._pools[pool.name] = pool_size

    def set_preview_feature(self, feature: Member, enable: bool) -> None:
        assert enable
        self._features.add(feature.name)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = tactic_sources
        return True

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Cache | None:
        damaged = serialized_timing_cache == DAMAGED
        return None if damaged else Cache(serialized_timing_cache)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self._cache = cache
        return True


class Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer(Named):
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


class ParserError(Named):
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

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self.shapes[input] = (min, opt, max)


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
        self._interface = builder_interface(version)
        self.__version__ = version
        self.made: dict[str, Any] = {}
        self.input_shape: tuple[int, ...] = (1, 3, 32, 32)
        self.layers: list[Any] = []
        self.parses = True
        self.plan: bytes | None = b"plan"
        self.complaint = "Could not find any implementation for node Conv_0."
        for name in _ENUMERATIONS:
            setattr(self, name, _enum(name, self._interface.enumerations[name]))
        self.Config = self._named(Config, "IBuilderConfig")
        self.Layer = self._named(Layer, "ILayer")
        self.ParserError = self._named(ParserError, "ParserError")
        self.ILogger = type("ILogger", (), {"__init__": lambda logger: None})
        if "IProgressMonitor" in self._interface.classes:
            self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda monitor: None})

    def _named(self, base: type, name: str) -> Any:
        return type(name, (base,), {"names": frozenset(self._interface.classes[name])})

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        self.made["logger"] = logger
        return Builder(self)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        return Parser(self)

    def say(self, severity: str, message: str) -> None:
        member = Member(0)
        member.name = severity
        self.made["logger"].log(member, message)


class Builder:
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


class Parser:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self.num_errors = 0 if trt.parses else 1

    def parse_from_file(self, model: str) -> bool:
        assert Path(model).is_absolute()
        return self._trt.parses

    def get_error(self, index: int) -> Any:
        return self._trt.ParserError()


FAKES: dict[str, type] = {
    "Builder": Builder,
    "IBuilderConfig": Config,
    "ILayer": Layer,
    "INetworkDefinition": Network,
    "IOptimizationProfile": Profile,
    "ITimingCache": Cache,
    "OnnxParser": Parser,
    "ParserError": ParserError,
}
