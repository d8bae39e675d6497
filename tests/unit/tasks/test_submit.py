"""Submitting: what it says, and that it fails early without Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipfleet
from clipfleet.errors import BrokerError, CardError, SourceError
from clipfleet.settings import load_settings
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.submit.submit import Submission, submit
from clipfleet.workers.engines.fake import write_fake_engine
from tests.datasets import numbered_texts


def test_without_redis_nothing_is_planned(tmp_path: Path) -> None:
    model = write_fake_engine(tmp_path, "txt")
    settings = load_settings(redis_url="redis://:hush@127.0.0.1:1/0")
    out = tmp_path / "out"
    with pytest.raises(BrokerError, match=r"redis://:\*\*@127") as caught:
        submit(ListSource(numbered_texts(5)), str(out), model, settings=settings)
    assert "hush" not in str(caught.value)
    assert not out.exists()


def test_without_a_card_nothing_is_tried(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no model card at"):
        submit(
            ListSource(numbered_texts(5)),
            str(tmp_path / "o"),
            tmp_path / "x.onnx",
            settings=load_settings(),
        )


def test_a_source_that_is_refused_leaves_no_dataset(tmp_path: Path) -> None:
    model, out = write_fake_engine(tmp_path, "img"), tmp_path / "out"
    captions, empty = tmp_path / "cap.csv", tmp_path / "empty.jsonl"
    captions.write_text("id,text\n1,cat\n")
    empty.touch()
    for source, reason in ((captions, "--uri-column"), (empty, "it is empty"), ([], "it is empty")):
        with pytest.raises(SourceError, match=reason):
            clipfleet.submit(source, out, model=model, tower="img")
    assert not out.exists()


def test_a_submission_in_words() -> None:
    done = Submission(
        dataset="/d", job="00002", planned_items=2048, planned_shards=2, queued_shards=3
    )
    assert done.lines() == ["/d: planned 2,048 items in 2 shards as job 00002; queued 3 shards"]
    nothing = Submission(dataset="/d", job=None, planned_items=0, planned_shards=0, queued_shards=0)
    assert "planned nothing" in nothing.lines()[0]
    assert "queued nothing" in nothing.lines()[0]
    assert nothing.to_json()["job"] is None


def test_a_submission_says_what_its_folder_skipped() -> None:
    done = Submission(
        dataset="/d",
        job=None,
        planned_items=0,
        planned_shards=0,
        queued_shards=0,
        skipped={"no extension": 7, ".mov": 1412},
    )
    assert done.lines()[1] == "  skipped 1,419 files: .mov 1,412, no extension 7"
    assert done.to_json()["skipped"] == {"no extension": 7, ".mov": 1412}
