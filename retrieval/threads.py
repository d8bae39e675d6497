"""The threads of products: those of NumPy's BLAS, of FAISS's, and of FAISS itself."""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits

from clipfleet.settings import Settings, cores


def thread_count(settings: Settings) -> int:
    """Return the number of threads that products take: `engine_threads`; 0: one for each core."""
    return settings.engine_threads or cores()


def threads_of(settings: Settings) -> AbstractContextManager[object]:
    """Let products take `engine_threads` threads inside a `with` block; 0: one for each core."""
    return limited_threads(thread_count(settings))


def limited_threads(count: int) -> AbstractContextManager[object]:
    """Let products take `count` threads inside a `with` block.

    It changes the libraries that are loaded when it is called, so load FAISS before. NumPy's
    products obey in the whole process, FAISS's only in this thread: OpenMP keeps a number for each.
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=count)
    return limits
