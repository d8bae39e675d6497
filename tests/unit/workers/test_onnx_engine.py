"""The ONNX Runtime engine: right features in order, and every mismatch with its card refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from clipfleet.architectures import Tower
from clipfleet.engine_files import sha256_of
from clipfleet.errors import (
    DependencyError,
    EngineDamagedError,
    EngineError,
    EngineMismatchError,
    GpuLostError,
)
from clipfleet.model_card import ModelCard, TensorSpec
from clipfleet.workers.engines.onnx import CPU_PROVIDER, CUDA_PROVIDER, OnnxEngine
from clipfleet.workers.engines.onnx_files import external_files
from tests.unit.workers.conftest import DIM, Made, engine_inputs, expected_features

Make = Callable[..., Made]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 37])
@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("tower", ["img", "txt"])
def test_features_come_in_order_for_any_number_of_inputs(
    make_engine: Make, tower: Tower, batch: int | None, count: int
) -> None:
    inputs = engine_inputs(tower, count)
    with OnnxEngine(*make_engine(tower, batch), threads=3) as engine:
        features = engine(inputs)
    assert features.dtype == np.float32
    assert features.shape == (count, DIM)
    np.testing.assert_allclose(features, expected_features(tower, inputs), atol=1e-5)


def test_max_batch_is_the_cards_where_it_is_fixed(make_engine: Make) -> None:
    assert OnnxEngine(*make_engine("img", 4), max_batch=32).max_batch == 4
    assert OnnxEngine(*make_engine("img", None), max_batch=32).max_batch == 32


@pytest.mark.parametrize("given", ["int32", "int64"])
@pytest.mark.parametrize("taken", ["int32", "int64"])
def test_ids_are_given_in_the_dtype_that_the_engine_takes(
    make_engine: Make, taken: str, given: str
) -> None:
    ids = engine_inputs("txt", 5).astype(given)
    with OnnxEngine(*make_engine("txt", dtype=taken)) as engine:
        np.testing.assert_allclose(engine(ids), expected_features("txt", ids), atol=1e-6)


EXTERNAL = "weights.bin"


def write_external(
    card: ModelCard, path: Path, *, nested: bool = False, named: bool = False
) -> ModelCard:
    """Move the weights out of an ONNX file, into a file that the card names or does not."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    path.with_name(EXTERNAL).write_bytes(tensor.raw_data)
    set_external_data(tensor, EXTERNAL)
    tensor.ClearField("raw_data")
    if nested:  # as an attribute of a node in the branch of another
        constant = onnx.helper.make_node("Constant", [], ["weights"], value=tensor)
        branch = onnx.helper.make_graph([constant], "branch", [], [])
        model.graph.node.append(
            onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
        )
        del model.graph.initializer[:]
    path.write_bytes(model.SerializeToString())
    card = replace(card, engine_sha256=sha256_of(path))
    digest = sha256_of(path.with_name(EXTERNAL))
    return replace(card, extra_file=EXTERNAL, extra_file_sha256=digest) if named else card


@pytest.mark.parametrize("nested", [False, True])
def test_weights_outside_the_file_that_the_card_does_not_name_are_refused(
    make_engine: Make, nested: bool
) -> None:
    card, path = make_engine("txt")
    card = write_external(card, path, nested=nested)
    told = r"reads weights from 'weights\.bin', and its card has no extra file: name the file"
    with pytest.raises(EngineDamagedError, match=told):
        OnnxEngine(card, path)
    other = path.with_name("other")
    other.touch()
    card = replace(card, extra_file=other.name, extra_file_sha256=sha256_of(other))
    with pytest.raises(EngineDamagedError, match="its card has only other"):
        OnnxEngine(card, path)


def test_weights_outside_the_file_that_the_card_names_are_read_and_checked(
    make_engine: Make,
) -> None:
    card, path = make_engine("txt")
    card = write_external(card, path, named=True)
    ids = engine_inputs("txt", 5)
    with OnnxEngine(card, path) as engine:
        np.testing.assert_allclose(engine(ids), expected_features("txt", ids), atol=1e-6)
    with path.with_name(EXTERNAL).open("ab") as file:
        file.write(b"x")
    with pytest.raises(EngineDamagedError, match=r"weights\.bin has SHA-256"):
        OnnxEngine(card, path)


def test_files_that_are_no_onnx_name_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for data in (b"", b"x", b"\x3a\xff", b"\x80" * 20, bytes(range(256)), b"\x3a\x02\x2a\x09"):
        path.write_bytes(data)
        assert external_files(path) == set()


def test_float16_features_become_float32(make_engine: Make) -> None:
    inputs = engine_inputs("img", 3)
    with OnnxEngine(*make_engine("img", output="float16")) as engine:
        features = engine(inputs)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_features("img", inputs), atol=1e-2)


def test_inputs_need_not_be_contiguous(make_engine: Make) -> None:
    inputs = engine_inputs("img", 8)[::2]
    with OnnxEngine(*make_engine("img")) as engine:
        np.testing.assert_allclose(engine(inputs), expected_features("img", inputs), atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 3, 8, 9), np.float32),
        np.zeros((3, 8, 8), np.float32),
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((2, 3, 8, 8), np.int64),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_inputs_of_another_shape_or_kind_are_refused(make_engine: Make, inputs: Any) -> None:
    with (
        OnnxEngine(*make_engine("img")) as engine,
        pytest.raises(EngineError, match=r"takes float32 \(n, 3, 8, 8\) as 'image'"),
    ):
        engine(inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": {"name": "pixels"}}, r"has the inputs 'image': its card says 'pixels'"),
        ({"output": {"name": "features"}}, r"has the outputs 'unnorm_image_features'"),
        (
            {"input": {"shape": (1, 3, 8, 8)}},
            r"float32 \(None, 3, 8, 8\): its card says float32 \(1",
        ),
        ({"input": {"shape": (None, 3, 9, 9)}}, r"its card says float32 \(None, 3, 9, 9\)"),
        ({"output": {"shape": (None, 7)}}, r"\(None, 6\): its card says float32 \(None, 7\)"),
        ({"input": {"dtype": "float16"}}, r"'image' of .* is float32 .* its card says float16"),
        ({"output": {"dtype": "float16"}}, r"output .* its card says float16"),
    ],
)
def test_an_engine_that_differs_from_its_card_is_refused(
    make_engine: Make, change: dict[str, dict[str, Any]], message: str
) -> None:
    card, path = make_engine("img")
    specs: dict[str, TensorSpec] = {
        role: replace(getattr(card, role), **fields) for role, fields in change.items()
    }
    with pytest.raises(EngineMismatchError, match=message):
        OnnxEngine(replace(card, **specs), path)  # type: ignore[arg-type]


def test_a_text_engine_with_the_card_of_an_image_engine_is_refused(make_engine: Make) -> None:
    image, _ = make_engine("img")
    _, path = make_engine("txt")
    with pytest.raises(EngineMismatchError, match="has the inputs 'text': its card says 'image'"):
        OnnxEngine(replace(image, engine=path.name, engine_sha256=sha256_of(path)), path)


def test_an_engine_with_another_sha256_is_refused(make_engine: Make) -> None:
    card, path = make_engine("img")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(EngineError, match=f"has SHA-256 [0-9a-f]{{64}}.*{card.engine_sha256}"):
        OnnxEngine(card, path)


def test_an_engine_runs_with_its_extra_file(make_engine: Make) -> None:
    inputs = engine_inputs("img", 2)
    card, path = make_engine("img", extra_file=True)
    assert card.extra_file is not None
    with OnnxEngine(card, path) as engine:
        np.testing.assert_allclose(engine(inputs), expected_features("img", inputs), atol=1e-5)


def test_an_engine_whose_extra_file_is_missing_or_changed_is_refused(make_engine: Make) -> None:
    card, path = make_engine("img", extra_file=True)
    extra = path.parent / str(card.extra_file)
    extra.write_bytes(bytes(extra.stat().st_size))
    with pytest.raises(EngineError, match=r"extra_file has SHA-256"):
        OnnxEngine(card, path)
    extra.unlink()
    with pytest.raises(EngineError, match=r"extra_file is missing"):
        OnnxEngine(card, path)


def test_a_file_that_is_no_onnx_model_is_refused(make_engine: Make) -> None:
    card, path = make_engine("img")
    path.write_bytes(b"not a model")
    with pytest.raises(EngineError, match=f"ONNX Runtime cannot load {path}: "):
        OnnxEngine(replace(card, engine_sha256=sha256_of(path)), path)


def test_a_failure_inside_the_runtime_is_an_engine_error(make_engine: Make) -> None:
    ids = np.full((1, 10), 10**6)  # beyond the vocabulary
    with (
        OnnxEngine(*make_engine("txt")) as engine,
        pytest.raises(EngineError, match=r"ONNX Runtime failed in tiny\.txt\.fp32\.onnx: .*Gather"),
    ):
        engine(ids)


def test_the_provider_is_the_cpu_where_there_is_no_gpu(make_engine: Make) -> None:
    with OnnxEngine(*make_engine("img"), provider="cpu") as engine:
        assert engine.provider == CPU_PROVIDER


class FakeSession:
    """A session whose CUDA provider loads or, as the real one does, quietly does not."""

    def __init__(
        self,
        path: str,
        options: object,
        providers: list[str],
        provider_options: list[dict[str, object]],
        *,
        loads: bool,
    ) -> None:
        assert len(provider_options) == len(providers)
        self.providers = providers if loads else [p for p in providers if p != CUDA_PROVIDER]

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image", shape=["n", 3, 8, 8], type="tensor(float)")]

    def get_outputs(self) -> list[SimpleNamespace]:
        name = "unnorm_image_features"
        return [SimpleNamespace(name=name, shape=["n", DIM], type="tensor(float)")]


def pretend_onnxruntime(monkeypatch: pytest.MonkeyPatch, offered: list[str], loads: bool) -> None:
    stand_in = SimpleNamespace(
        get_available_providers=lambda: offered,
        SessionOptions=SimpleNamespace,
        InferenceSession=lambda *args, **kwargs: FakeSession(*args, **kwargs, loads=loads),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)


@pytest.mark.parametrize(
    ("provider", "loads", "expected"),
    [
        ("auto", True, CUDA_PROVIDER),
        ("auto", False, CPU_PROVIDER),
        ("cuda", True, CUDA_PROVIDER),
        ("cpu", True, CPU_PROVIDER),
    ],
)
def test_auto_takes_cuda_only_where_it_loads(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, provider: Any, loads: bool, expected: str
) -> None:
    made = make_engine("img")
    pretend_onnxruntime(monkeypatch, [CUDA_PROVIDER, CPU_PROVIDER], loads)
    assert OnnxEngine(*made, provider=provider).provider == expected


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ([CPU_PROVIDER], "this onnxruntime offers only CPUExecutionProvider"),
        ([CUDA_PROVIDER, CPU_PROVIDER], "fell back to CPUExecutionProvider"),
    ],
)
def test_cuda_that_was_asked_for_and_does_not_work_is_an_error(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, offered: list[str], message: str
) -> None:
    made = make_engine("img")
    pretend_onnxruntime(monkeypatch, offered, loads=False)
    with pytest.raises(EngineError, match=message):
        OnnxEngine(*made, provider="cuda")


def cuda_failure(words: str) -> str:
    return (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Gemm node. "
        f"Status Message: CUDA failure {words} ; GPU=0 ; hostname=gpu ; file=cuda_call.cc ; "
        "line=129 ; expr=cudaStreamSynchronize(stream);"
    )


@pytest.mark.parametrize(
    ("words", "provider", "lost"),
    [
        ("700: an illegal memory access was encountered", "cuda", True),
        ("719: unspecified launch failure", "cuda", True),
        ("710: device-side assert triggered", "cuda", True),
        ("100: no CUDA-capable device is detected", "cuda", True),
        ("214: uncorrectable ECC error encountered", "cuda", True),
        ("46: CUDA-capable device(s) is/are busy or unavailable", "cuda", True),
        ("46: cudaErrorDevicesUnavailable", "cuda", True),
        ("999: unknown error", "cuda", True),
        ("2: out of memory", "cuda", False),
        ("1: invalid argument", "cuda", False),
        ("700: an illegal memory access was encountered", "cpu", False),
    ],
)
def test_an_error_after_which_cuda_works_no_more_is_a_lost_gpu(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, words: str, provider: Any, lost: bool
) -> None:
    made = make_engine("img")
    pretend_onnxruntime(monkeypatch, [CUDA_PROVIDER, CPU_PROVIDER], loads=True)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(cuda_failure(words))

    monkeypatch.setattr(FakeSession, "run", fail, raising=False)
    with (
        OnnxEngine(*made, provider=provider) as engine,
        pytest.raises(EngineError, match=re.escape(words)) as raised,
    ):
        engine(engine_inputs("img", 1))
    assert isinstance(raised.value, GpuLostError) == lost
    monkeypatch.setattr(FakeSession, "__init__", fail)
    with pytest.raises(EngineError, match="cannot load") as raised:
        OnnxEngine(*made, provider=provider)
    assert isinstance(raised.value, GpuLostError) == lost


def test_a_missing_onnxruntime_is_named_with_its_extra(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[cpu\]'"):
        OnnxEngine(*make_engine("img"))
