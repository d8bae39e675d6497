"""Invented measurements."""

from typing import Any

from bench.gpu.machine import Machine
from bench.gpu.measurement import Cell, Latency, Measurement, Rate

MACHINE = Machine(
    host="host",
    boot_id="boot",
    gpu="NVIDIA H100",
    gpu_uuid="GPU-1",
    driver="580",
    max_sm_clock_mhz=1980,
    power_limit_w=700,
    cores=16,
)


def latency(ms: float) -> Latency:
    return Latency(
        calls=100,
        mean_ms=ms,
        sd_ms=0,
        min_ms=ms,
        max_ms=ms,
        p50_ms=ms,
        p95_ms=ms + 0.1,
        p99_ms=ms + 0.2,
    )


def rates(**by_contexts: float) -> tuple[Rate, ...]:
    return tuple(
        Rate(contexts=int(name[1:]), items_s=items_s, rounds=(items_s,), items=2048)
        for name, items_s in by_contexts.items()
    )


def measurement(**changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "architecture": "ViT-B-16",
        "tower": "img",
        "item_flops": 35_127_000_000,
        "session": "monday",
        "machine": MACHINE,
        "started_at": "2026-11-22T10:00:00+00:00",
        "finished_at": "2026-11-22T10:00:20+00:00",
        "python": "3.12.3",
        "versions": {"torch": "2.11"},
        "ceiling_tflops": None,
        "cells": {},
    }
    return Measurement(**{**fields, **changes})


TORCH = measurement(
    ceiling_tflops=800.0,
    cells={
        "pytorch": Cell(latency=latency(4.0)),
        "pytorch-graph": Cell(latency=latency(1.0)),
        "pytorch-graph-b32": Cell(batch_size=32, latency=latency(6.4)),
        "onnx": Cell(missing="no file ViT-B-16.img.fp16.onnx"),
    },
)
TENSORRT = measurement(
    python="3.10.13",
    versions={"tensorrt": "8.6.0"},
    cells={
        "tensorrt": Cell(latency=latency(0.5)),
        "tensorrt-contexts": Cell(rates=rates(k1=2000, k2=3100, k4=3000), chosen_contexts=4),
        "tensorrt-b32": Cell(
            batch_size=32,
            latency=latency(4.0),
            rates=rates(k1=8000, k2=8800),
            chosen_contexts=2,
        ),
    },
)
