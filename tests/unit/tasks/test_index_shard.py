"""The message of a shard of an index: what a worker builds, drops and refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipfleet.errors import MessageError
from clipfleet.messages import IndexShardTask
from clipfleet.retrieval.index.dataset_parts import committed_parts
from clipfleet.retrieval.index.parameters import Structure
from clipfleet.retrieval.index.plan import first_plan, missing_shards, read_plan, write_plan
from clipfleet.settings import Settings
from clipfleet.tasks.index_shard import build_planned_shard, names_of
from tests.datasets import DIM, dataset_of


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The folder of an exact index of two shards, which is planned and not built."""
    dataset = dataset_of(tmp_path / "output/photos", np.eye(DIM, dtype=np.float32), part_rows=4)
    folder = tmp_path / "output/index"
    folder.mkdir()
    parts = committed_parts(dataset)
    structure = Structure(kind="exact")
    write_plan(folder, first_plan(dataset.root, dataset.info.model, structure, parts, shard_rows=4))
    return folder


def build(index: Path, shard: str = "00001", dataset: str = "photos", **settings: Any) -> bool:
    task = IndexShardTask(index=str(index), dataset=dataset, shard=shard)
    output = str(index.parents[1] / "output")
    given = Settings(**{"output": output, **settings})
    return build_planned_shard(task, given, progress=lambda: None)


def test_a_shard_is_built_once(index: Path) -> None:
    assert build(index)
    assert not build(index)
    plan = read_plan(index)
    assert plan is not None
    assert [shard.name for shard in missing_shards(index, plan)] == ["00002"]
    assert not list((index / "_temporary").iterdir())


def test_a_shard_that_nobody_needs_any_more_is_dropped(index: Path) -> None:
    assert not build(index, "00007")
    (index / "build.json").unlink()
    assert not build(index)


def test_an_index_elsewhere_is_refused(index: Path, tmp_path: Path) -> None:
    with pytest.raises(MessageError, match="is not inside"):
        build(tmp_path)
    with pytest.raises(MessageError, match="set CLIPFLEET_INDEX_ROOT to the folder"):
        build(index, output="s3://bucket/vectors")
    outside = tmp_path / "indexes/index"
    shutil.move(index, outside)
    with pytest.raises(MessageError, match="is not inside"):
        build(outside)
    assert build(outside, index_root=str(tmp_path / "indexes"))


def test_a_link_in_place_of_the_shards_is_refused(index: Path, tmp_path: Path) -> None:
    (index / "shards").symlink_to(tmp_path)
    with pytest.raises(MessageError, match=r"shards/ of index .* is a symbolic link out of"):
        build(index)


def test_an_index_of_another_dataset_is_refused(index: Path) -> None:
    dataset_of(index.parent / "other", np.eye(DIM, dtype=np.float32))
    with pytest.raises(MessageError, match=r"is for an index of .*other, and .*photos"):
        build(index, dataset="other")


@pytest.mark.parametrize("shard", ["", "../1", "1", "00001/..", 1])
def test_a_message_names_a_shard_by_its_number(shard: object) -> None:
    message = {"index": "/i", "dataset": "/d", "shard": shard}
    with pytest.raises(MessageError, match=r"not an clipfleet\.index_shard message: shard"):
        IndexShardTask.from_json(message)
    assert names_of("x", message) == ("message x", "")
    assert names_of("x", {**message, "shard": "00001"}) == ("shard 00001", "/i")
