"""FAISS: of the package faiss-cpu, which the extra `index` installs, or of faiss-gpu."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from clipfleet.errors import DependencyError

_CORE_VARIABLE = "OPENBLAS_CORETYPE"
_CPU_PATH = Path("/proc/cpuinfo")
_LEAST_VERSION = (1, 14)  # the oldest that the tests of indexes ran with
# The best kernels of FAISS's OpenBLAS for a CPU with these instructions, the newest first.
_CORES = (
    ("SKYLAKEX", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    ("HASWELL", {"avx2", "fma"}),
)


@cache
def load_faiss() -> ModuleType:
    """Return the module `faiss`.

    Raises:
        DependencyError: It is not installed, or too old.
    """
    try:
        with _known_core():
            import faiss
    except ImportError as error:
        raise DependencyError(
            f"a search needs FAISS ({error}): from a checkout, pip install '.[index]'"
        ) from error
    module: ModuleType = faiss
    if tuple(map(int, module.__version__.split(".")[:2])) < _LEAST_VERSION:
        raise DependencyError(
            f"FAISS {module.__version__} is too old for the codes of an index: pip uninstall its "
            "package (faiss-cpu or faiss-gpu), then, from a checkout, pip install '.[index]'"
        )
    return module


@contextmanager
def _known_core() -> Iterator[None]:
    """Name the CPU's kind to an OpenBLAS that is loaded here.

    FAISS 1.15 brings OpenBLAS 0.3.15, which does not know CPUs after 2021, and computes a sixth as
    fast there. Other libraries of this process and its children have an OpenBLAS of their own.
    """
    core = None if _CORE_VARIABLE in os.environ else core_of(_CPU_PATH)
    if core is None:
        yield
        return
    os.environ[_CORE_VARIABLE] = core
    try:
        yield
    finally:
        del os.environ[_CORE_VARIABLE]


def core_of(path: Path) -> str | None:
    """Return OpenBLAS's name for the kind of CPU that a file like /proc/cpuinfo describes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # no Linux
        return None
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return next((name for name, needed in _CORES if needed <= flags), None)
