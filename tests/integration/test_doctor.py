"""The checks of doctor for TensorRT, GPUs and the compatibility of engines."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipfleet.cli.models.doctor import Check, examine
from clipfleet.engine_files import sha256_of
from clipfleet.errors import DependencyError, GpuLostError
from clipfleet.model_card import MeasuredOn, ModelCard, Parity, card_path, write_card
from clipfleet.settings import Settings
from clipfleet.workers.engines.fake import fake_card, write_fake_engine
from tests.nvidia_smi import write_nvidia_smi

GPU = "NVIDIA H100 80GB HBM3"


def checks(*models: Path) -> dict[str, Check]:
    settings = Settings(redis_url="redis://127.0.0.1:1/0")
    return {check.name: check for check in examine(settings, list(models))}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two H100 with TensorRT 8.6.0."""
    monkeypatch.setenv("PATH", f"{write_nvidia_smi(tmp_path, 2)}:/usr/bin:/bin")
    trt = SimpleNamespace(__name__="tensorrt", __version__="8.6.0")
    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.compat.load_tensorrt", lambda: trt)
    monkeypatch.setattr("clipfleet.workers.engines.cuda.runtime.device_name", lambda: GPU)


def write_engine(folder: Path, *, gpu: str = GPU, verified: bool = True) -> Path:
    engine = folder / "m.img.fp16.trt"
    engine.write_text("plan")
    digest = sha256_of(engine)
    parity = Parity(
        reference="fp32",
        items=8,
        cosine_min=0.99999,
        cosine_mean=0.99999,
        max_abs_diff=0.0,
        threshold=0.9999,
        measured_on=MeasuredOn(engine_sha256=digest, runtime_version="8.6.0", gpu=gpu),
    )
    card: ModelCard = replace(
        fake_card("img"),
        runtime="tensorrt",
        runtime_version="8.6.0",
        engine=engine.name,
        engine_sha256=digest,
        gpu=gpu,
        parity=parity if verified else None,
    )
    write_card(card, card_path(engine))
    return engine


@pytest.mark.usefixtures("machine")
def test_a_gpu_machine_is_described_with_versions_and_compute_capability() -> None:
    found = checks()
    assert (found["TensorRT"].state, found["TensorRT"].detail) == ("ok", "8.6.0")
    one = f"{GPU}, compute capability 9.0, 81559 MiB, driver 580.105.08"
    assert (found["GPU"].state, found["GPU"].detail) == ("ok", f"{one}; {one}")
    assert found["cuda-bindings"].remedy in {"", "from a checkout: pip install '.[gpu]'"}


@pytest.mark.usefixtures("machine")
def test_a_tensorrt_that_never_ran_in_the_gpu_tests_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt = SimpleNamespace(__name__="tensorrt", __version__="11.4.0.106")
    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.compat.load_tensorrt", lambda: trt)
    found = checks()["TensorRT"]
    assert found.state == "ok"
    assert found.detail.startswith("11.4.0.106; clipfleet's GPU tests ran with TensorRT 8.6.0")


def test_a_machine_without_either_is_no_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        raise DependencyError("No module named 'tensorrt'")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.compat.load_tensorrt", load)
    found = checks()
    assert (found["TensorRT"].state, found["GPU"].state) == ("absent", "absent")
    assert found["TensorRT"].remedy == "from a checkout: pip install '.[gpu]'"


def test_a_driver_that_fails_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write_nvidia_smi(tmp_path, 1) / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gpu = checks()["GPU"]
    assert gpu.state == "broken"
    assert "Driver/library version mismatch" in gpu.detail


@pytest.mark.usefixtures("machine")
def test_an_engine_that_fits_and_is_verified_is_ok(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    found = checks(engine)[f"model {engine}"]
    assert found.state == "ok"
    assert found.detail.endswith("cosine ≥ 0.9999900 on 8 items, fits this machine")


@pytest.mark.usefixtures("machine")
def test_an_engine_that_does_not_fit_is_broken_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = write_engine(tmp_path, gpu="Tesla T4")
    found = checks(engine)[f"model {engine}"]
    assert found.state == "broken"
    assert f"was built for Tesla T4 and this is {GPU}" in found.detail
    assert "clipfleet build" in found.remedy
    engine = write_engine(tmp_path, verified=False)
    assert "its card has no parity" in checks(engine)[f"model {engine}"].detail

    def no_gpu() -> None:
        raise GpuLostError("no CUDA-capable device is detected")

    monkeypatch.setattr("clipfleet.workers.engines.cuda.runtime.device_name", no_gpu)
    engine = write_engine(tmp_path)
    assert "no CUDA-capable device" in checks(engine)[f"model {engine}"].detail


@pytest.mark.usefixtures("machine")
def test_a_folder_may_hold_engines_of_other_gpus(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    engine = write_engine(folder, gpu="Tesla T4")
    card = write_fake_engine(folder, "img")
    found = checks(folder)
    assert found[f"model {engine}"].state == "absent"
    assert found[f"model {folder} img"].detail == "fake.img is taken here"
    write_engine(folder)
    found = checks(folder)
    assert found[f"model {engine}"].state == found[f"model {folder / 'fake.img'}"].state == "ok"
    assert found[f"model {folder} img"].detail == f"{engine.name} is taken here"
    card.write_text("{}")
    assert checks(folder)[f"model {folder}"].state == "broken"


def test_without_pytorch_the_remedy_brings_the_one_without_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    found = checks()
    assert (found["torch"].state, found["celery"].state) == ("absent", "broken")
    for name in ("torch", "onnx"):
        first, second = found[name].remedy.split(", then ")
        assert "https://download.pytorch.org/whl/cpu torch" in first
        assert second == "pip install -c constraints.txt '.[cpu,convert]'"
