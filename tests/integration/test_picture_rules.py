"""A dataset's picture rules, from its creation to its vectors, whatever a worker's settings are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipfleet
from clipfleet.error_codes import DECODE_FAILED, NOT_8_BIT
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.messages import EmbedTask
from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_path, read_footer
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verification import Verification
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.embed_shard import embed_shard
from clipfleet.tasks.items.embed import embed_single_items
from clipfleet.tasks.items.parse import SingleItem
from clipfleet.tasks.items.task import open_dataset
from clipfleet.tasks.submit.submit import create_planned
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import write_fake_engine
from clipfleet.workers.recompute import recompute
from tests.integration.support import run_command

RULES = PictureRules(sixteen_bit="scale", alpha="white", truncated="allow")
OTHER = {"sixteen_bit": "original", "alpha": "black", "truncated": "allow"}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Embedder]:
    """A worker whose settings have other rules than the datasets."""
    settings = Settings(
        model=str(write_fake_engine(tmp_path, "img", dim=16)),
        output=str(tmp_path / "out"),
        decoders=1,
        **OTHER,  # type: ignore[arg-type]
    )
    with Embedder.from_settings(settings) as embedder:
        yield embedder


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    folder = tmp_path / "photos"
    folder.mkdir()
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100 + 1000
    Image.fromarray(deep).save(folder / "rising.png")
    Image.fromarray(deep[::-1]).save(folder / "falling.png")
    Image.new("RGBA", (30, 20), (0, 0, 0, 100)).save(folder / "clear.png")
    plain = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(plain).save(folder / "whole.jpg", subsampling=0)
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-2])
    return [Item(id=path.name, uri=str(path)) for path in sorted(folder.iterdir())]


def embed(name: str, items: list[Item], worker: Embedder, rules: PictureRules) -> Dataset:
    """Plan items as a producer with these rules does, and embed them as the worker does."""
    producer = worker.settings.model_copy(
        update={name: getattr(rules, name) for name in PictureRules.__slots__}
    )
    root, source = f"{worker.settings.output}/{name}", ListSource(items)
    dataset = create_planned(root, worker.card, producer, source)
    plan_items(dataset, source, 10)
    for shard in missing_shards(dataset):
        task = EmbedTask(dataset=root, tower="img", model=worker.card.identity, shard=shard)
        embed_shard(task, worker, worker="w")
    return dataset


def vectors_of(dataset: Dataset) -> dict[str, bytes]:
    opened = clipfleet.Dataset(dataset.root)
    return dict(zip(opened.ids, (row.tobytes() for row in opened.vectors()), strict=True))


def test_the_datasets_rules_decide_and_its_footers_name_and_count(
    worker: Embedder, items: list[Item], tmp_path: Path
) -> None:
    ruled = embed("ruled", items, worker, RULES)
    vectors = vectors_of(ruled)
    assert sorted(vectors) == [item.id for item in items]
    assert vectors["truncated.jpg"] == vectors["whole.jpg"]
    assert vectors["rising.png"] != vectors["falling.png"]
    with ruled.fs.open(part_path("00001-0000000")) as file:
        footer = read_footer(file, path="the part")
    assert (footer.rules, footer.transparent, footer.without_end) == (RULES, 1, 1)

    by_default = embed("by_default", items, worker, PictureRules())
    result = verify_dataset(by_default)
    assert (result.ok, result.vectors, result.transparent, result.without_end) == (True, 2, 1, 0)
    assert vectors_of(by_default)["clear.png"] != vectors["clear.png"]

    checked = Verification(dataset=ruled.root, model=worker.card.identity)
    recompute(ruled, worker, 1.0, checked)
    assert (checked.bit_equal, checked.not_recomputed) == (5, 0)

    arguments = ["embed", str(tmp_path / "photos"), ruled.root, "--model", worker.settings.model]
    run = run_command(*map(str, arguments), "--sixteen-bit", "scale", "--alpha", "black")
    assert run.returncode == 2
    assert "holds vectors with alpha 'white', not 'black': use --alpha white" in run.stderr


def test_pictures_of_queries_follow_the_rules_of_the_indexed_dataset(
    worker: Embedder, items: list[Item], tmp_path: Path
) -> None:
    ruled, index = embed("ruled", items, worker, RULES), tmp_path / "index"
    clipfleet.build_index(ruled.root, index)
    asked = [argument for item in items for argument in ("--image", str(item.uri))]
    model = str(worker.settings.model)
    run = run_command("search", str(index), *asked, "-k", "1", "--model", model, "--json")
    assert run.returncode == 0, run.stderr
    hits = [answer["hits"][0] for answer in json.loads(run.stdout)["answers"]]
    assert [hit["score"] for hit in hits] == pytest.approx([1.0] * len(items), abs=1e-3)
    assert [hit["id"] for hit in hits[:3]] == ["clear.png", "falling.png", "rising.png"]
    card = clipfleet.Index.open(index).card
    of_texts = replace(card, model=replace(card.model, tower="txt"))
    other = worker.settings
    assert PictureRules.of(card.query_settings(other)) == RULES
    assert of_texts.query_settings(other) is other


def test_a_stream_keeps_the_rules_of_the_worker_that_made_it(
    worker: Embedder, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_dataset(worker, "stream")
    assert stream.info.rules == PictureRules(**OTHER)  # type: ignore[arg-type]
    defaults = {"sixteen_bit": "error", "alpha": "original", "truncated": "error"}
    monkeypatch.setattr(worker, "settings", worker.settings.model_copy(update=defaults))
    again = open_dataset(worker, "stream")
    embed_single_items([SingleItem(item=item) for item in items], again, worker, worker="w")
    result = verify_dataset(stream)
    assert (result.vectors, result.errors, result.without_end) == (5, 0, 1)
    vectors = vectors_of(stream)
    assert vectors["rising.png"] == vectors["falling.png"]  # both white, as the original's

    made = open_dataset(worker, "other")
    embed_single_items([SingleItem(item=item) for item in items], made, worker, worker="w")
    errors = {row.error for row in clipfleet.Dataset(made.root).errors()}
    assert errors == {NOT_8_BIT, DECODE_FAILED}
