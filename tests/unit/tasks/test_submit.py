"""Submitting: what it says, and that it fails early without Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipfleet
from clipfleet.architectures import TOWERS, Tower
from clipfleet.errors import BrokerError, CardError, DuplicateIdError, SourceError
from clipfleet.items import Item
from clipfleet.settings import load_settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.withdraw import withdrawn_if_refused
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.submit.submit import Submission, submit
from clipfleet.tasks.submit.url_count import CountedUrls
from clipfleet.workers.engines.fake import write_fake_engine
from tests.datasets import make_card, numbered_texts, texts


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


def test_the_wrong_towers_model_is_told_as_that(tmp_path: Path) -> None:
    images, texts = (write_fake_engine(tmp_path, tower) for tower in TOWERS)
    captions, photos = tmp_path / "cap.csv", tmp_path / "photos"
    captions.write_text("id,text\n1,cat\n")
    photos.mkdir()
    (photos / "a.jpg").touch()
    named = texts.name.removesuffix(".card.json")
    cases: list[tuple[Path, Path, Tower | None, str]] = [
        (captions, images, None, f"holds texts, and .* is the engine of images: name {named}"),
        (photos, texts, None, "holds images, and .* is the engine of texts: name .*img"),
        (captions, tmp_path, "img", "holds texts, .*: use --tower txt"),
    ]
    for source, model, tower, told in cases:
        with pytest.raises(SourceError, match=told):
            clipfleet.submit(source, tmp_path / "out", model=model, tower=tower)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_refused_while_it_is_planned_leaves_room_for_another_model(
    tmp_path: Path,
) -> None:
    def create(checkpoint: str) -> Dataset:
        card = make_card(checkpoint=checkpoint)
        out = str(tmp_path / "out")
        return Dataset.create(out, card, kind="planned", embedding_dtype="float16")

    dataset = create("a")
    with pytest.raises(DuplicateIdError), withdrawn_if_refused(dataset):
        plan_items(dataset, ListSource(texts("1", "2", "1")), 1)
    assert not (tmp_path / "out/dataset.json").exists()
    dataset = create("b")
    plan_items(dataset, ListSource(texts("1")), 1)
    with pytest.raises(DuplicateIdError), withdrawn_if_refused(dataset):
        plan_items(dataset, ListSource(texts("2", "2")), 1)
    assert Dataset.open(dataset.root).info == dataset.info


def test_a_submission_in_words() -> None:
    done = Submission(
        dataset="/d", job="00002", planned_items=2048, planned_shards=2, queued_shards=3
    )
    assert done.lines() == ["/d: planned 2,048 items in 2 shards as job 00002; queued 3 shards"]
    nothing = Submission(dataset="/d", job=None, planned_items=0, planned_shards=0, queued_shards=0)
    assert "planned nothing" in nothing.lines()[0]
    assert "queued nothing" in nothing.lines()[0]
    assert nothing.to_json()["job"] is None


def test_a_submission_says_that_the_workers_choose_the_hosts_of_urls() -> None:
    urls = [
        Item(id=str(n), uri=uri) for n, uri in enumerate(["/a.jpg", "https://a/b", "HTTP://a/c"])
    ]
    counted = CountedUrls(ListSource(urls))
    assert list(counted) == list(counted) == urls
    done = Submission(
        dataset="/d",
        job="00001",
        planned_items=3,
        planned_shards=1,
        queued_shards=1,
        urls=counted.urls,
    )
    assert done.lines()[1].startswith("  URLs in the source: 2; workers fetch from the hosts of")


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
