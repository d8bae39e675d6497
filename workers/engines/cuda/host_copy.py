"""Copies in the host's memory by several threads: one thread copies only some GB a second."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.settings import cores

MAX_THREADS = 4
_PART_BYTES = 4 << 20  # a smaller part costs more to hand over than it saves


class HostCopy:
    """Copies rows of arrays, large ones in several threads. One call at a time."""

    def __init__(self, threads: int = 0) -> None:
        """Use up to `threads` threads, including the caller's; 0: one for each core, at most 4."""
        self._threads = threads or min(MAX_THREADS, cores())
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="copy")

    def __call__(self, target: NDArray[Any], source: NDArray[Any]) -> None:
        """Copy n rows to n rows of the same shape; when it returns or raises, no thread copies."""
        parts = max(1, min(self._threads, len(source), source.nbytes // _PART_BYTES))
        edges = [len(source) * part // parts for part in range(parts + 1)]
        pieces = [slice(start, stop) for start, stop in pairwise(edges)]
        others = [self._pool.submit(np.copyto, target[rows], source[rows]) for rows in pieces[1:]]
        try:
            np.copyto(target[pieces[0]], source[pieces[0]])
        finally:  # the caller may free the target after an interrupt
            wait(others)
        for other in others:
            other.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
