"""How long single queries take, and the machine that they ran on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.certificate.certificate import CHOSEN_BY, Latency, Machine
from clipfleet.retrieval.certificate.searchable import Searches
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.threads import limited_threads

_CPUINFO = Path("/proc/cpuinfo")


def measure_latency(
    index: Searches,
    queries: NDArray[np.float32],
    parameters: SearchParameters,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Return how long searches for ten rows take, one query (of q, D) a call, on one thread.

    The vectors that an earlier search has read are in the memory of the operating system.
    """
    times_s = np.empty(len(queries))
    with limited_threads(1):
        for n in range(len(queries)):
            start_s = clock()
            index.search(queries[n : n + 1], CHOSEN_BY, parameters=parameters)
            times_s[n] = clock() - start_s
    p50_ms, p95_ms, p99_ms = np.percentile(times_s * 1000, [50, 95, 99]).tolist()
    return Latency(queries=len(queries), p50_ms=p50_ms, p95_ms=p95_ms, p99_ms=p99_ms)


def this_machine() -> Machine:
    """Return the model of the CPU, the cores that this process may use, and FAISS's version."""
    return Machine(
        cpu=_cpu_model(), cores=len(os.sched_getaffinity(0)), faiss=load_faiss().__version__
    )


def _cpu_model() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()  # ARM has no line with a name
