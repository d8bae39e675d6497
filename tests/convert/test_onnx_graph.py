from pathlib import Path

import onnx
import pytest

from clipfleet.convert.export.onnx_graph import read_nodes
from clipfleet.errors import ConversionError

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "model"


@pytest.mark.parametrize("name", ["demo.img.fp16.onnx", "demo.txt.fp32.onnx"])
def test_nodes_are_those_that_the_onnx_package_reads(name: str) -> None:
    graph = onnx.load(DEMO / name, load_external_data=False).graph
    assert read_nodes(DEMO / name) == [(node.name, node.op_type) for node in graph.node]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x3a\xff\xff\x03", b"\x3a"])
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"m\.onnx cannot be read as an ONNX model"):
        read_nodes(path)
