"""TensorRT's own importer and builder; TensorRT-RTX runs them without a GPU."""

from pathlib import Path
from typing import Any

import pytest

from clipfleet.card import ModelCard

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def builder() -> Any:
    return trt.Builder(trt.Logger(trt.Logger.ERROR))


@pytest.mark.parametrize("name", ["img.fp32", "img.fp16", "txt.fp32", "txt.fp16"])
def test_tensorrt_builds_every_engine_as_it_is_typed(
    builder: Any, converted: dict[str, tuple[ModelCard, Path]], name: str
) -> None:
    card, path = converted[name]
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse_from_file(str(path.parent / card.engine))
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert network.get_input(0).name == card.input.name
    assert tuple(network.get_input(0).shape) == card.input.shape
    assert network.get_output(0).name == card.output.name
    assert network.get_output(0).dtype == trt.DataType.FLOAT
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan is not None
    assert plan.nbytes > 0
