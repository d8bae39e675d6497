"""The float16 form of a float32 ONNX file without a checkpoint, by ONNX Runtime's converter.

docs/adr/0021 says why it is not onnxmltools, which the guide uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir

from clipfleet.convert.staging import EXTRA_FILE_SUFFIX

# The operators of a layer norm: one from opset 17 on, several before. The square of an activation
# above 256 overflows float16.
_FLOAT32_OPERATORS = ("LayerNormalization", "Pow", "ReduceMean", "Sqrt")


def convert_to_float16(source: Path, target: Path) -> None:
    """Write a float32 ONNX file in float16 to `target`, and its weights to `target.extra_file`.

    Inputs, outputs and layer norms stay float32. The weights may be larger than 2 GB. A
    temporary file is written beside `source`.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = _with_types(source)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"  # below, names say what stays float32
    converted = OnnxModel(
        convert_float_to_float16(
            model,
            keep_io_types=True,
            disable_shape_infer=True,  # done above, also for models of over 2 GB
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPERATORS],
            node_block_list=list(_epsilon_additions(model.graph)),
        )
    )
    # Where a float32 operator follows another, nothing between them is rounded to float16.
    converted.remove_cascaded_cast_nodes()
    del converted.model.graph.value_info[:]  # the types of before
    converted.topological_sort()
    onnx_ir.save(
        onnx_ir.from_proto(converted.model), target, external_data=target.name + EXTRA_FILE_SUFFIX
    )


def _with_types(source: Path) -> onnx.ModelProto:
    """Return a file's model with the type of every value and with its weights."""
    with tempfile.NamedTemporaryFile(dir=source.parent, suffix=".onnx") as typed:
        onnx.shape_inference.infer_shapes_path(source, typed.name)
        return onnx.load(typed.name)


def _epsilon_additions(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of the nodes that add a norm's epsilon to its variance."""
    variances = {name for node in graph.node if node.op_type == "Sqrt" for name in node.input}
    for node in graph.node:
        if node.op_type == "Add" and variances.intersection(node.output):
            yield node.name
