"""Which GPUs there are, and which one each worker is to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipfleet.errors import UsageError
from clipfleet.gpus import choose_gpus, gpus_of_workers, list_gpus
from clipfleet.model_card import load_card
from clipfleet.workers.engines.fake import write_fake_engine
from tests.nvidia_smi import write_nvidia_smi


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of three GPUs."""
    monkeypatch.setenv("PATH", f"{write_nvidia_smi(tmp_path, 3)}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_gpus_are_listed_with_what_engines_depend_on() -> None:
    first, *others = list_gpus()
    assert (first.uuid, first.name) == ("GPU-0000", "NVIDIA H100 80GB HBM3")
    assert (first.compute_capability, first.memory, first.driver) == (
        "9.0",
        "81559 MiB",
        "580.105.08",
    )
    assert [gpu.uuid for gpu in others] == ["GPU-0001", "GPU-0002"]


def test_without_nvidia_smi_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list_gpus() == []
    with pytest.raises(UsageError, match=r"no GPU found .nvidia-smi lists none.; leave"):
        choose_gpus("all")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo 'NVRM: rm_init_adapter failed' >&2; exit 9",
            "rm_init_adapter failed; reinstall",
        ),
        ("echo surprise", "printed 'surprise' where uuid, name"),
    ],
)
def test_a_driver_that_is_broken_is_no_machine_without_gpus(
    machine: Path, script: str, why: str
) -> None:
    (machine / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(UsageError, match=why):
        list_gpus()


@pytest.mark.parametrize(
    ("visible", "wanted", "chosen"),
    [
        (None, "all", ["GPU-0000", "GPU-0001", "GPU-0002"]),
        (None, "0, 2", ["GPU-0000", "GPU-0002"]),
        (None, "GPU-0001", ["GPU-0001"]),
        ("5,3", "all", ["5", "3"]),
        ("5,3", "1", ["3"]),  # a position among the visible ones, as in CUDA programs
        ("GPU-b, MIG-c", "all", ["GPU-b", "MIG-c"]),
        ("GPU-b,MIG-c", "MIG-c,0", ["MIG-c", "GPU-b"]),
        ("1,-1,0", "all", ["1"]),  # CUDA sees nothing behind an invalid entry
    ],
)
@pytest.mark.usefixtures("machine")
def test_each_chosen_gpu_is_named_so_that_it_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: str, chosen: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_gpus(wanted) == chosen


@pytest.mark.parametrize(
    ("visible", "wanted", "why"),
    [
        (None, "3", "there is no GPU '3' here; give 'all' or some of 0: GPU-0000, 1: GPU-0001"),
        (None, "0,0", "names a GPU twice"),
        (None, "", "there is no GPU ''"),
        ("5,3", "5", "there is no GPU '5' here; give 'all' or some of 0: 5, 1: 3"),
        ("", "all", "no GPU found .CUDA_VISIBLE_DEVICES is ''"),
        ("-1", "0", "no GPU found .CUDA_VISIBLE_DEVICES is '-1'"),
    ],
)
@pytest.mark.usefixtures("machine")
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: str, why: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UsageError, match=why):
        choose_gpus(wanted)


@pytest.mark.parametrize(
    ("card", "workers", "gpus"),
    [
        ({"runtime": "tensorrt", "gpu": "NVIDIA H100 80GB HBM3"}, None, 3),
        ({"runtime": "tensorrt", "gpu": "NVIDIA H100 80GB HBM3"}, 2, 0),
        ({"runtime": "tensorrt", "gpu": "Tesla T4"}, None, 0),
        ({}, None, 0),
    ],
)
def test_a_tensorrt_engine_gets_a_worker_on_each_gpu_of_its_model(
    machine: Path, card: dict[str, Any], workers: int | None, gpus: int
) -> None:
    path = write_fake_engine(machine, "txt")
    path.write_text(json.dumps({**json.loads(path.read_text()), **card}))
    named: list[str | None] = [f"GPU-000{number}" for number in range(gpus)]
    found = gpus_of_workers(load_card(path)[0], workers, None)
    assert found == (named or [None] * (workers or 1))
