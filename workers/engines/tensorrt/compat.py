"""Every difference between TensorRT's versions, so that no other module asks for a version.

One code path serves TensorRT 8.5, 8.6, 10.x, 11.x and TensorRT-RTX 1.x. What exists is asked of
the module itself rather than of its version number; each function names the version that made
the difference. TensorRT is not imported before `load_tensorrt` is called.

What really ran: 8.6.0, on a GPU, and TensorRT-RTX 1.7.1's parser and builder, without one. For
8.5, 10.x and 11.x it is the interfaces recorded in the tests that are kept to.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Container, Iterable, Sequence
from types import ModuleType
from typing import Any

from clipfleet.errors import DependencyError
from clipfleet.model_card import Precision
from clipfleet.workers.engines.cuda.runtime import load_kernels_lazily

_PACKAGES = ("tensorrt", "tensorrt_rtx_bindings")  # RTX's wheel has no module of its own name
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_NUMBER = re.compile(r"_\d+$")
_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",  # from 10.0; before, the parser casts int64 inputs to int32
    "BOOL": "bool",
}


def load_tensorrt() -> ModuleType:
    """Return TensorRT's module, or TensorRT-RTX's where only that is installed.

    Raises:
        DependencyError: Neither is installed, or its libraries do not load.
    """
    load_kernels_lazily()
    failures: list[str] = []
    for name in _PACKAGES:
        module = _import(name, failures)
        if module is not None:
            return module
    raise DependencyError(
        f"TensorRT engines need TensorRT ({'; '.join(failures)}): from a checkout, "
        "pip install '.[gpu]'"
    )


def _import(name: str, failures: list[str]) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that it needs
        failures.append(str(error))
        return None


def is_rtx(trt: ModuleType) -> bool:
    """Whether this is TensorRT-RTX, which tunes engines when they are loaded, not built."""
    return trt.__name__.startswith("tensorrt_rtx")


def strongly_typed(trt: ModuleType) -> bool:
    """Whether the ONNX file decides every layer's precision, not the builder's flags.

    10.0 brought strongly typed networks, 10.12 deprecated the others' flags, 11.0 and RTX
    dropped them.
    """
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(
        trt.BuilderFlag, "FP16"
    )


def network_flags(trt: ModuleType) -> int:
    """Return `create_network`'s argument: 8.x needs EXPLICIT_BATCH, which 10.0 ignores, 11.0 lost.

    By name: the value of a flag is not the same in every version.
    """
    flags = trt.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if strongly_typed(trt) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0


def set_precision(
    trt: ModuleType, config: Any, precision: Precision, fp32_layers: Iterable[Any] = ()
) -> None:
    """Let the builder use float16 where the network is weakly typed, but in `fp32_layers`.

    TF32, which is on by default in every version, rounds a product's factors to 10 bits: what
    is float32 here is float32. It also makes up nearly half of the kernels that a weakly typed
    builder would measure for a float16 convolution.
    """
    config.clear_flag(trt.BuilderFlag.TF32)
    if strongly_typed(trt):
        return
    if precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    for layer in fp32_layers:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        keep_float32(trt, layer)


def keep_float32(trt: ModuleType, layer: Any) -> None:
    """Hold a layer of a weakly typed network, and its floating-point outputs, at float32."""
    kinds = (trt.DataType.FLOAT, trt.DataType.HALF)
    outputs = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype in kinds]
    if outputs:
        layer.precision = trt.DataType.FLOAT
    for index in outputs:
        layer.set_output_type(index, trt.DataType.FLOAT)


def set_optimization_level(config: Any, level: int | None) -> int | None:
    """Set how hard the builder searches, 0 to 5, and return the level in force; 8.6 brought it."""
    if not hasattr(config, "builder_optimization_level"):
        return None
    if level is not None:
        config.builder_optimization_level = level
    return int(config.builder_optimization_level)


def set_tactic_sources(trt: ModuleType, config: Any, names: Iterable[str]) -> None:
    """Let the builder draw kernels from these sources only (CUBLAS_LT, JIT_CONVOLUTIONS, …).

    10.0 deprecated, and RTX and 11.0 lost, the sources that are other libraries.

    Raises:
        ValueError: This version has no source of a name.
    """
    offered = trt.TacticSource.__members__
    unknown = [name for name in names if name not in offered]
    if unknown:
        raise ValueError(f"no tactic source {unknown[0]!r}: this version has {', '.join(offered)}")
    config.set_tactic_sources(sum(1 << int(offered[name]) for name in set(names)))


def set_workspace(trt: ModuleType, config: Any, size_bytes: int) -> None:
    """Limit the memory that the builder and the engine's layers may use for scratch.

    8.4 brought memory pools; `max_workspace_size` before them is gone from 10.0.
    """
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)


def has_timing_cache(trt: ModuleType) -> bool:
    """Whether builds are shortened by what earlier ones measured: not on RTX, a no-op there."""
    return not is_rtx(trt)


def watch_progress(trt: ModuleType, config: Any, report: Callable[[str], None]) -> bool:
    """Have the builder report its phases; return whether it can, which 10.0 brought."""
    if not hasattr(trt, "IProgressMonitor"):
        return False

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """The builder's phases, which nest; its methods are called from the builder's threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(
            self,
            phase_name: str,
            parent_phase: str | None,  # noqa: ARG002
            num_steps: int,
        ) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(f"{phase_name}: {step + 1} of {self.steps.get(phase_name, '?')}")
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    config.progress_monitor = Monitor()
    return True


def share_profile(trt: ModuleType, config: Any) -> None:
    """Let several execution contexts of a dynamic engine have its one profile.

    8.6 brought this as a preview feature, 10.0 made it so for all; in 8.5 it cannot be.
    """
    preview: Any = getattr(trt, "PreviewFeature", None)
    if hasattr(preview, "PROFILE_SHARING_0806") and not strongly_typed(trt):
        config.set_preview_feature(preview.PROFILE_SHARING_0806, True)


def take_profile(context: Any, stream: int) -> bool:
    """Give an execution context the dynamic shapes' only profile; return whether it could.

    Before 10.0 only an engine's first context has a profile, and a second one cannot have the
    same: in 8.6 it can where the engine was built with PROFILE_SHARING_0806, in 8.5 never. The
    stream must be waited for.
    """
    if context.active_optimization_profile == 0:
        return True
    return bool(context.set_optimization_profile_async(0, stream))


def numpy_name(dtype: Any) -> str:
    """Return NumPy's name of a `DataType`; its own name where NumPy has none (BF16, FP8)."""
    return _NUMPY_NAMES.get(dtype.name, str(dtype.name).lower())


def parser_problems(parser: Any, nodes: Sequence[tuple[str, str]]) -> list[str]:
    """Return what an `OnnxParser` could not take: the node, its operator, and why.

    10.0 brought `node_name` and `node_operator`; before, an error has a number of the file's
    `nodes`, which are names and operators.
    """
    return [_parser_problem(parser.get_error(index), nodes) for index in range(parser.num_errors)]


def _parser_problem(error: Any, nodes: Sequence[tuple[str, str]]) -> str:
    if hasattr(error, "node_operator"):
        name, operator = error.node_name(), error.node_operator()
    else:
        number = int(error.node())
        name, operator = nodes[number] if 0 <= number < len(nodes) else ("", "")
    return f"node {name!r} ({operator}): {error.desc()}" if operator else str(error.desc())


def onnx_node(layer: Any, nodes: Container[str]) -> str | None:
    """Return which of an ONNX file's nodes the parser made a layer of.

    8.6 brought `metadata`, in which the parser names the node; before, the layer has the
    node's name, with a number where it is one of several.
    """
    told = _ONNX_LAYER.search(getattr(layer, "metadata", "") or "")
    for name in (told and told[1], layer.name, _NUMBER.sub("", layer.name)):
        if name and name in nodes:
            return str(name)
    return None
