"""One tower of a PyTorch model as an ONNX file with its weights beside it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipfleet.architectures import Architecture, Tower
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.convert.model.vision import Bottleneck, ModifiedResNetTower
from clipfleet.convert.staging import EXTRA_FILE_SUFFIX
from clipfleet.errors import ConversionError
from clipfleet.model_card import TensorSpec

OPSET = 17  # the first with LayerNormalization, the last that TensorRT 8.6 knows
IR_VERSION = 8  # the file format that came with opset 17

_EXPORTER_OPSET = 18  # the lowest that torch writes
_TRACED_BATCH = 2  # with 1, the exporter would make the batch a constant
_BATCH = "batch"


class TowerGraph(nn.Module):
    """One tower with the inputs and outputs of its engine: the features are float32."""

    def __init__(self, model: ChineseClip, tower: Tower) -> None:
        super().__init__()
        self.model = model
        self.tower = tower

    def forward(self, inputs: Tensor) -> Tensor:
        encode = self.model.encode_image if self.tower == "img" else self.model.encode_text
        return encode(inputs).float()


def tower_specs(
    architecture: Architecture, tower: Tower, *, batch_size: int | None, context_length: int
) -> tuple[TensorSpec, TensorSpec]:
    """Return the input and the output of a tower's engine, named as the original names them."""
    side = architecture.resolution
    name, shape, dtype = (
        ("image", (batch_size, 3, side, side), "float32")
        if tower == "img"
        else ("text", (batch_size, context_length), "int64")
    )
    output = TensorSpec(
        name=f"unnorm_{name}_features", shape=(batch_size, architecture.dim), dtype="float32"
    )
    return TensorSpec(name=name, shape=shape, dtype=dtype), output


def fold_batch_norms(model: ChineseClip) -> None:
    """Fold every batch norm into the convolution before it, in place.

    In float16 the sum of folded weights is exact where running variances may not be; do it
    before `halve`.
    """
    for module in model.modules():
        if isinstance(module, (Bottleneck, ModifiedResNetTower)):
            for number in (1, 2, 3):
                _fold(module, f"conv{number}", f"bn{number}")
        if isinstance(module, Bottleneck) and module.downsample is not None:
            _fold(module.downsample, "0", "1")


def _fold(parent: nn.Module, conv: str, norm: str) -> None:
    convolution, batch_norm = parent.get_submodule(conv), parent.get_submodule(norm)
    if isinstance(convolution, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d):
        setattr(parent, conv, fuse_conv_bn_eval(convolution, batch_norm))
        setattr(parent, norm, nn.Identity())


def export_tower(
    model: ChineseClip, tower: Tower, path: Path, *, source: TensorSpec, target: TensorSpec
) -> None:
    """Write a tower to `path` and its weights to `path.extra_file`, in the model's precision.

    `source` and `target` are the tower's specs. Only the folder of both files may be
    changed afterwards, not their names: `path` names its extra file.

    Raises:
        ConversionError: The graph cannot be written in the opset that TensorRT knows, or
            its inputs and outputs are not as the specs say.
    """
    dynamic = source.shape[0] is None
    shape = [size or _TRACED_BATCH for size in source.shape]
    dtype = torch.int64 if source.dtype == "int64" else torch.float32
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            TowerGraph(model, tower).eval(),
            (torch.ones(shape, dtype=dtype),),
            dynamo=True,
            opset_version=_EXPORTER_OPSET,
            input_names=[source.name],
            output_names=[target.name],
            dynamic_shapes=({0: torch.export.Dim(_BATCH)},) if dynamic else None,
            verbose=False,
        )
    if program is None:
        raise ConversionError(f"torch.onnx.export gave no program for {path.name}")
    graph = program.model
    _lower_opset(graph)
    _check_signature(graph, source, target)
    _strip(graph)
    graph.ir_version = IR_VERSION
    graph.producer_name = "clipfleet"
    onnx_ir.save(graph, path, external_data=path.name + EXTRA_FILE_SUFFIX)


def _lower_opset(graph: onnx_ir.Model) -> None:
    """Declare opset 17. Valid while no operator in the graph changed in opset 18."""
    for node in graph.graph.all_nodes():
        since = onnx.defs.get_schema(node.op_type, _EXPORTER_OPSET, node.domain).since_version
        if since > OPSET:
            raise ConversionError(
                f"the exporter wrote {node.op_type} of opset {since}: TensorRT 8.6 knows {OPSET}"
            )
    graph.opset_imports.clear()
    graph.opset_imports[""] = OPSET


def _strip(graph: onnx_ir.Model) -> None:
    """Drop the exporter's stack traces, which are large and name folders of this machine."""
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.graph.inputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()


def _check_signature(graph: onnx_ir.Model, source: TensorSpec, target: TensorSpec) -> None:
    for spec, values in ((source, graph.graph.inputs), (target, graph.graph.outputs)):
        found = [
            (
                value.name,
                tuple(size if isinstance(size, int) else None for size in value.shape or ()),
                str(value.dtype.numpy()) if value.dtype else None,
            )
            for value in values
        ]
        if found != [(spec.name, tuple(spec.shape), spec.dtype)]:
            raise ConversionError(f"the exporter wrote {found}, expected {spec}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices off the terminal: the user cannot act on them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
