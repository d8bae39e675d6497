"""Where a model is that a command names: a path, or a name in the folders of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.errors import CardError
from clipfleet.settings import load_settings
from clipfleet.workers.engines.fake import write_fake_engine
from clipfleet.workers.engines.model_folder import find_engine
from clipfleet.workers.engines.model_location import folder_to_prepare, locate_model


def test_a_name_is_the_folder_in_the_first_place_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLEET_MODELS", f"{tmp_path}/a:{tmp_path}/b")
    settings = load_settings()
    for folder in ("b/vit-b-16", "b/mine", "a/mine"):
        (tmp_path / folder).mkdir(parents=True)
    assert locate_model("ViT-B-16", settings) == tmp_path / "b/vit-b-16"
    assert locate_model("mine", settings) == tmp_path / "a/mine"
    assert folder_to_prepare("ViT-B-16", settings) == tmp_path / "b/vit-b-16"
    assert folder_to_prepare("RN50", settings) == tmp_path / "a/rn50"
    card = write_fake_engine(tmp_path / "a/mine", "txt")
    assert find_engine("mine", "txt", settings) == card


def test_a_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    (tmp_path / "models/vit-b-16").mkdir(parents=True)
    assert locate_model("vit-b-16", settings) == Path("models/vit-b-16")
    for path in ("absent/vit-b-16", "absent.onnx", "."):
        assert locate_model(path, settings) == Path(path)
    (tmp_path / "vit-b-16").mkdir()
    assert locate_model("vit-b-16", settings) == Path("vit-b-16")


def test_a_model_that_was_not_prepared_is_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(models=["models", str(tmp_path / "more")])
    told = rf"nothing is at models/vit-b-16 or {tmp_path}/more/.* `clipfleet prepare ViT-B-16`"
    for name in ("ViT-B-16", "vit-b-16"):
        with pytest.raises(CardError, match=told):
            locate_model(name, settings)
