"""Copies in the host's memory by several threads: one alone moves some GB a second."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.settings import cores

MAX_THREADS = 4
_PART_BYTES = 4 << 20  # handing over a smaller part costs more than it saves


class HostCopy:
    """Copies rows of arrays, large ones in several threads. One call at a time."""

    def __init__(self, threads: int = 0) -> None:
        """Use up to `threads` threads, the caller's among them; 0: the cores', at most 4."""
        self._threads = threads or min(MAX_THREADS, cores())
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="copy")

    def __call__(self, target: NDArray[Any], source: NDArray[Any]) -> None:
        """Copy n rows to n others of the same shape; no thread copies any more when it ends."""
        parts = max(1, min(self._threads, len(source), source.nbytes // _PART_BYTES))
        edges = [len(source) * part // parts for part in range(parts + 1)]
        pieces = [slice(start, stop) for start, stop in pairwise(edges)]
        others = [self._pool.submit(np.copyto, target[rows], source[rows]) for rows in pieces[1:]]
        try:
            np.copyto(target[pieces[0]], source[pieces[0]])
        finally:  # after an interrupt the target may be freed
            wait(others)
        for other in others:
            other.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
