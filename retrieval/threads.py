"""The threads of products: those of NumPy's BLAS, of FAISS's, and of FAISS itself."""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits

from clipfleet.settings import Settings, cores


def threads_of(settings: Settings) -> AbstractContextManager[object]:
    """Let products take `engine_threads` threads inside a `with` block; 0: one for each core."""
    return limited_threads(settings.engine_threads or cores())


def limited_threads(count: int) -> AbstractContextManager[object]:
    """Let products take `count` threads inside a `with` block, in this whole process.

    It changes the libraries that are loaded when it is called, so load FAISS before.
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=count)
    return limits
