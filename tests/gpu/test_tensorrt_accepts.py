"""TensorRT parses and builds what the conversion writes; running its engines comes later."""

import os
from pathlib import Path

import pytest

trt = pytest.importorskip("tensorrt")

ROOT = Path(__file__).parents[2]
# Where the models are: the demo's, or the prefix that is named.
PREFIX = Path(os.environ.get("TEST_MODEL", ROOT / "examples/demo/model/demo"))

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("tower", ["img", "txt"])
def test_tensorrt_builds_an_engine(tower: str, precision: str) -> None:
    path = Path(f"{PREFIX}.{tower}.{precision}.onnx")
    if not path.is_file():
        pytest.skip(f"no {path}")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [
        str(parser.get_error(i)) for i in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    if precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    print(f"\n{path.name}: an engine of {plan.nbytes / 1e6:.1f} MB")
