"""Run a TensorRT engine a few times under a profiler, kernel by kernel.

    ncu --clock-control none --cache-control none --metrics gpu__time_duration.sum --csv \\
        --log-file kernels.csv python -m bench.gpu.profiled_calls vit-b-16.img.fp16.trt
    python -m bench.gpu.kernels mine=kernels.csv

One context, and no CUDA graph, which would be one thing to the profiler.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipfleet.architectures import load_architecture
from clipfleet.convert.benchmark.inputs import random_inputs
from clipfleet.model_card import load_card
from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine

BATCHES = 2
CALLS = 1 + BATCHES  # the engine warms up with one, as it is loaded


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine", type=Path, help="a TensorRT engine, its card beside it")
    args = parser.parse_args(arguments)
    card, path = load_card(args.engine)
    inputs = random_inputs(
        load_architecture(card.architecture),
        card.tower,
        count=BATCHES * (card.profile.largest if card.profile else 1),
        context_length=card.context_length,
    )
    with TensorRTEngine(card, path, contexts=1, cuda_graphs=False) as engine:
        engine(inputs)


if __name__ == "__main__":
    main()
