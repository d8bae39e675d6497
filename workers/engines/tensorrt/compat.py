"""All differences between TensorRT's versions, so that no other module checks a version.

One code path serves TensorRT 8.5, 8.6, 10.x, 11.x and TensorRT-RTX 1.x. It checks the module's
attributes rather than its version number; each function names the version that made the
difference. TensorRT is not imported before `load_tensorrt` is called.

Version 8.6.0 ran on GPUs, and the parser and builder of TensorRT-RTX 1.7.1 without one. All calls
are compared with NVIDIA's bindings of 8.6.1, 10.16 and 11.4; the differences of 8.5 are recorded.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Container, Iterable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from clipfleet.errors import DependencyError
from clipfleet.model_card import Precision
from clipfleet.workers.engines.cuda.runtime import load_kernels_lazily

log = logging.getLogger(__name__)

TESTED_VERSION = "8.6.0"  # all of tests/gpu ran with it

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
    """Return TensorRT's module, or TensorRT-RTX's if only that is installed.

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
    except (ImportError, OSError) as error:  # OSError: a missing library
        failures.append(str(error))
        return None


def is_rtx(trt: ModuleType) -> bool:
    """Return whether this is TensorRT-RTX, which tunes engines when it loads them."""
    return trt.__name__.startswith("tensorrt_rtx")


def untested_note(trt: ModuleType) -> str:
    """Return what to know of a version that never ran in tests/gpu; empty for the one that did."""
    if trt.__version__ == TESTED_VERSION:
        return ""
    name = "TensorRT-RTX" if is_rtx(trt) else "TensorRT"
    return (
        f"clipfleet's GPU tests ran with TensorRT {TESTED_VERSION}, not with {name} "
        f"{trt.__version__}: `build` and `adopt` keep an engine only if it agrees with its float32 "
        "ONNX file on this GPU"
    )


@cache
def warn_if_untested(trt: ModuleType) -> None:
    """Log the note on an untested version, once in a process."""
    if note := untested_note(trt):
        log.warning(note)


def strongly_typed(trt: ModuleType) -> bool:
    """Return whether the ONNX file sets each layer's precision, rather than the builder's flags.

    10.0 added strongly typed networks, 10.12 deprecated the flags of weakly typed networks, 11.0
    and RTX removed them. Since 11.0 STRONGLY_TYPED has no effect.
    """
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(
        trt.BuilderFlag, "FP16"
    )


def network_flags(trt: ModuleType) -> int:
    """Return `create_network`'s argument: 8.x needs EXPLICIT_BATCH; 10.0 ignores it; 11.0 has none.

    The flag is looked up by name, for its value differs between versions.
    """
    flags = trt.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if strongly_typed(trt) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0


def set_precision(
    trt: ModuleType, config: Any, precision: Precision, fp32_layers: Iterable[Any] = ()
) -> None:
    """Let the builder of a weakly typed network use float16, except in `fp32_layers`.

    TF32, which is on by default in every version, is turned off: it rounds a product's factors
    to 10 bits. It also makes up nearly half of the kernels that a weakly typed builder would
    measure for a float16 convolution.
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
    """Keep a layer of a weakly typed network, and its floating-point outputs, in float32."""
    kinds = (trt.DataType.FLOAT, trt.DataType.HALF)
    outputs = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype in kinds]
    if outputs:
        layer.precision = trt.DataType.FLOAT
    for index in outputs:
        layer.set_output_type(index, trt.DataType.FLOAT)


def set_optimization_level(config: Any, level: int | None) -> int | None:
    """Set the builder's search effort, 0 to 5, and return the level in force; 8.6 added it."""
    if not hasattr(config, "builder_optimization_level"):
        return None
    if level is not None:
        config.builder_optimization_level = level
    return int(config.builder_optimization_level)


def set_tactic_sources(trt: ModuleType, config: Any, names: Iterable[str]) -> None:
    """Let the builder take kernels from these sources only (CUBLAS_LT, JIT_CONVOLUTIONS, …).

    10.0 deprecated the sources that are other libraries; RTX and 11.0 removed them.

    Raises:
        ValueError: This version has no source of that name.
    """
    offered = trt.TacticSource.__members__
    unknown = [name for name in names if name not in offered]
    if unknown:
        raise ValueError(f"no tactic source {unknown[0]!r}: this version has {', '.join(offered)}")
    config.set_tactic_sources(sum(1 << int(offered[name]) for name in set(names)))


def set_workspace(trt: ModuleType, config: Any, size_bytes: int) -> None:
    """Limit the scratch memory of the builder and of the engine's layers.

    8.4 added memory pools; 10.0 removed the older `max_workspace_size`.
    """
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)


def has_timing_cache(trt: ModuleType) -> bool:
    """Return whether a timing cache of earlier builds shortens a build; RTX ignores it."""
    return not is_rtx(trt)


def watch_progress(trt: ModuleType, config: Any, report: Callable[[str], None]) -> bool:
    """Make the builder report its phases; return whether it can, which 10.0 added."""
    if not hasattr(trt, "IProgressMonitor"):
        return False

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Reports the builder's nested phases; the builder's threads call its methods."""

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
    """Let several execution contexts of a dynamic engine share its one profile.

    8.6 added this as a preview feature; since 10.0 it is always so; 8.5 cannot do it.
    """
    preview: Any = getattr(trt, "PreviewFeature", None)
    if hasattr(preview, "PROFILE_SHARING_0806") and not strongly_typed(trt):
        config.set_preview_feature(preview.PROFILE_SHARING_0806, True)


def take_profile(context: Any, stream: int) -> bool:
    """Give an execution context the engine's only profile; return whether that succeeded.

    Before 10.0 only an engine's first context has the profile. A second context can share it in
    8.6 if the engine was built with PROFILE_SHARING_0806, and in 8.5 never. The caller must wait
    for the stream.
    """
    if context.active_optimization_profile == 0:
        return True
    return bool(context.set_optimization_profile_async(0, stream))


def numpy_name(dtype: Any) -> str:
    """Return NumPy's name of a `DataType`, or its own name if NumPy has none (BF16, FP8)."""
    return _NUMPY_NAMES.get(dtype.name, str(dtype.name).lower())


def parser_problems(parser: Any, nodes: Sequence[tuple[str, str]]) -> list[str]:
    """Return the errors of an `OnnxParser`: the node, its operator, and the reason.

    10.0 added `node_name` and `node_operator`. Before, an error has an index into the file's
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
    """Return the ONNX node of which the parser made a layer; None if it is none of `nodes`.

    8.6 added `metadata`, in which the parser names the node. Before, the layer has the node's
    name, with a number if the node became several layers.
    """
    metadata = _ONNX_LAYER.search(getattr(layer, "metadata", "") or "")
    for name in (metadata and metadata[1], layer.name, _NUMBER.sub("", layer.name)):
        if name and name in nodes:
            return str(name)
    return None
