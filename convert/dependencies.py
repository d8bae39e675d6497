"""Errors for missing packages of the extra `convert`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clipfleet.errors import DependencyError

INSTALL = (  # PyTorch first: another index has it without CUDA, which takes gigabytes
    "from a checkout, pip install -c constraints.txt --extra-index-url "
    "https://download.pytorch.org/whl/cpu torch (the CPU's PyTorch), then pip install "
    "-c constraints.txt '.[cpu,convert]'"
)


@contextmanager
def naming_missing_packages() -> Iterator[None]:
    """Raise DependencyError where a package that a conversion needs cannot be imported."""
    try:
        yield
    except ImportError as error:
        raise DependencyError(f"converting needs PyTorch and ONNX ({error}): {INSTALL}") from error
