"""The public functions on real processes: what the commands do, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipfleet
from clipfleet.error_codes import MISSING, UNSUPPORTED_FORMAT
from clipfleet.settings import Settings, load_settings
from clipfleet.workers.engines.fake import write_fake_engine
from examples.demo.scenes import jpeg, pictures
from tests.integration.conftest import MakeBench
from tests.integration.support import Bench, forget_settings, texts, wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration

DEMO = Path(__file__).parents[2] / "examples/demo/model"
COUNT = 40


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of no environment; temporary files are below the test's folder."""
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return load_settings(shard_size=16, embedding_dtype="float32", stop_grace_s=5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for scene in pictures(count=COUNT, seed=5):
        (folder / f"{scene.id}.jpg").write_bytes(jpeg(scene))
    return folder


def test_embed_writes_what_encode_images_computes_and_retry_mends(
    tmp_path: Path, settings: Settings, photos: Path
) -> None:
    model = DEMO  # a folder
    broken = photos / "broken.jpg"
    broken.write_bytes(b"no picture")
    seen: list[clipfleet.Snapshot] = []
    out = tmp_path / "vectors"
    summary = clipfleet.embed(
        photos, out, model=model, workers=2, settings=settings, on_progress=seen.append
    )
    assert not summary.ok
    assert (summary.embedded_items, summary.classes) == (COUNT + 1, {UNSUPPORTED_FORMAT: 1})
    assert {snapshot.total for snapshot in seen} == {COUNT + 1}
    assert seen[-1].done == COUNT + 1
    assert clipfleet.verify(out, settings=settings).ok

    dataset = clipfleet.Dataset(out, settings=settings)
    assert dataset.dtype == np.float32
    assert sorted(dataset.ids) == sorted(p.name for p in photos.iterdir() if p != broken)
    with clipfleet.load_model(model, settings=settings) as loaded:
        expected = loaded.encode_images([photos / id_ for id_ in dataset.ids])
    assert dataset.vectors().tobytes() == expected.tobytes()
    [row] = dataset.errors()
    assert (row.id, row.uri, row.error) == ("broken.jpg", str(broken), UNSUPPORTED_FORMAT)

    again = clipfleet.embed(photos, out, model=model, settings=settings)
    assert again.embedded_items == 0

    broken.write_bytes((photos / dataset.ids[0]).read_bytes())
    retried = clipfleet.retry(out, only=[UNSUPPORTED_FORMAT], model=model, settings=settings)
    assert isinstance(retried, clipfleet.Summary)
    assert retried.ok
    assert len(list(dataset.errors())) == 1  # as it was opened
    assert len(dataset) == COUNT
    dataset.refresh()
    assert (len(dataset), list(dataset.errors())) == (COUNT + 1, [])
    vector_of = dict(zip(dataset.ids, dataset.vectors(), strict=True))
    np.testing.assert_allclose(vector_of["broken.jpg"], vector_of[dataset.ids[0]], atol=1e-6)


def test_items_in_memory_are_a_source(tmp_path: Path, settings: Settings) -> None:
    model = write_fake_engine(tmp_path, "txt")
    write_fake_engine(tmp_path, "img")
    items = [{"id": f"t{n}", "text": f"text {n}"} for n in range(COUNT)]
    out = tmp_path / "vectors"
    summary = clipfleet.embed(iter(items), str(out), model=str(tmp_path), settings=settings)
    assert summary.ok
    dataset = clipfleet.Dataset(out, settings=settings)
    assert dataset.ids == tuple(item["id"] for item in items)
    with clipfleet.load_model(model, settings=settings) as loaded:
        expected = loaded.encode_texts([item["text"] for item in items])
    assert dataset.vectors().tobytes() == expected.tobytes()
    with pytest.raises(clipfleet.UsageError, match="item 1 is not an item of the txt tower"):
        clipfleet.embed([{"id": "a", "uri": "/a"}], out, model=model, settings=settings)
    with pytest.raises(clipfleet.UsageError, match="text_column: for files and folders"):
        clipfleet.embed(items, out, model=model, text_column="text", settings=settings)
    with pytest.raises(clipfleet.UsageError, match=r"--tower is img, and .* is the txt tower"):
        clipfleet.embed(items, out, model=model, tower="img", settings=settings)
    with pytest.raises(clipfleet.UsageError, match="item 1 is not an item of the img tower"):
        clipfleet.embed(items, out, model=tmp_path, tower="img", settings=settings)


def test_the_functions_refuse_what_does_not_fit(tmp_path: Path, settings: Settings) -> None:
    model = write_fake_engine(tmp_path, "txt")
    items = [{"id": "a", "text": "a"}]
    with pytest.raises(clipfleet.CardError, match="no model card"):
        clipfleet.embed(items, tmp_path / "out", model=tmp_path / "absent", settings=settings)
    with pytest.raises(clipfleet.UsageError, match="workers"):
        clipfleet.embed(
            items, tmp_path / "out", model=model, workers=2, gpus="all", settings=settings
        )
    for call in (clipfleet.verify, clipfleet.status, clipfleet.resume, clipfleet.retry):
        with pytest.raises(clipfleet.DatasetError, match="no dataset at"):
            call(tmp_path / "absent", settings=settings)
    with pytest.raises(clipfleet.UsageError, match="name the model too"):
        clipfleet.retry(tmp_path / "absent", workers=2, settings=settings)
    for only in ("nonsense", ["nonsense"]):
        with pytest.raises(clipfleet.UsageError, match="nonsense"):
            clipfleet.retry(tmp_path / "absent", only=only, settings=settings)
    with pytest.raises(clipfleet.UsageError, match="on_conflict is for a refresh"):
        clipfleet.submit(
            items, tmp_path / "out", model=model, on_conflict="keep", settings=settings
        )
    with pytest.raises(clipfleet.UsageError, match="'merge': expected one of keep, replace, error"):
        clipfleet.submit(
            items,
            tmp_path / "out",
            model=model,
            refresh=True,
            on_conflict="merge",  # type: ignore[arg-type]
            settings=settings,
        )
    nobody = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with pytest.raises(clipfleet.BrokerError, match=r"127\.0\.0\.1:1"):
        clipfleet.submit(items, tmp_path / "out", model=model, settings=nobody)


def test_a_job_of_a_fleet_is_submitted_watched_and_retried(bench: Bench) -> None:
    settings, out = bench.settings, bench.dataset_path()
    model = Path(str(settings.model)).parent  # a folder
    items = [{"id": f"t{n}", "text": f"text {n}" if n else " "} for n in range(250)]
    submission = clipfleet.submit(items, out, model=model, settings=settings)
    assert (submission.planned_items, submission.queued_shards) == (250, 3)
    progress = clipfleet.status(out, settings=settings)
    assert (progress.total, progress.done, progress.waiting) == (250, 0, 3)
    assert not progress.finished
    assert clipfleet.submit(items, out, model=model, settings=settings).queued_shards == 0
    assert clipfleet.resume(out, settings=settings).queued_shards == 0

    bench.start_worker()
    bench.wait_for_items(250)
    progress.refresh()
    assert (progress.finished, progress.vectors, progress.errors) == (True, 249, 1)
    assert clipfleet.status(f"{out}:00001", settings=settings).done == 250
    assert clipfleet.verify(out, settings=settings).ok

    retry = clipfleet.retry(out, only="empty_text", settings=settings)
    assert isinstance(retry, clipfleet.Retry)
    assert (retry.items, retry.shards) == (1, 1)
    dataset = clipfleet.Dataset(out, settings=settings)

    def attempts() -> list[int]:
        dataset.refresh()
        return [row.attempt for row in dataset.errors()]

    wait_until(lambda: attempts() == [2], what="the retry")
    assert clipfleet.retry(out, only=[MISSING], settings=settings).to_json()["items"] == 0


def test_a_dataset_is_read_while_a_job_and_a_retry_run(make_bench: MakeBench) -> None:
    """At every look ids and vectors are of the same rows, and only grow."""
    bench = make_bench(shard_size=20)
    settings, out = bench.settings, bench.dataset_path()
    items = [{"id": f"t{n}", "text": f"text {n}" if n % 7 else ""} for n in range(400)]
    with clipfleet.load_model(str(settings.model), settings=settings) as model:
        texts_of = {item["id"]: item["text"] for item in items if item["text"]}
        found = model.encode_texts(list(texts_of.values())).astype(np.float16)
        vectors_of = dict(zip(texts_of, found, strict=True))
    clipfleet.submit(items, out, model=str(settings.model), settings=settings)
    dataset = clipfleet.Dataset(out, settings=settings)
    bench.hold_engine(after_shards=5)
    bench.start_held_worker()
    sizes = [0]

    def look() -> int:
        dataset.refresh()
        ids, vectors = dataset.ids, dataset.vectors()
        assert len(ids) == len(set(ids)) == len(vectors) == len(dataset) >= sizes[-1]
        for id_, vector in zip(ids, vectors, strict=True):
            np.testing.assert_array_equal(vector, vectors_of[id_])
        failed = [row.id for row in dataset.errors()]
        assert len(failed) == len(set(failed))
        assert not set(failed).intersection(ids)
        sizes.append(len(ids))
        return len(ids) + len(failed)

    bench.wait_held(Step.ENGINE)
    # The part of the fifth shard may be on its way while the sixth is in the engine.
    wait_until(lambda: look() == 5 * 20, what="five shards")
    bench.release(Step.ENGINE)
    wait_until(lambda: look() == len(items), what="the job")
    clipfleet.retry(out, settings=settings)
    wait_until(
        lambda: look() == len(items) and {row.attempt for row in dataset.errors()} == {2},
        what="the retry",
    )
    bench.assert_whole(vectors=len(texts_of), errors=len(items) - len(texts_of))


def test_an_item_queue_fills_a_stream(served: Bench) -> None:
    with clipfleet.ItemQueue("txt", settings=served.settings) as queue:
        for start in range(0, 30, 10):
            queue.put(texts(10, start), dataset="mine", wait_s=60)
        queue.put(iter(texts(5)), dataset="mine")  # known ids
        served.wait_for_items(30, "mine")
        assert queue.length() == 0
    dataset = clipfleet.Dataset(served.dataset_path("mine"), settings=served.settings)
    assert sorted(dataset.ids) == sorted(item["id"] for item in texts(30))
    with clipfleet.load_model(str(served.settings.model), settings=served.settings) as model:
        expected = model.encode_texts([f"the words of {id_[5:]}" for id_ in dataset.ids])
    np.testing.assert_array_equal(dataset.vectors(), expected.astype(np.float16))
    assert clipfleet.verify(dataset.path, settings=served.settings).ok


def test_an_item_queue_has_the_environments_settings_where_none_are_given(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLEET_REDIS_URL", bench.settings.redis_url)
    monkeypatch.setenv("CLIPFLEET_MAX_QUEUED_MESSAGES", "2")
    with clipfleet.ItemQueue("txt") as queue:
        for n in range(2):
            queue.put(texts(1, n))
        with pytest.raises(clipfleet.QueueFullError, match="2 messages wait, 2 may") as caught:
            queue.put(texts(1, 2), wait_s=0.01)
        assert (caught.value.length, caught.value.limit, queue.length()) == (2, 2, 2)


def test_a_refresh_embeds_newer_content_by_the_rule_for_conflicts(served: Bench) -> None:
    settings, out = served.settings, served.dataset_path("newer")

    def submit(text: str, count: int, **how: Any) -> clipfleet.Submission:
        """Submit texts, of which the first was empty before, and the next two change."""
        texts = [text if n < 3 else f"text {n}" for n in range(count)]
        items = [{"id": f"t{n}", "text": t} for n, t in enumerate(texts)]
        items[0]["text"] = " " if text == "first" else text
        done = clipfleet.submit(items, out, model=str(settings.model), settings=settings, **how)
        wait_until(lambda: clipfleet.status(out, settings=settings).finished, what="all shards")
        assert clipfleet.verify(out, settings=settings).problems == []
        return done

    def texts() -> list[str]:
        dataset = clipfleet.Dataset(out, settings=settings)
        table = dataset.to_arrow().select(["id", "text"]).to_pydict()
        return [text for _, text in sorted(zip(table["id"], table["text"], strict=True))][:3]

    submit("first", 8)
    with pytest.raises(clipfleet.UsageError, match="--refresh"):
        submit("second", 8)
    with pytest.raises(clipfleet.UsageError, match=r"2 ids of .*: 't1', 't2'"):
        submit("second", 9, refresh=True, on_conflict="error")
    kept = submit("second", 9, refresh=True)
    assert (kept.planned_items, kept.newer_items, kept.conflicts) == (1, 1, 2)
    assert "such as 't1', 't2'" in "\n".join(kept.lines())
    assert texts() == ["second", "first", "first"]
    replaced = submit("second", 9, refresh=True, on_conflict="replace")
    assert (replaced.planned_items, replaced.newer_items, replaced.conflicts) == (0, 2, 0)
    assert texts() == ["second"] * 3
    progress = clipfleet.status(out, settings=settings)
    assert (progress.total, progress.done, progress.vectors, progress.errors) == (9, 9, 9, 0)


def test_a_moved_folder_is_embedded_no_second_time_and_retried_at_its_new_place(
    tmp_path: Path, settings: Settings, photos: Path
) -> None:
    model = write_fake_engine(tmp_path, "img")
    out, new = tmp_path / "vectors", tmp_path / "moved"
    (photos / "broken.jpg").write_bytes(b"no picture")
    clipfleet.embed(photos, out, model=model, settings=settings)
    photos.rename(new)
    with pytest.raises(clipfleet.UsageError, match="--moved-from"):
        clipfleet.embed(new, out, model=model, settings=settings)
    again = clipfleet.embed(new, out, model=model, moved_from=photos, settings=settings)
    assert (again.embedded_items, again.verification.vectors) == (0, COUNT)
    (new / "broken.jpg").write_bytes(next(new.glob("[!b]*.jpg")).read_bytes())
    retried = clipfleet.retry(out, model=model, settings=settings)
    assert isinstance(retried, clipfleet.Summary)
    assert (retried.ok, retried.embedded_items) == (True, 1)
