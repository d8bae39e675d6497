import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipfleet.architectures import Architecture
from clipfleet.convert.checkpoints.load import build_model, load_checkpoint, save_checkpoint
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.engine_files import sha256_of
from clipfleet.errors import CheckpointError

Build = Callable[[Architecture], ChineseClip]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_a_saved_checkpoint_gives_the_model_back(
    tmp_path: Path, architecture: Architecture, build: Build, half: bool
) -> None:
    model = build(architecture)
    path = tmp_path / "model.pt"
    save_checkpoint(model, path, half=half)
    checkpoint = load_checkpoint(path, architecture)
    assert checkpoint.sha256 == sha256_of(path)
    assert checkpoint.logit_scale == pytest.approx(2.6592, abs=2e-3)
    loaded = build_model(checkpoint, architecture)
    assert not loaded.training
    for key, value in loaded.state_dict().items():
        expected = model.state_dict()[key]
        expected = expected.half().float() if half and expected.is_floating_point() else expected
        assert value.dtype == expected.dtype, key
        assert torch.equal(value, expected), key
    stored = {value.dtype for value in checkpoint.state_dict.values() if value.is_floating_point()}
    assert stored == {torch.float16 if half else torch.float32}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before PyTorch 1.6"])
def test_the_originals_training_checkpoint_loads(
    tmp_path: Path, vit: Architecture, build: Build, legacy: bool
) -> None:
    model = build(vit)
    weights = {f"module.{key}": value for key, value in model.state_dict().items()}
    weights["module.bert.pooler.dense.weight"] = torch.zeros(32, 32)
    weights["module.bert.pooler.dense.bias"] = torch.zeros(32)
    path = tmp_path / "epoch_latest.pt"
    content = {"epoch": 3, "step": 100, "name": "muge", "state_dict": weights}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = build_model(load_checkpoint(path, vit), vit)
    assert torch.equal(loaded.text_projection, model.text_projection)


def test_a_bare_state_dict_loads(tmp_path: Path, vit: Architecture, build: Build) -> None:
    path = tmp_path / "bare.pt"
    torch.save(build(vit).state_dict(), path)
    assert load_checkpoint(path, vit).state_dict.keys() == build(vit).state_dict().keys()


def test_a_missing_key_is_named_with_its_shape(
    tmp_path: Path, vit: Architecture, build: Build
) -> None:
    weights = build(vit).state_dict()
    del weights["visual.ln_post.bias"]
    path = tmp_path / "model.pt"
    torch.save({"state_dict": weights}, path)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path, vit)
    assert str(path) in str(raised.value)
    assert "'visual.ln_post.bias' is missing, expected with shape (32,)" in str(raised.value)


def test_an_unexpected_key_is_named(tmp_path: Path, vit: Architecture, build: Build) -> None:
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {**build(vit).state_dict(), "extra.bias": torch.zeros(7)}}, path)
    with pytest.raises(CheckpointError, match=r"'extra\.bias' of shape \(7,\) is not expected"):
        load_checkpoint(path, vit)


def test_a_wrong_shape_is_named_with_both_shapes(
    tmp_path: Path, vit: Architecture, build: Build
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {**build(vit).state_dict(), "visual.proj": torch.zeros(32, 8)}}, path)
    expected = r"'visual\.proj' has shape \(32, 8\), expected \(32, 16\)"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(path, vit)


def test_another_architectures_checkpoint_is_refused_by_name(
    tmp_path: Path, vit: Architecture, resnet: Architecture, build: Build
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(build(resnet), path, half=False)
    with pytest.raises(CheckpointError, match="does not hold the weights of small-vit") as raised:
        load_checkpoint(path, vit)
    assert "more" in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_the_message_names_the_known_architecture_that_fits(
    tmp_path: Path, vit: Architecture, monkeypatch: pytest.MonkeyPatch, build: Build
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(build(vit), path, half=False)
    known = {"small-vit": vit}
    monkeypatch.setattr(
        "clipfleet.convert.checkpoints.load.architecture_names", lambda: tuple(known)
    )
    monkeypatch.setattr("clipfleet.convert.checkpoints.load.load_architecture", known.__getitem__)
    from clipfleet.architectures import load_architecture

    with pytest.raises(CheckpointError, match=r"It fits small-vit$"):
        load_checkpoint(path, load_architecture("ViT-B-16"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_truncated_anywhere_is_an_error_that_names_it(
    tmp_path: Path, vit: Architecture, build: Build, suffix: str
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        save_checkpoint(build(vit), path, half=True)
    else:
        save_file(build(vit).state_dict(), path)
    load_checkpoint(path, vit)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=rf"model{suffix} \({size} bytes\) is truncated"):
            load_checkpoint(path, vit)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path, vit: Architecture) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match=f"checkpoint {path} is missing, or is not a"):
            load_checkpoint(path, vit)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, vit: Architecture) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (str(tmp_path / "ran"),))

    path = tmp_path / "harmful.pt"
    torch.save({"state_dict": {"logit_scale": Harmful()}}, path)
    with pytest.raises(CheckpointError, match=r"harmful\.pt"):
        load_checkpoint(path, vit)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"logit_scale": 4.6}}])
def test_a_file_without_weights_is_refused(
    tmp_path: Path, vit: Architecture, content: object
) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"other\.pt holds no"):
        load_checkpoint(path, vit)


class RunsACommand:
    """Unpickling an instance without protection runs its code."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self._marker}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before PyTorch 1.6"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, vit: Architecture, legacy: bool
) -> None:
    marker = tmp_path / "was-run"
    path = tmp_path / "model.pt"
    content = {"state_dict": {"a": torch.zeros(2), "b": RunsACommand(marker)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"could run code: unsupported GLOBAL") as caught:
        load_checkpoint(path, vit)
    assert "weights_only" not in str(caught.value)  # torch's advice to load it all the same
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file does run its code
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, vit: Architecture
) -> None:
    marker = tmp_path / "was-run"
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(RunsACommand(marker)))
    with pytest.raises(CheckpointError, match="not a PyTorch file of weights") as caught:
        load_checkpoint(path, vit)
    assert "weights_only" not in str(caught.value)
    assert not marker.exists()
