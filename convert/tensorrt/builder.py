"""Build the bytes of a TensorRT engine from an ONNX file, with every version of TensorRT."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from clipfleet.convert.export.onnx_graph import read_nodes
from clipfleet.convert.tensorrt.options import BuildRequest, BuildResult
from clipfleet.convert.tensorrt.timing_cache import TimingCache, cache_name
from clipfleet.errors import ConversionError, UsageError
from clipfleet.model_card import BatchProfile
from clipfleet.workers.engines.tensorrt import compat as versions
from clipfleet.workers.engines.tensorrt.logger import Forward, Messages

Report = Callable[[str], None]

_PHASE_INTERVAL_S = 2.0  # between two lines of the builder's progress


def build_plan(trt: ModuleType, request: BuildRequest, report: Report) -> BuildResult:
    """Build the requested engine and write its bytes to `request.plan`.

    Raises:
        ConversionError: TensorRT cannot take the file, or cannot build it; the message holds
            its reasons, with the node or layer.
    """
    started = time.monotonic()
    with _log(request.log) as log:
        messages = Messages(forward=log)
        logger = messages.logger(trt)
        builder = _builder(trt, logger, messages)
        network = builder.create_network(versions.network_flags(trt))
        report(f"parsing {Path(request.onnx).name}")
        parser = _parse(trt, network, logger, request)
        config = builder.create_builder_config()
        _set_batch(trt, builder, network, config, request.profile)
        versions.set_precision(trt, config, request.precision, _fp32_layers(network, request))
        level = _set_options(trt, config, request)
        cache = _attach_cache(trt, config, request, report)
        versions.watch_progress(trt, config, _throttled(report))
        report(f"building with TensorRT {trt.__version__}")
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ConversionError(_failure(trt, request, messages))
        del parser  # the network points to its memory until here
        if cache is not None:
            cache.save()
        Path(request.plan).write_bytes(memoryview(plan))
    return BuildResult(
        seconds=round(time.monotonic() - started, 2),
        runtime_version=trt.__version__,
        optimization_level=level,
        timing_cache=cache.path.name if cache else None,
        typing="strong" if versions.strongly_typed(trt) else "weak",
    )


def _builder(trt: ModuleType, logger: Any, messages: Messages) -> Any:
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # the binding raises it for a null pointer
        raise ConversionError(
            f"TensorRT {trt.__version__} has no builder on this machine ({messages.explain()}): it "
            "needs an NVIDIA GPU and a driver that serves its CUDA version (`nvidia-smi`)"
        ) from error
    return builder


def _parse(trt: ModuleType, network: Any, logger: Any, request: BuildRequest) -> Any:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request.onnx):
        problems = versions.parser_problems(parser, read_nodes(Path(request.onnx)))
        raise ConversionError(
            f"TensorRT {trt.__version__} cannot take {request.onnx}: "
            f"{'; '.join(problems) or 'no reason given'}"
        )
    return parser


def _set_batch(
    trt: ModuleType, builder: Any, network: Any, config: Any, profile: BatchProfile
) -> None:
    """Fix the batch size of an input that takes any, or give the range to tune for."""
    tensor = network.get_input(0)
    batch, *item = tuple(tensor.shape)
    if batch >= 0:
        return
    if profile.smallest == profile.largest:
        tensor.shape = (profile.largest, *item)
        return
    shapes = builder.create_optimization_profile()
    sizes = (profile.smallest, profile.optimum, profile.largest)
    shapes.set_shape(tensor.name, *((size, *item) for size in sizes))
    config.add_optimization_profile(shapes)
    versions.share_profile(trt, config)  # or the engine runs one batch at a time


def _fp32_layers(network: Any, request: BuildRequest) -> list[Any]:
    """Return the layers that came from the operators that are to stay in float32."""
    if not request.fp32_ops:
        return []
    operators = dict(read_nodes(Path(request.onnx)))
    unknown = sorted(set(request.fp32_ops) - set(operators.values()))
    if unknown:
        raise ConversionError(
            f"{request.onnx} has no operator {', '.join(unknown)} to keep in float32: it has "
            f"{', '.join(sorted(set(operators.values())))}"
        )
    nodes = {name for name, operator in operators.items() if operator in request.fp32_ops}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    found = [layer for layer in layers if versions.onnx_node(layer, operators) in nodes]
    if not found:
        raise ConversionError(
            f"none of the {len(layers)} layers that TensorRT made of {request.onnx} says that it "
            f"comes from {', '.join(request.fp32_ops)}: it cannot be kept in float32"
        )
    return found


def _set_options(trt: ModuleType, config: Any, request: BuildRequest) -> int | None:
    if request.workspace_bytes is not None:
        versions.set_workspace(trt, config, request.workspace_bytes)
    if request.tactic_sources is not None:
        try:
            versions.set_tactic_sources(trt, config, request.tactic_sources)
        except ValueError as error:
            raise ConversionError(str(error)) from error
    return versions.set_optimization_level(config, request.optimization_level)


def _attach_cache(
    trt: ModuleType, config: Any, request: BuildRequest, report: Report
) -> TimingCache | None:
    if request.timing_cache is None or not versions.has_timing_cache(trt):
        return None
    from clipfleet.workers.engines.cuda.runtime import device_name

    path, own_name = Path(request.timing_cache), cache_name(trt.__version__, device_name())
    if path.is_dir():
        path /= own_name
    return TimingCache(path, config, report, own_name=own_name)


def _failure(trt: ModuleType, request: BuildRequest, messages: Messages) -> str:
    reason = messages.explain()
    text = f"TensorRT {trt.__version__} cannot build {request.onnx}: {reason}"
    if "memory" in reason.lower():
        text += ". If the GPU is in use, wait or set --workspace-gib lower"
    return text


@contextmanager
def _log(path: str | None) -> Iterator[Forward | None]:
    """Yield a function that writes messages to a file, with the seconds since the start."""
    if path is None:
        yield None
        return
    started = time.monotonic()
    with _opened(path) as file:

        def write(severity: str, message: str) -> None:
            if not file.closed:  # TensorRT logs while it is unloaded
                file.write(f"{time.monotonic() - started:9.3f} {severity} {message}\n")

        yield write


def _opened(path: str) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(
            f"cannot write the log {path}: {error.strerror}; give --log another file"
        ) from error


def _throttled(report: Report) -> Report:
    """Return a report that drops most lines: a builder's phases have thousands of steps."""
    last = 0.0

    def throttled(line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PHASE_INTERVAL_S:
            last = now
            report(line)

    return throttled
