"""Options of TensorRT's search for an engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipfleet.errors import UsageError
from clipfleet.model_card import BatchProfile, Precision

AUTO: Literal["auto"] = "auto"
AUTO_SIZES = (32, 64, 128)  # batch sizes that "auto" compares

BatchSize = int | Literal["auto"]

_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How TensorRT searches for an engine; no option changes the engine's function.

    `optimization_level` 0 to 5: higher ones build longer for faster engines (TensorRT 8.6 on).
    `timing_cache` is a file, or a folder in which the file is named by version and GPU; True:
    the engine's folder, None: no cache. `tactic_sources` are TensorRT's names of where kernels
    may come from. `log` is a file for all of TensorRT's messages. A build that takes more than
    `limit_s` seconds is ended. Of `candidates` engines, which are built at the same time and
    without a timing cache, the fastest is kept; each has a log of its own, `log` with a number.
    """

    optimization_level: int | None = None
    workspace_bytes: int | None = None
    timing_cache: Path | bool | None = True
    tactic_sources: tuple[str, ...] | None = None
    log: Path | None = None
    limit_s: float | None = None
    candidates: int = 1

    def cache_place(self, folder: Path) -> Path | None:
        """Return the timing cache's file or folder for an engine in `folder`."""
        if isinstance(self.timing_cache, Path):
            return self.timing_cache.absolute()
        return folder if self.timing_cache else None


def options_from(
    *,
    optimization_level: int | None,
    workspace_gib: float | None,
    timing_cache: Path | None,
    no_timing_cache: bool,
    tactic_sources: str | None,
    limit_s: float | None,
    log: Path | None,
    candidates: int = 1,
) -> BuildOptions:
    """Return the options that a command line names; lists have commas.

    Raises:
        UsageError: A number is not positive.
    """
    if candidates < 1:
        raise UsageError(f"--candidates is {candidates}: at least 1 is expected")
    for name, number in (("--workspace-gib", workspace_gib), ("--limit-s", limit_s)):
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"{name} is {number:g}: a number above 0 is expected")
    return BuildOptions(
        optimization_level=optimization_level,
        workspace_bytes=int(workspace_gib * _GIB) if workspace_gib else None,
        timing_cache=None if no_timing_cache else timing_cache or True,
        tactic_sources=tuple(split_names(tactic_sources)) if tactic_sources else None,
        limit_s=limit_s,
        log=log,
        candidates=candidates,
    )


def parse_batch_size(text: str | None) -> BatchSize | None:
    """Return the value of `--batch-size`, a number or "auto".

    Raises:
        UsageError: It is neither.
    """
    if text is None or text == AUTO:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size is {text!r}: a number of at least 1 is expected, or {AUTO}")
    return int(text)


def split_names(names: str) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


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
