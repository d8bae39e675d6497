"""The report of a dataset: its facts, and a page in which texts of others stay text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import clipfleet
from clipfleet.error_codes import MISSING, NON_FINITE
from clipfleet.errors import StorageError
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.commit import commit as commits
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.stage_seconds import StageSeconds
from clipfleet.storage.plan.jobs import jobs, shards
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.report.facts import EXAMPLES, read_facts
from clipfleet.tasks.report.write import write_report
from tests.datasets import (
    embedded,
    embedded_texts,
    fake_dataset,
    make_card,
    numbered_texts,
)

HOSTILE = "<script>alert(1)</script>\u202e\" onload='x"
TAGS = {
    *("html", "meta", "title", "style", "main", "h1", "h2", "h3", "p", "ul", "li", "strong", "a"),
    *("dl", "dt", "dd", "bdi", "code", "small", "br", "div", "table", "thead", "tbody", "tr", "th"),
    *("td", "img", "figure", "figcaption", "svg", "desc", "rect", "line", "text"),
}


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data

    def values(self, name: str) -> list[str | None]:
        return [value for key, value in self.attributes if key == name]


def report_of(dataset: Dataset, tmp_path: Path) -> Elements:
    path = tmp_path / "page.html"
    assert write_report(dataset, path, settings=Settings()) == str(path)
    return Elements(path.read_text(encoding="utf-8"))


def embed_shards(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, *, failing: set[str], error: str = MISSING
) -> None:
    """Embed all shards, each a second after the one before it, by two workers in turn."""
    [job] = jobs(dataset)
    for shard in shards(job):
        rows = embedded(PlanReader(dataset).read(shard), failing=failing, seed=shard.index)
        failures = [replace(one, error=error, message=HOSTILE) for one in rows.failures]
        monkeypatch.setattr(
            commits, "utc_now", lambda n=shard.index: f"2026-12-01T09:00:{n:02d}.000+00:00"
        )
        worker = f"img-1@host-{shard.index % 2}"
        rows = replace(rows, failures=failures)
        commit(dataset, shard.name, rows, card=dataset.info.card, worker=worker)


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """A dataset of pictures from a folder with other files; one picture can be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (640, 320), "teal").save(folder / "p00.jpg")
    for name in (*(f"p{n:02d}.jpg" for n in range(1, 30)), "a.mov", "b.mov", "notes"):
        (folder / name).touch()
    card = make_card("img")
    root = str(tmp_path / "d")
    dataset = Dataset.create(root, card, kind="planned", embedding_dtype="float16")
    plan_items(dataset, FolderSource(str(folder)), 5)
    return dataset


def test_the_facts_are_those_of_records_jobs_and_failures(
    photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {f"p{n:02d}.jpg" for n in range(8)}
    embed_shards(photos, monkeypatch, failing=failing)
    found = read_facts(photos)
    assert (found.total, found.vectors, found.failed, found.missing) == (30, 22, 8, 0)
    assert (found.shards, found.shards_done) == (6, 6)
    assert found.skipped == {".mov": 2, "no extension": 1}
    assert [failure.item.id for failure in found.classes[MISSING].examples] == sorted(failing)[:6]
    assert len(found.classes[MISSING].examples) == EXAMPLES
    assert [(one.worker, one.items, one.items_per_s) for one in found.machines] == [
        ("img-1@host-0", 15, 5.0),
        ("img-1@host-1", 15, 5.0),
    ]
    assert [one.card for one in found.machines] == [photos.info.card] * 2
    assert found.seconds is not None
    assert (found.seconds.wait, found.seconds.engine, found.seconds.decode) == (1.5, 4.5, 9.0)
    assert [items for _, items in found.times] == [5] * 6


def test_a_retry_takes_its_items_from_the_failures(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    plan_items(dataset, ListSource(numbered_texts(10)), 10)
    commit(dataset, "00001-0000000", embedded_texts(10, 3), card=dataset.info.card, worker="w")
    job = plan_retry(dataset, (), 10)
    assert job is not None
    [shard] = shards(job)
    found = read_facts(dataset)
    assert (found.total, found.vectors, found.failed, found.shards_done) == (10, 7, 3, 1)
    work = read_shard_work(dataset, shard)
    rows = work.finish(embedded(work.items, failing=("t9",)))
    commit(dataset, shard.name, rows, card=dataset.info.card, worker="w")
    found = read_facts(dataset)
    assert (found.total, found.vectors, found.failed, found.shards_done) == (10, 9, 1, 2)


def test_the_page_of_hostile_items_has_no_element_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(make_card("img"), gpu=HOSTILE)
    root = str(tmp_path / HOSTILE.replace("/", ""))
    dataset = Dataset.create(root, card, kind="planned", embedding_dtype="float16")
    items = [Item(id=f"{HOSTILE}{n}", uri=f"/pictures/{HOSTILE}{n}") for n in range(10)]
    plan_items(dataset, ListSource(items), 5)
    embed_shards(dataset, monkeypatch, failing={items[0].id})
    page = report_of(dataset, tmp_path)
    assert set(page.tags) <= TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.words.count("<script>alert(1)</script>\\u202e") >= 4  # gpu, id, uri, message
    assert "9 of 10 pictures have a vector. 1 failed" in page.words


def test_a_failed_picture_that_can_be_read_is_shown_and_a_url_is_not_fetched(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfleet.tasks.report.page._THUMBNAILS", 1)
    embed_shards(photos, monkeypatch, failing={"p00.jpg", "p01.jpg"}, error=NON_FINITE)
    [source] = report_of(photos, tmp_path).values("src")
    assert source is not None
    assert source.startswith("data:image/jpeg;base64,")
    url = Item(id="a", uri="https://example.org/a.jpg")
    web = Dataset.create(
        str(tmp_path / "web"), make_card("img"), kind="planned", embedding_dtype="float16"
    )
    plan_items(web, ListSource([url]), 5)
    embed_shards(web, monkeypatch, failing={"a"})
    page = report_of(web, tmp_path)
    assert page.values("src") == []
    assert "https://example.org/a.jpg" in page.words


def test_the_page_says_speed_bottleneck_model_and_what_was_left_out(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_shards(photos, monkeypatch, failing=set())
    page = report_of(photos, tmp_path)
    assert "All 30 pictures have a vector." in page.words
    assert "5.0 items/s on average in 5 s" in page.words
    assert "engine 75%" in page.words
    assert "The bottleneck is the engine." in page.words
    assert re.search(r"decode\s*decoders decode them, .*\s*9\.0 s", page.words)
    assert photos.info.model in page.words
    assert re.search(r"\.mov\s*2", page.words)
    assert "No item failed." in page.words


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        (StageSeconds(wait=4.9, engine=0.1), "Too short to tell the bottleneck"),
        (StageSeconds(wait=0.1, engine=4.9), "The bottleneck is the engine."),
        (StageSeconds(wait=30, read=2, decode=50, engine=20), "The bottleneck is decoding"),
        (StageSeconds(wait=30, read=50, decode=2, engine=20), "The bottleneck is reading"),
    ],
)
def test_a_run_in_which_decoders_only_start_names_no_bottleneck(
    photos: Dataset, tmp_path: Path, seconds: StageSeconds, verdict: str
) -> None:
    """Two engine processes worked for 5 s each, or for 50 s."""
    [job] = jobs(photos)
    for worker, shard in zip(("w/1", "w/2"), shards(job), strict=False):
        rows = replace(embedded(PlanReader(photos).read(shard)), seconds=seconds)
        commit(photos, shard.name, rows, card=photos.info.card, worker=worker)
    assert verdict in report_of(photos, tmp_path).words


def test_a_dataset_without_shards_and_one_of_a_single_shard_have_a_page(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    assert "Nothing is planned or embedded yet." in report_of(dataset, tmp_path).words
    plan_items(dataset, ListSource(numbered_texts(20)), 10)
    rows = replace(embedded_texts(10), seconds=None)
    commit(dataset, "00001-0000000", rows, card=dataset.info.card, worker="w")
    page = report_of(dataset, tmp_path)
    assert "10 are not done" in page.words
    assert "there is no rate" in page.words
    assert "How long the shards took is not known" in page.words


def test_single_items_count_as_total(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path, kind="stream")
    rows = embedded_texts(7, failures=2)
    commit_single_items(dataset, KnownIds(dataset), rows, card=dataset.info.card, worker="w")
    found = read_facts(dataset)
    assert (found.total, found.vectors, found.failed, found.shards) == (7, 5, 2, 0)


def test_the_report_lies_in_the_dataset_which_stays_whole(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    plan_items(dataset, ListSource(numbered_texts(10)), 10)
    commit(dataset, "00001-0000000", embedded_texts(10), card=dataset.info.card, worker="w")
    path = clipfleet.write_report(dataset.root)
    assert path == f"{dataset.root}/report.html"
    assert Path(path).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert verify_dataset(dataset).problems == []
    assert len(clipfleet.Dataset(dataset.root)) == 10
    assert clipfleet.write_report(dataset.root) == path  # the older page is replaced
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        clipfleet.write_report(dataset.root, tmp_path / "nowhere" / "page.html")
