"""Measure one architecture and tower in the runtimes that this interpreter has.

    python -m bench.gpu.measure --model-arch ViT-B-16 --tower img --session today \
        --checkpoint vit-b-16.pt --onnx vit-b-16.img.fp16.onnx --out torch.json
    python -m bench.gpu.measure --model-arch ViT-B-16 --tower img --session today \
        --engine vit-b-16.img.fp16.trt --engine-b32 vit-b-16-b32.img.fp16.trt --out trt.json

Everything is float16. The file is written again after every cell, and after every number of
contexts, so that a process that is killed leaves what it had; a runtime that fails leaves its
reason, beside what it had, and does not stop the next.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from bench.gpu.machine import clocks_now, this_machine
from bench.gpu.measurement import (
    Cell,
    CellName,
    Latency,
    Measurement,
    Rate,
    write_measurement,
)
from bench.gpu.timing.contexts import ContextsEngine, opened
from bench.gpu.timing.flops import item_flops
from bench.gpu.timing.rates import DISTINCT_ITEMS, measure_rate
from clipfleet.architectures import TOWERS, load_architecture
from clipfleet.convert.benchmark.inputs import random_inputs
from clipfleet.convert.benchmark.latency import summarise, time_calls
from clipfleet.convert.benchmark.runtimes import (
    Target,
    eager_engine,
    encoder,
    onnx_engine,
    pytorch_model,
    torch_card,
)
from clipfleet.workers.engines.base import Engine

if TYPE_CHECKING:
    from clipfleet.convert.model.chinese_clip import ChineseClip

CONTEXTS = (1, 2, 4, 8)
CONTEXTS_B32 = (1, 2, 4)
LARGE_BATCH = 32
NOT_REACHED = "the process ended before this was done"
_WARMUP_CALLS = 20
_MAX_CALLS = 1000
_LATENCY_S = 1.0  # at most, beyond the warm-up
_PACKAGES = ("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "cuda-bindings", "numpy")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure with: files that are None are not asked for."""

    target: Target
    inputs: NDArray[Any]  # (DISTINCT_ITEMS, …)
    checkpoint: Path | None
    onnx: Path | None
    engine: Path | None
    engine_b32: Path | None


Step = Callable[[Plan, Path], Iterator[Cell]]  # each cell has what the one before it had, and more


def steps(plan: Plan) -> Iterator[tuple[CellName, Path, Step]]:
    """Yield the cells that are asked for with their files, in the order of the table."""
    if plan.checkpoint:
        yield "pytorch", plan.checkpoint, pytorch_cell
        yield "pytorch-graph", plan.checkpoint, partial(graph_cell, batch_size=1)
        yield "pytorch-graph-b32", plan.checkpoint, partial(graph_cell, batch_size=LARGE_BATCH)
    if plan.onnx:
        yield "onnx", plan.onnx, onnx_cell
    if plan.engine:
        yield "tensorrt", plan.engine, tensorrt_cell
        yield "tensorrt-contexts", plan.engine, contexts_cell
    if plan.engine_b32:
        yield "tensorrt-b32", plan.engine_b32, batch_cell


@cache
def half_model(target: Target, checkpoint: Path) -> ChineseClip:
    """Return the tower on the GPU; every PyTorch cell uses the same."""
    return pytorch_model(target, checkpoint, "fp16").cuda()


def pytorch_cell(plan: Plan, checkpoint: Path) -> Iterator[Cell]:
    model = half_model(plan.target, checkpoint)
    with eager_engine(model, plan.target, "fp16", "cuda") as engine:
        yield Cell(latency=latency_of(engine, plan.inputs, batch_size=1))


def graph_cell(plan: Plan, checkpoint: Path, *, batch_size: int) -> Iterator[Cell]:
    from bench.gpu.timing.cuda_graph import CudaGraphEngine

    encode = encoder(half_model(plan.target, checkpoint), plan.target.tower)
    card = torch_card(plan.target, "fp16")
    with CudaGraphEngine(encode, card, batch_size=batch_size) as engine:
        latency = latency_of(engine, plan.inputs, batch_size=batch_size)
    yield Cell(batch_size=batch_size, latency=latency)


def onnx_cell(plan: Plan, path: Path) -> Iterator[Cell]:
    with onnx_engine(plan.target, path, "cuda") as engine:
        yield Cell(latency=latency_of(engine, plan.inputs, batch_size=1))


def tensorrt_cell(plan: Plan, path: Path) -> Iterator[Cell]:
    with opened(plan.target, path) as with_contexts, with_contexts(1) as engine:
        latency = latency_of(engine, plan.inputs, batch_size=1)
        yield Cell(latency=latency, graphs=engine.uses_graphs)


def contexts_cell(plan: Plan, path: Path) -> Iterator[Cell]:
    """The number of contexts that the engine chooses by itself, then every other."""
    with opened(plan.target, path) as with_contexts:
        yield from rated(Cell(), with_contexts, plan.inputs, CONTEXTS)


def batch_cell(plan: Plan, path: Path) -> Iterator[Cell]:
    target = replace(plan.target, batch_size=LARGE_BATCH)
    with opened(target, path) as with_contexts:
        with with_contexts(1) as engine:
            latency = latency_of(engine, plan.inputs, batch_size=LARGE_BATCH)
        cell = Cell(batch_size=LARGE_BATCH, latency=latency)
        yield cell
        yield from rated(cell, with_contexts, plan.inputs, CONTEXTS_B32)


def rated(
    cell: Cell,
    with_contexts: Callable[[int], ContextsEngine],
    inputs: NDArray[Any],
    counts: Sequence[int],
) -> Iterator[Cell]:
    """Yield a cell with one rate more each time: the engine's own choice first."""
    with with_contexts(0) as engine:
        chosen, graphs = engine.contexts, engine.uses_graphs
        cell = replace(cell, chosen_contexts=chosen, graphs=graphs)
        cell = _with_rate(cell, _rate(engine, inputs))
    yield cell
    for count in counts:
        if count == chosen:
            continue
        with with_contexts(count) as engine:
            cell = _with_rate(cell, _rate(engine, inputs))
        yield cell


def _rate(engine: ContextsEngine, inputs: NDArray[Any]) -> Rate:
    return measure_rate(engine, inputs, contexts=engine.contexts, empty=engine.empty_inputs)


def _with_rate(cell: Cell, rate: Rate) -> Cell:
    return replace(cell, rates=tuple(sorted((*cell.rates, rate), key=lambda r: r.contexts)))


def placed(engine: Engine, inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the inputs where a worker would have made them for this engine."""
    room = engine.empty_inputs(len(inputs))
    room[...] = inputs
    return room


def latency_of(engine: Engine, inputs: NDArray[Any], *, batch_size: int) -> Latency:
    inputs = placed(engine, inputs)
    batches = inputs.reshape(-1, batch_size, *inputs.shape[1:])
    calls = [partial(engine, batch) for batch in batches]
    seconds = time_calls(calls, n=_MAX_CALLS, warmup=_WARMUP_CALLS, limit_s=_LATENCY_S)
    found = asdict(summarise(seconds, batch_size=batch_size))
    return Latency(**{name: value for name, value in found.items() if name != "batch_size"})


def measured(plan: Plan, path: Path, step: Step) -> Iterator[Cell]:
    """Yield a cell as it grows, with the clocks around it; a failure becomes its reason."""
    if not path.is_file():
        yield Cell(missing=f"no file {path.name}")
        return
    before = clocks_now()
    cell = Cell(before=before, missing=NOT_REACHED)
    try:
        for grown in step(plan, path):
            cell = replace(grown, before=before, missing=NOT_REACHED)
            yield cell
    except Exception as error:  # noqa: BLE001 - a failure of one cell: the next runtime may work
        reason = f"{type(error).__name__}: {error}"
        print(reason, file=sys.stderr, flush=True)
        # The reason may be published: it names files without this machine's folders.
        yield replace(cell, missing=reason.splitlines()[0].replace(f"{path.parent}/", ""))
        return
    yield replace(cell, after=clocks_now(), missing=None)


def ceiling() -> float | None:
    """Return the GPU's ceiling if this interpreter has torch; without it the rest goes on."""
    from bench.gpu.timing.ceiling import measured_tflops

    try:
        return measured_tflops()
    except Exception as error:  # noqa: BLE001 - as above
        print(f"no ceiling: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def run(plan: Plan, session: str, out: Path) -> Measurement:
    """Measure every cell of the plan and write the file whenever one has grown."""
    todo = list(steps(plan))
    found = Measurement(
        architecture=plan.target.architecture.name,
        tower=plan.target.tower,
        item_flops=item_flops(plan.target.architecture, plan.target.tower),
        session=session,
        machine=this_machine(),
        started_at=_now(),
        finished_at=None,
        python=platform.python_version(),
        versions=_versions(),
        ceiling_tflops=ceiling() if plan.checkpoint else None,
        cells={name: Cell(missing=NOT_REACHED) for name, _, _ in todo},
    )
    write_measurement(found, out)
    for name, path, step in todo:
        for cell in measured(plan, path, step):
            found = replace(found, cells={**found.cells, name: cell})
            write_measurement(found, out)
        print(f"{name}: {_said(found.cells[name])}", flush=True)
    found = replace(found, finished_at=_now())
    write_measurement(found, out)
    return found


def _said(cell: Cell) -> str:
    if cell.items_s is None:
        return f"missing: {cell.missing}"
    latency = f"p50 {cell.latency.p50_ms:.3f} ms a call, " if cell.latency else ""
    rates = "".join(f", {rate.items_s:,.0f} at K={rate.contexts}" for rate in cell.rates)
    missing = f", missing: {cell.missing}" if cell.missing else ""
    return f"{latency}{cell.items_s:,.0f} items/s{rates}{missing}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {d.name: d.version for d in metadata.distributions() if d.name in _PACKAGES}


def _plan(args: argparse.Namespace) -> Plan:
    architecture = load_architecture(args.model_arch)
    target = Target(
        architecture=architecture,
        tower=args.tower,
        batch_size=1,
        context_length=architecture.context_length,
    )
    return Plan(
        target=target,
        inputs=random_inputs(architecture, args.tower, count=DISTINCT_ITEMS),
        checkpoint=args.checkpoint,
        onnx=args.onnx,
        engine=args.engine,
        engine_b32=args.engine_b32,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model-arch", required=True, help="a name, or the path of an architecture's JSON file")
    add("--tower", required=True, choices=TOWERS)
    add("--session", required=True, help="names the run that this process belongs to")
    add(
        "--checkpoint", type=Path, help="measure PyTorch, and the GPU's ceiling, with these weights"
    )
    add("--onnx", type=Path, help="measure ONNX Runtime's CUDA provider with this engine")
    add("--engine", type=Path, help="measure TensorRT with this engine for batch 1")
    add("--engine-b32", type=Path, help="measure TensorRT with this engine for batch 32")
    add("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args(arguments)
    if not (args.checkpoint or args.onnx or args.engine or args.engine_b32):
        parser.error("nothing to measure: give --checkpoint, --onnx, --engine or --engine-b32")
    found = run(_plan(args), args.session, args.out)
    return 1 if any(cell.missing for cell in found.cells.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
