"""Which engine of a model folder a machine takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipfleet.architectures import Tower
from clipfleet.engine_files import sha256_of
from clipfleet.errors import CardError, ClipfleetError, DependencyError, GpuLostError
from clipfleet.model_card import BatchProfile, MeasuredOn, ModelCard, Parity, card_path, write_card
from clipfleet.settings import Settings
from clipfleet.workers.engines import model_folder
from clipfleet.workers.engines.fake import fake_card
from clipfleet.workers.engines.model_folder import find_engine, find_fleet_card, towers_in
from clipfleet.workers.engines.tensorrt import place as place_module
from clipfleet.workers.engines.tensorrt.place import Place

H200 = Place(gpu="NVIDIA H200", runtime_version="8.6.0")
A100 = replace(H200, gpu="NVIDIA A100")
AUTO = Settings()
ALL = ("m.img.fp32.onnx", "m.img.fp16.onnx", "h200.img.fp16.trt", "h200-batch.img.fp16.trt")
NO_GPU = GpuLostError("no GPU can be used here")


def write(folder: Path, *names: str, **changes: Any) -> None:
    """Write an engine with a card for each name, whose parts say what the engine is."""
    for name in names:
        engine = folder / name
        engine.write_text(name)
        _, tower, precision, kind = name.split(".")
        described: dict[str, Any] = {"runtime": "onnxruntime", "engine": name}
        described |= {"precision": precision, "engine_sha256": sha256_of(engine)}
        if kind == "trt":
            size = 64 if "batch" in name else 1
            place = A100 if name.startswith("a100") else H200
            described |= tensorrt(place, described["engine_sha256"], size)
        card = fake_card("img" if tower == "img" else "txt")
        write_card(replace(card, **(described | changes)), card_path(engine))


def tensorrt(place: Place, engine_sha256: str, size: int) -> dict[str, Any]:
    measured = MeasuredOn(
        engine_sha256=engine_sha256, runtime_version=place.runtime_version, gpu=place.gpu
    )
    parity = Parity(
        reference="fp32",
        items=1,
        cosine_min=1.0,
        cosine_mean=1.0,
        max_abs_diff=0.0,
        threshold=0.9999,
        measured_on=measured,
    )
    return {
        "runtime": "tensorrt",
        "runtime_version": place.runtime_version,
        "gpu": place.gpu,
        "parity": parity,
        "profile": BatchProfile(smallest=size, optimum=size, largest=size),
    }


Play = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Play a machine: its GPUs, its place or why it has none, and ONNX Runtime's providers."""

    def play(place: Place | ClipfleetError, *, gpus: int = 1, cuda: bool = False) -> None:
        def this_place() -> Place:
            if isinstance(place, ClipfleetError):
                raise place
            return place

        providers = ["CUDAExecutionProvider"] if cuda else []
        monkeypatch.setattr(place_module, "this_place", this_place)
        for module in (model_folder, place_module):
            monkeypatch.setattr(module, "visible_gpus", lambda: ["GPU-1"] * gpus)
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)

    return play


def taken(folder: Path, tower: Tower = "img", settings: Settings = AUTO, **how: bool) -> str:
    found = find_engine(folder, tower, settings, **how)
    assert found.parent == folder
    return found.name.removesuffix(".card.json")


def test_with_tensorrt_the_batch_engine_is_taken_and_for_single_items_the_smallest(
    tmp_path: Path, machine: Play
) -> None:
    write(tmp_path, *ALL, "a100-batch.img.fp16.trt")
    machine(H200)
    assert taken(tmp_path) == "h200-batch.img.fp16.trt"
    assert taken(tmp_path, single=True) == "h200.img.fp16.trt"
    machine(A100)
    assert taken(tmp_path, single=True) == "a100-batch.img.fp16.trt"


@pytest.mark.parametrize(
    ("place", "played", "expected"),
    [
        (NO_GPU, {"gpus": 0}, "m.img.fp32.onnx"),
        (NO_GPU, {"gpus": 0, "cuda": True}, "m.img.fp32.onnx"),
        (DependencyError("TensorRT is not installed"), {}, "m.img.fp32.onnx"),
        (DependencyError("TensorRT is not installed"), {"cuda": True}, "m.img.fp16.onnx"),
        (A100, {"cuda": True}, "m.img.fp16.onnx"),
        (replace(H200, runtime_version="10.16.1"), {}, "m.img.fp32.onnx"),
    ],
)
def test_without_a_fitting_engine_onnx_is_taken_and_the_reason_is_logged(
    tmp_path: Path,
    machine: Play,
    caplog: pytest.LogCaptureFixture,
    place: Place | ClipfleetError,
    played: dict[str, Any],
    expected: str,
) -> None:
    write(tmp_path, *ALL)
    machine(place, **played)
    assert taken(tmp_path) == expected
    reason = str(place) if isinstance(place, ClipfleetError) else "h200-batch.img.fp16.trt was"
    assert f"TensorRT is not used ({reason}" in caplog.text
    assert caplog.text.rstrip().endswith(f"but {expected}")


def test_a_folder_of_onnx_files_is_silent_on_a_cpu(
    tmp_path: Path, machine: Play, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *ALL[:2])
    machine(NO_GPU, gpus=0)
    assert taken(tmp_path) == "m.img.fp32.onnx"
    assert not caplog.records
    machine(H200)
    assert taken(tmp_path) == "m.img.fp32.onnx"
    assert "the folder has no TensorRT engine" in caplog.text


def test_a_gpu_that_does_not_work_is_an_error(tmp_path: Path, machine: Play) -> None:
    write(tmp_path, *ALL)
    machine(GpuLostError("the GPU is lost"))
    with pytest.raises(GpuLostError, match="the GPU is lost"):
        find_engine(tmp_path, "img", AUTO)


def test_a_named_provider_is_one_of_onnx_runtime(tmp_path: Path, machine: Play) -> None:
    write(tmp_path, *ALL)
    machine(H200)
    assert taken(tmp_path, settings=Settings(provider="cpu")) == "m.img.fp32.onnx"
    assert taken(tmp_path, settings=Settings(provider="cuda")) == "m.img.fp16.onnx"


def test_an_unverified_engine_is_taken_only_if_that_is_allowed(
    tmp_path: Path, machine: Play
) -> None:
    write(tmp_path, *ALL[:2])
    write(tmp_path, ALL[2], parity=None)
    machine(H200)
    assert taken(tmp_path) == "m.img.fp32.onnx"
    assert taken(tmp_path, settings=Settings(allow_unverified=True)) == "h200.img.fp16.trt"


def test_of_two_onnx_files_the_one_for_any_batch_is_taken(tmp_path: Path, machine: Play) -> None:
    fixed = fake_card("img", batch_size=1)
    write(tmp_path, "a.img.fp32.onnx", input=fixed.input, output=fixed.output)
    write(tmp_path, "b.img.fp32.onnx")
    machine(NO_GPU, gpus=0)
    assert taken(tmp_path) == "b.img.fp32.onnx"


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_a_folder_without_a_fitting_engine_says_what_is_there_and_what_makes_it(
    tmp_path: Path, machine: Play, tower: Tower
) -> None:
    write(tmp_path, *ALL[1:])
    machine(NO_GPU, gpus=0)
    message = r"it holds h200-batch\.img\.fp16\.trt.*, m\.img\.fp16\.onnx.*`clipfleet prepare fake "
    with pytest.raises(CardError, match=message):
        find_engine(tmp_path, tower, AUTO)


def test_a_folder_without_a_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"holds no model card\. `clipfleet prepare ARCHITECTURE"):
        find_engine(tmp_path, "img", AUTO)
    with pytest.raises(CardError, match="has no engine of the txt tower"):
        find_fleet_card(tmp_path, "txt")
    assert towers_in(tmp_path) == []


def test_a_folder_of_several_models_is_refused(tmp_path: Path, machine: Play) -> None:
    write(tmp_path, "a.img.fp32.onnx", "a.txt.fp32.onnx")
    write(tmp_path, "b.img.fp32.onnx", checkpoint_sha256="1" * 64)
    machine(NO_GPU, gpus=0)
    with pytest.raises(
        CardError, match=r"2 models: a\.img\.fp32\.onnx, b\.img\.fp32\.onnx\. Name one"
    ):
        find_engine(tmp_path, "img", AUTO)
    assert taken(tmp_path, "txt") == "a.txt.fp32.onnx"


def test_a_fleets_card_does_not_depend_on_this_machine(tmp_path: Path) -> None:
    write(tmp_path, *ALL[:2])
    assert find_fleet_card(tmp_path, "img").name == "m.img.fp32.onnx.card.json"
    write(tmp_path, "a100.img.fp16.trt")
    assert find_fleet_card(tmp_path, "img").name == "a100.img.fp16.trt.card.json"


def test_what_is_no_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", Path("m.trt.card.json")):
        assert find_engine(path, "img", AUTO) == find_fleet_card(path, "img") == path


def test_all_engines_of_one_precision_are_one_model() -> None:
    cards: list[ModelCard] = [
        replace(fake_card("img"), precision="fp16", **tensorrt(place, "0" * 64, size))
        for place in (H200, A100)
        for size in (1, 64)
    ]
    cards.append(replace(fake_card("img"), precision="fp16", runtime="onnxruntime"))
    assert len({card.identity for card in cards}) == 1
