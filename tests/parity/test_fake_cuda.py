"""The fake of CUDA's bindings beside the real ones, which need no GPU to be imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from clipfleet.workers.engines.cuda import errors as cuda_errors
from tests.nvidia_bindings import CUDA, Interface, cuda_interface
from tests.unit.workers.fake_cuda import ERRORS, Cuda
from tests.unit.workers.fake_driver import RESULTS, Driver

Real = Callable[[str], Interface]


@pytest.fixture(params=[CUDA, "installed"])
def real(request: pytest.FixtureRequest) -> Real:
    """Return the interface of a module of cuda-bindings, of the oldest version and of today's."""
    pytest.importorskip("cuda.bindings")
    return lambda module: cuda_interface(f"cuda.bindings.{module}", request.param)


@pytest.mark.parametrize(("module", "fake"), [("runtime", Cuda), ("driver", Driver)])
def test_the_fakes_have_the_real_names_and_parameters(real: Real, module: str, fake: type) -> None:
    functions = inspect.getmembers(fake, inspect.isfunction)
    assert len(functions) > 3
    for name, function in functions:
        if not name.startswith("cu"):
            continue
        described = real(module).functions[name]
        assert parameters(described) == list(inspect.signature(function).parameters)[1:], name


def test_the_fakes_have_the_real_numbers(real: Real) -> None:
    runtime = real("runtime")
    assert RESULTS.items() <= real("driver").enumerations["CUresult"].items()
    assert ERRORS.items() <= runtime.enumerations["cudaError_t"].items()
    for kinds in (
        Cuda.cudaMemcpyKind,
        Cuda.cudaStreamCaptureMode,
        Cuda.cudaDeviceAttr,
        Cuda.cudaMemPoolAttr,
    ):
        numbers = {kind.name: kind.value for kind in kinds}
        assert numbers.items() <= runtime.enumerations[kinds.__name__].items()
    flags = {name: value for name, value in vars(Cuda).items() if type(value) is int}
    assert len(flags) == 5
    assert flags.items() <= runtime.numbers.items()


def test_every_lost_error_is_one_of_cudas(real: Real) -> None:
    assert real("runtime").enumerations["cudaError_t"].keys() >= cuda_errors._LOST


def test_the_structures_have_the_fields_that_are_read(real: Real) -> None:
    classes = real("runtime").classes
    assert "name" in classes["cudaDeviceProp"]
    assert "device" in classes["cudaPointerAttributes"]
    assert "getPtr" in real("driver").classes["cuuint64_t"]


def parameters(described: str) -> list[str]:
    """The names in "cudaMalloc(size_t size)"."""
    inside = described[described.index("(") + 1 : described.rindex(")")]
    parts = [part.split(":")[0].split()[-1] for part in inside.split(",") if part.strip()]
    return [part.lstrip("*") for part in parts]
