"""The fake of TensorRT's runtime beside NVIDIA's bindings, which need no GPU to be imported."""

from __future__ import annotations

import pytest

from tests.nvidia_bindings import RTX, TENSORRT, differences, takes, tensorrt_interface
from tests.unit.workers import fake_tensorrt

FAKES = ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger")


@pytest.mark.parametrize("version", [*TENSORRT, RTX])
def test_the_fake_has_the_real_names_and_parameters(version: str) -> None:
    real = tensorrt_interface(version)
    for name in FAKES:
        assert differences(getattr(fake_tensorrt, name), real.classes[name]) == set(), name
    assert takes(real.classes["Runtime"]["__init__"][0], ["logger"])
    assert "active_optimization_profile" in real.classes["IExecutionContext"]


@pytest.mark.parametrize("version", [*TENSORRT, RTX])
def test_the_fake_has_the_real_enumerations(version: str) -> None:
    real = tensorrt_interface(version).enumerations
    modes = {mode.name: mode.value for mode in fake_tensorrt.TensorIOMode}
    assert modes == real["TensorIOMode"]
    added_by_10 = {"INT64"} if version == TENSORRT[0] else set()
    types = {kind.name: kind.value for kind in fake_tensorrt.DataType}
    assert {name: types[name] for name in types.keys() - added_by_10}.items() <= (
        real["DataType"].items()
    )
    assert fake_tensorrt.NUMPY_NAMES.keys() <= types.keys()
