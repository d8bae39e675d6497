"""Tiny ONNX engines with their cards, whose features NumPy can compute too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from clipfleet.architectures import Tower
from clipfleet.engine_files import sha256_of
from clipfleet.model_card import ModelCard, write_card
from clipfleet.model_card import card_path as path_of_card
from clipfleet.workers.engines.fake import fake_card

DIM = 6
RESOLUTION = 8
CONTEXT_LENGTH = 10
VOCABULARY = 21128

Made = tuple[ModelCard, Path]


def weights(tower: Tower) -> NDArray[np.float32]:
    rows = 3 if tower == "img" else VOCABULARY
    values = np.random.default_rng(len(tower) + rows).normal(size=(rows, DIM))
    return values.astype(np.float32)


def expected_features(tower: Tower, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """What the engines below compute: the mean colour, or the mean row of the ids, projected."""
    if tower == "img":
        return np.asarray(inputs.mean(axis=(2, 3)) @ weights("img"), dtype=np.float32)
    return np.asarray(weights("txt")[inputs].mean(axis=1), dtype=np.float32)


def engine_inputs(tower: Tower, count: int) -> NDArray[Any]:
    random = np.random.default_rng(count)
    if tower == "img":
        return random.normal(size=(count, 3, RESOLUTION, RESOLUTION)).astype(np.float32)
    return random.integers(0, VOCABULARY, (count, CONTEXT_LENGTH))


def _model(tower: Tower, batch: int | None, dtype: str, output: str) -> onnx.ModelProto:
    size = batch or "n"
    shape = [size, 3, RESOLUTION, RESOLUTION] if tower == "img" else [size, CONTEXT_LENGTH]
    name = "image" if tower == "img" else "text"
    nodes = (
        [
            helper.make_node("ReduceMean", ["image"], ["colour"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["colour", "weights"], ["wide"]),
        ]
        if tower == "img"
        else [
            helper.make_node("Gather", ["weights", "text"], ["rows"]),
            helper.make_node("ReduceMean", ["rows"], ["wide"], axes=[1], keepdims=0),
        ]
    )
    to = helper.np_dtype_to_tensor_dtype(np.dtype(output))
    nodes.append(helper.make_node("Cast", ["wide"], [f"unnorm_{name}_features"], to=to))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        tower,
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info(f"unnorm_{name}_features", to, [size, DIM])],
        [numpy_helper.from_array(weights(tower), "weights")],
    )
    opsets = [helper.make_opsetid("", 16)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Made]:
    """A function that writes an ONNX engine and its card, and returns the card and the engine."""

    def make(
        tower: Tower,
        batch: int | None = None,
        *,
        dtype: str | None = None,
        output: str = "float32",
        extra_file: bool = False,
    ) -> Made:
        path = tmp_path / f"tiny.{tower}.fp32.onnx"
        extra = f"{path.name}.extra_file" if extra_file else None
        model = _model(tower, batch, dtype or ("float32" if tower == "img" else "int64"), output)
        onnx.save_model(
            model, str(path), save_as_external_data=extra_file, location=extra, size_threshold=0
        )
        like = fake_card(tower, dim=DIM, resolution=RESOLUTION, context_length=CONTEXT_LENGTH)
        card = replace(
            like,
            runtime="onnxruntime",
            engine=path.name,
            engine_sha256=sha256_of(path),
            extra_file=extra,
            extra_file_sha256=sha256_of(tmp_path / extra) if extra else None,
            input=replace(
                like.input,
                shape=(batch, *like.input.shape[1:]),
                dtype=dtype or like.input.dtype,
            ),
            output=replace(like.output, shape=(batch, DIM), dtype=output),
        )
        write_card(card, path_of_card(path))
        return card, path

    return make
