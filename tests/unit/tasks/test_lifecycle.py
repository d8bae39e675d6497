"""What must hold before a worker starts, and what its children are told."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

import clipfleet
from clipfleet.errors import (
    CardError,
    DatasetMismatchError,
    DependencyError,
    SettingsError,
    UsageError,
)
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.tasks.local.fleet import LocalFleet, log_tail
from clipfleet.workers.embedder import Embedder, close_embedder, current_embedder, open_embedder
from clipfleet.workers.engines.fake import fake_card, write_fake_engine
from clipfleet.workers.environment import environment_of
from clipfleet.workers.preflight import preflight


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    model = write_fake_engine(tmp_path, "txt")
    return load_settings(tower="txt", model=str(model), output=str(tmp_path / "a" / "b"))


def test_a_worker_that_has_all_it_needs_gets_its_card(settings: Settings) -> None:
    assert preflight(settings).tower == "txt"
    assert list(Path(str(settings.output)).iterdir()) == []


@pytest.mark.parametrize("name", ["tower", "model", "output"])
def test_a_worker_needs_tower_model_and_output(settings: Settings, name: str) -> None:
    with pytest.raises(SettingsError, match=f"a worker needs {name}: set CLIPFLEET_{name.upper()}"):
        preflight(settings.model_copy(update={name: None}))


def test_the_other_towers_engine_is_refused(settings: Settings) -> None:
    with pytest.raises(UsageError, match="is the txt tower's engine and this worker serves img"):
        preflight(settings.model_copy(update={"tower": "img"}))


def test_a_missing_engine_is_refused(settings: Settings) -> None:
    Path(str(settings.model).removesuffix(".card.json")).unlink()
    with pytest.raises(CardError, match="which is not beside it"):
        preflight(settings)


def test_an_output_folder_that_cannot_be_written_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to the output folder .*: Not a directory"):
        preflight(settings.model_copy(update={"output": str(tmp_path / "file" / "out")}))
    with pytest.raises(UsageError, match="cannot write to the output folder /proc/none"):
        preflight(settings.model_copy(update={"output": "/proc/none"}))


def test_a_worker_whose_model_does_not_fit_the_dataset_of_single_items_is_refused(
    settings: Settings,
) -> None:
    root = Path(str(settings.output), "items-txt")
    other = replace(fake_card("txt"), checkpoint_sha256="1" * 64)
    Dataset.create(str(root), other, kind="stream", embedding_dtype="float16")
    with pytest.raises(DatasetMismatchError, match=r"items-txt holds vectors of .* choose another"):
        preflight(settings)
    (root / "dataset.json").unlink()
    assert preflight(settings).tower == "txt"


@pytest.mark.parametrize("builds", [False, True])
def test_an_engine_that_cannot_decode_on_the_gpu_is_refused_before_the_start(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: bool
) -> None:
    gpu = settings.model_copy(update={"decode": "gpu"})
    with pytest.raises(UsageError, match="--decode gpu is for image engines of TensorRT"):
        preflight(gpu, builds=builds)
    (tmp_path / "img").mkdir()
    model = str(write_fake_engine(tmp_path / "img", "img"))
    images = gpu.model_copy(update={"tower": "img", "model": model})
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", cast("ModuleType", None))
    error = DependencyError if builds else UsageError  # a built engine would be of TensorRT
    with pytest.raises(error, match="leave it out \\(CLIPFLEET_DECODE\\)"):
        preflight(images, builds=builds)
    items = [{"id": "a", "uri": "/photos/a.jpg"}]
    with pytest.raises(UsageError, match="this is a fake engine of the img tower"):
        clipfleet.embed(items, tmp_path / "out", model=model, settings=images)
    assert not (tmp_path / "out").exists()


def test_a_child_reads_the_settings_that_its_parent_has(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other.toml").write_text("shard_size = 5\n")
    monkeypatch.setenv("CLIPFLEET_CONFIG", str(tmp_path / "other.toml"))
    mine = load_settings(**{**settings.model_dump(exclude={"shard_size"}), "window_s": 0.25})
    assert mine.shard_size == 5
    monkeypatch.setattr(os, "environ", environment_of(mine))
    (tmp_path / "clipfleet.toml").write_text("window_s = 9\n")
    assert load_settings() == mine


def test_input_roots_reach_the_child_and_must_be_folders(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    roots = (str(tmp_path), str(tmp_path / "more"))
    mine = settings.model_copy(update={"input_roots": roots})
    with pytest.raises(UsageError, match=r"the input root .*/more is no folder"):
        preflight(mine)
    (tmp_path / "more").mkdir()
    preflight(mine)
    monkeypatch.setattr(os, "environ", environment_of(mine))
    assert load_settings().input_roots == roots


def test_a_process_loads_its_engine_once_and_lets_it_go(
    settings: Settings,
) -> None:
    with pytest.raises(UsageError, match="this process holds no engine"):
        current_embedder()
    assert open_embedder(settings) is current_embedder()
    assert current_embedder().card.identity == fake_card("txt").identity
    close_embedder()
    assert Embedder.current is None


def test_workers_of_one_machine_share_its_cores(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfleet.tasks.local.fleet.cores", lambda: 8)
    assert LocalFleet(settings, [None] * 3)._settings.engine_threads == 2
    assert LocalFleet(settings, [None] * 20)._settings.decoders == 1
    assert LocalFleet(settings, [None])._settings.engine_threads == 0  # all
    given = settings.model_copy(update={"engine_threads": 5})
    assert LocalFleet(given, [None] * 3)._settings.engine_threads == 5


def test_the_last_words_of_a_log_are_its_reasons(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('old\n{"event": "started"}\n{"event": "x", "reason": "no GPU"}\nplain\n[1]\n\n')
    assert log_tail(log).endswith("started | no GPU | plain | [1] | ")
    log.write_text("")
    assert log_tail(log) == "it said nothing"
