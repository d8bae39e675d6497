"""`clipfleet prepare`: a model folder, with a stand-in for the hub, the export and TensorRT."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir
import pytest
import torch

from clipfleet.architectures import load_architecture
from clipfleet.convert.checkpoints.load import architecture_of
from clipfleet.convert.gate import Gate
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.convert.prepare import Prepared, prepare
from clipfleet.convert.staging import EXTRA_FILE_SUFFIX
from clipfleet.convert.tensorrt import candidates
from clipfleet.convert.tensorrt.options import BuildRequest, BuildResult
from clipfleet.errors import CheckpointError, UsageError, VerificationError
from clipfleet.items import Item
from clipfleet.model_card import BatchProfile, card_path, load_card
from clipfleet.settings import Settings
from clipfleet.workers.engines.model_folder import find_engine
from clipfleet.workers.engines.tensorrt.place import Place
from tests.convert import test_onnx_to_tensorrt as builds
from tests.convert.tensorrt_interfaces import LATEST_WEAK

GPU = builds.GPU
HERE = Place(gpu=GPU, runtime_version=LATEST_WEAK)
SLUG = "nvidia-h100-80gb-hbm3"
ONNX = [f"small.{tower}.{p}.onnx" for tower in ("img", "txt") for p in ("fp16", "fp32")]
BUILT = [f"small-{SLUG}{s}.{tower}.fp16.trt" for tower in ("img", "txt") for s in ("", "-batch")]
SPEEDS = {32: 9000.0, 64: 9900.0, 128: 9950.0}

requests = builds.requests  # the fixture: a machine with a GPU and TensorRT


def names(folder: Path) -> list[str]:
    """Return the engines of a folder whose other files are exactly what belongs to them."""
    engines = sorted(name for name in os.listdir(folder) if name.endswith((".onnx", ".trt")))
    extra = [f"{name}{EXTRA_FILE_SUFFIX}" for name in engines if name.endswith(".onnx")]
    cards = [f"{name}.card.json" for name in engines]
    assert sorted(os.listdir(folder)) == sorted([".lock", *engines, *extra, *cards])
    return engines


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the folder that was prepared without a GPU."""
    return Path(shutil.copytree(prepared, tmp_path / "small"))


@pytest.fixture
def again(prepared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The same command again, on a machine without a GPU if no place is given."""

    def run(place: Place | str = "no GPU", **options: Any) -> Prepared:
        monkeypatch.setattr("clipfleet.convert.prepare.find_place", lambda: place)
        downloads = prepared.parent / "downloads"
        given = {"model": prepared.parent / "small.json", "download_root": downloads, **options}
        return prepare(folder=folder, **given)

    return run


@pytest.fixture
def exported(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have conversions copy the graphs of `prepared`; the names that they wrote."""
    written: list[str] = []

    def copy(model: ChineseClip, tower: str, path: Path, **_: Any) -> None:
        precision = "fp16" if model.dtype == torch.float16 else "fp32"
        graph = onnx_ir.load(prepared / f"small.{tower}.{precision}.onnx")
        onnx_ir.save(graph, path, external_data=path.name + EXTRA_FILE_SUFFIX)
        written.append(path.name)

    monkeypatch.setattr("clipfleet.convert.conversion.export_tower", copy)
    return written


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_speed", lambda one, progress: SPEEDS[one.batch])


def test_without_a_gpu_the_folder_holds_verified_onnx_files_for_any_batch(prepared: Path) -> None:
    assert names(prepared) == ONNX
    for name in ONNX:
        card, _ = load_card(prepared / name)
        assert card.batch_size is None
        assert card.parity is not None
        assert card.parity.passed
    assert os.listdir(prepared.parent / "downloads") == ["small.pt"]


def test_the_same_command_again_repeats_nothing(
    folder: Path, again: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "clipfleet.convert.conversion", None)  # as without PyTorch
    messages: list[str] = []
    done = again(progress=messages.append, download_root=folder / "absent")
    assert messages == []
    assert done.no_tensorrt == "no GPU"
    assert [path.name for _, path in done.engines] == [f"{name}.card.json" for name in ONNX]


def test_engines_that_passed_no_gate_are_converted_again_once_there_is_one(
    folder: Path, again: Callable[..., Prepared], exported: list[str]
) -> None:
    items = [Item(id=str(n), text=f"text {n}") for n in range(3)]
    gate = Gate(samples={"txt": items}, min_overlap=0.9, overlap=lambda *_: 0.93)
    again(gate=gate)
    assert exported == ["small.txt.fp32.onnx", "small.txt.fp16.onnx"]
    parity = load_card(folder / "small.txt.fp16.onnx")[0].parity
    assert parity is not None
    assert (parity.overlap, parity.overlap_items) == (0.93, 3)
    exported.clear()
    again(gate=gate)
    assert not exported
    with pytest.raises(VerificationError, match=r"keeps 0\.9300, below --min-overlap 0\.95"):
        again(gate=replace(gate, min_overlap=0.95))


def test_a_killed_conversion_goes_on_with_the_tower_that_is_missing(
    folder: Path, again: Callable[..., Prepared], exported: list[str]
) -> None:
    for path in folder.glob("small.txt.*"):
        path.unlink()
    (folder / ".small.converting-killed").mkdir()
    again()
    assert exported == ["small.txt.fp32.onnx", "small.txt.fp16.onnx"]
    assert names(folder) == ONNX


def test_a_damaged_onnx_file_is_converted_again(
    folder: Path, again: Callable[..., Prepared], exported: list[str]
) -> None:
    (folder / f"small.img.fp16.onnx{EXTRA_FILE_SUFFIX}").write_bytes(b"half")
    messages: list[str] = []
    again(progress=messages.append)
    assert messages[0].startswith("not used: ")
    assert exported == ["small.img.fp32.onnx", "small.img.fp16.onnx"]


@pytest.mark.usefixtures("speeds")
def test_on_a_gpu_machine_the_same_command_builds_two_engines_for_each_tower(
    folder: Path, again: Callable[..., Prepared], requests: list[BuildRequest]
) -> None:
    done = again(HERE)
    assert names(folder) == sorted([*ONNX, *BUILT])
    assert done.no_tensorrt == ""
    assert len(done.engines) == len([*ONNX, *BUILT])
    for name in BUILT:
        card, _ = load_card(folder / name)
        size = 64 if "-batch" in name else 1
        assert card.profile == BatchProfile(smallest=size, optimum=size, largest=size)
        assert card.identity == load_card(folder / f"small.{card.tower}.fp16.onnx")[0].identity
        assert card.parity is not None
        assert card.parity.measured_on is not None
        assert card.parity.measured_on.gpu == GPU
    assert sorted(request.largest for request in requests) == sorted(2 * [1, 32, 64, 128])
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again(HERE)
    assert len(requests) == 8
    before.pop(folder / ".lock")
    assert before.items() <= {p: p.stat().st_mtime_ns for p in folder.iterdir()}.items()


@pytest.mark.usefixtures("speeds")
def test_a_killed_build_goes_on_with_the_engine_that_is_missing(
    folder: Path,
    again: Callable[..., Prepared],
    requests: list[BuildRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build: Callable[..., BuildResult] = vars(candidates)["run_builder"]

    def interrupted(request: BuildRequest, **options: Any) -> BuildResult:
        if len(requests) == 1:
            raise KeyboardInterrupt
        return build(request, **options)

    with monkeypatch.context() as patch:
        patch.setattr(candidates, "run_builder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(HERE, towers=("img",))
    assert names(folder) == sorted([*ONNX, BUILT[0]])
    requests.clear()
    again(HERE, towers=("img",))
    assert sorted(request.largest for request in requests) == [32, 64, 128]
    assert names(folder) == sorted([*ONNX, *BUILT[:2]])


@pytest.mark.usefixtures("speeds")
def test_the_engines_of_another_gpu_stay_and_those_of_an_older_tensorrt_do_not(
    folder: Path,
    again: Callable[..., Prepared],
    requests: list[BuildRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again(HERE, towers=("txt",))
    monkeypatch.setattr("clipfleet.workers.engines.cuda.runtime.device_name", lambda: "Tesla T4")
    done = again(Place(gpu="Tesla T4", runtime_version=LATEST_WEAK), towers=("txt",))
    there = [name for name in names(folder) if name.endswith(".trt")]
    assert there == [
        *sorted(BUILT[2:]),
        "small-tesla-t4-batch.txt.fp16.trt",
        "small-tesla-t4.txt.fp16.trt",
    ]
    assert all(card.gpu in (None, "Tesla T4") for card, _ in done.engines)
    requests.clear()
    again(Place(gpu="Tesla T4", runtime_version="8.6.9"), towers=("txt",))
    assert len(requests) == 4
    assert [name for name in names(folder) if name.endswith(".trt")] == there


@pytest.mark.usefixtures("speeds", "requests")
def test_a_machine_takes_what_was_prepared_for_it(
    folder: Path, again: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    again(HERE, towers=("img",))
    monkeypatch.setattr("clipfleet.workers.engines.model_folder.find_place", lambda: HERE)
    settings = Settings()
    assert find_engine(folder, "img", settings) == card_path(folder / BUILT[1])
    assert find_engine(folder, "img", settings, single=True) == card_path(folder / BUILT[0])
    monkeypatch.setattr("clipfleet.workers.engines.model_folder.find_place", lambda: "no GPU")
    for tower in ("img", "txt"):
        onnx = folder / f"small.{tower}.fp32.onnx"
        assert find_engine(folder, tower, settings) == card_path(onnx)


def test_a_folder_of_another_model_is_refused(
    folder: Path, again: Callable[..., Prepared], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"is of small-vit, .* and ViT-B-16 is asked for: name an"):
        again(model="ViT-B-16")
    other = tmp_path / "other.pt"
    other.write_bytes(b"other weights")
    with pytest.raises(UsageError, match=r"checkpoint .{12}, and small-vit, checkpoint .{12} is "):
        again(checkpoint=other)
    for path in folder.glob("small.txt.*"):
        path.unlink()
    (tmp_path / "small.pt").write_bytes(b"another published checkpoint")
    with pytest.raises(UsageError, match="name another folder"):
        again(download_root=tmp_path)


def test_a_checkpoint_alone_says_its_architecture(
    folder: Path, again: Callable[..., Prepared], prepared: Path, tmp_path: Path
) -> None:
    demo = Path(__file__).parents[2] / "examples" / "demo" / "model" / "demo.pt"
    assert architecture_of(demo) == load_architecture("demo")
    small = prepared.parent / "downloads" / "small.pt"
    with pytest.raises(CheckpointError, match=r"small\.pt does not hold the weights of .*ViT-B-16"):
        architecture_of(small)
    assert again(model=small).no_tensorrt  # nothing is missing, so nothing is read
    assert again(model=small.parent).no_tensorrt
    shutil.copy(small, tmp_path / "second.pt")
    shutil.copy(small, tmp_path / "first.bin")
    with pytest.raises(UsageError, match=r"holds first\.bin, second\.pt: name the file"):
        again(model=tmp_path)
    with pytest.raises(UsageError, match="no known architecture and no checkpoint: expected"):
        again(model="ViT-B-17")
    with pytest.raises(UsageError, match=r"small\.pt is no known architecture: expected one of"):
        again(model=small, checkpoint=small)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to the folder .*; name another folder"):
        prepare("demo", tmp_path / "file" / "m")


def test_the_command_says_what_it_left_and_how_to_go_on(
    folder: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfleet.convert.prepare.find_place", lambda: "TensorRT is missing")
    model = prepared.parent / "small.json"
    result = builds.run_cli("prepare", model, folder)
    assert result.exit_code == 0
    assert f"{folder}/small.img.fp32.onnx.card.json: cosine ≥ " in result.stdout
    assert "no TensorRT engines were built (TensorRT is missing): on a machine" in result.stdout
    assert result.stdout.endswith(f"use it with --model {folder}\n")
    result = builds.run_cli("prepare", model, folder, "--tower", "txt", "--json")
    cards = [f"{folder}/small.txt.{precision}.onnx.card.json" for precision in ("fp16", "fp32")]
    assert json.loads(result.stdout) == {
        "folder": str(folder),
        "cards": cards,
        "no_tensorrt": "TensorRT is missing",
    }
