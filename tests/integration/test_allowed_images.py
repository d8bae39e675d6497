"""Input roots from the command line to the errors table."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from clipfleet.cli.main import app
from clipfleet.error_codes import NOT_ALLOWED
from clipfleet.items import Item
from clipfleet.messages import EmbedTask
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.embed_shard import embed_shard
from clipfleet.tasks.items.embed import embed_single_items
from clipfleet.tasks.items.parse import read_single_items
from clipfleet.tasks.items.task import open_dataset
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import write_fake_engine


def pictures(folder: Path) -> list[Item]:
    """Return an item below the folder `in`, and two that lead out of it."""
    (folder / "in").mkdir()
    for name in ("in/a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(folder / name)
    (folder / "in" / "link.png").symlink_to(folder / "b.png")
    return [Item(id=n, uri=f"{folder}/{n}") for n in ("in/a.png", "b.png", "in/link.png")]


def test_images_below_no_root_are_error_rows_planned_or_queued_singly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    items = pictures(tmp_path)
    settings = load_settings(
        tower="img",
        model=str(write_fake_engine(tmp_path, "img")),
        output=str(tmp_path / "out"),
        input_roots=[str(tmp_path / "in")],
        decoders=1,
    )
    with Embedder.from_settings(settings) as embedder:
        root = str(tmp_path / "out" / "d")
        planned = Dataset.create(root, embedder.card, kind="planned", embedding_dtype="float16")
        plan_items(planned, ListSource(items), 10)
        (shard,) = missing_shards(planned)
        model = embedder.card.identity
        task = EmbedTask(dataset=root, tower="img", model=model, shard=shard)
        embed_shard(task, embedder, worker="w")
        single = open_dataset(embedder, None)
        arrivals, _ = read_single_items([{"id": i.id, "uri": i.uri} for i in items], "img")
        embed_single_items(arrivals, single, embedder, worker="w")
    for dataset in (planned, single):
        assert count_failures(dataset) == {NOT_ALLOWED: 2}
        result = verify_dataset(dataset.root)
        assert (result.ok, result.vectors, result.errors) == (True, 1, 2)


def test_a_worker_gets_its_roots_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started: list[Settings] = []

    def run_worker(settings: Settings) -> int:
        started.append(settings)
        return 0

    monkeypatch.setattr("clipfleet.tasks.worker.main.run_worker", run_worker)
    command = ["worker", "--tower", "img", "--model", "m", "--output", "out"]
    monkeypatch.setenv("CLIPFLEET_INPUT_ROOTS", "/from/the/environment")
    for roots in (["--input-root", "/data", "--input-root", "more"], []):
        assert CliRunner().invoke(app, [*command, *roots]).exit_code == 0
    assert [settings.input_roots for settings in started] == [
        ("/data", str(tmp_path / "more")),
        ("/from/the/environment",),
    ]
