"""The fake of CUDA's bindings beside the real ones, which need no GPU to be imported."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from clipfleet.workers.engines.cuda import errors as cuda_errors
from tests.unit.workers.fake_cuda import ERRORS, Cuda
from tests.unit.workers.fake_driver import RESULTS, Driver


@pytest.mark.parametrize(
    ("module", "fake"), [("cuda.bindings.runtime", Cuda), ("cuda.bindings.driver", Driver)]
)
def test_the_fakes_have_the_real_names_and_parameters(module: str, fake: type) -> None:
    real = pytest.importorskip(module)
    functions = inspect.getmembers(fake, inspect.isfunction)
    assert len(functions) > 3
    for name, function in functions:
        if not name.startswith("cu"):
            continue
        described = getattr(real, name).__doc__.strip().splitlines()[0]
        assert parameters(described) == list(inspect.signature(function).parameters)[1:], name


def test_the_fakes_have_the_real_error_codes() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    for name, number in RESULTS.items():
        assert int(getattr(driver.CUresult, name)) == number
    real = pytest.importorskip("cuda.bindings.runtime")
    for name, number in ERRORS.items():
        assert int(getattr(real.cudaError_t, name)) == number


def test_every_lost_error_is_one_of_cudas() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    members: Any = real.cudaError_t.__members__
    assert set(members) >= cuda_errors._LOST


def parameters(described: str) -> list[str]:
    """The names in "cudaMalloc(size_t size)"."""
    inside = described[described.index("(") + 1 : described.rindex(")")]
    parts = [part.split(":")[0].split()[-1] for part in inside.split(",") if part.strip()]
    return [part.lstrip("*") for part in parts]
