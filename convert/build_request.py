"""The request to the builder's process, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipfleet.card import BatchProfile, Precision


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """The engine to build: its ONNX file, its shape and its options; paths are absolute.

    `timing_cache` is a file, or a folder in which the file has its own name; None: none.
    `tactic_sources` None leaves the choice to TensorRT. `log` receives all of its messages.
    """

    onnx: str
    plan: str
    precision: Precision
    smallest: int
    optimum: int
    largest: int
    fp32_ops: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    tactic_sources: tuple[str, ...] | None = None
    timing_cache: str | None = None
    log: str | None = None

    @property
    def profile(self) -> BatchProfile:
        return BatchProfile(smallest=self.smallest, optimum=self.optimum, largest=self.largest)


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """How the engine was built. It is the fastest of `candidates` engines."""

    seconds: float
    runtime_version: str
    optimization_level: int | None
    timing_cache: str | None
    typing: Literal["weak", "strong"]
    candidates: int = 1
