"""Errors and their retry, end to end: the commands, a real worker, a real Redis, files."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipfleet.cli.main import app
from clipfleet.storage.sources.open_source import open_source
from clipfleet.tasks.status.progress import read_progress
from clipfleet.tasks.submit.submit import Submission, submit
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.conftest import MakeBench
from tests.integration.support import Bench, wait_until

pytestmark = pytest.mark.integration

SINGLY = "items-img"


@pytest.fixture
def bench(make_bench: MakeBench, tmp_path: Path) -> Bench:
    made = make_bench(tower="img")
    model = write_fake_engine(tmp_path, "img", dim=16)
    made.settings = made.settings.model_copy(update={"model": str(model)})
    return made


def run(command: str, dataset: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of a command."""
    done = CliRunner().invoke(app, [command, dataset, "--json", *options])
    assert done.stdout, done.exception
    return done.exit_code, json.loads(done.stdout)


def submit_folder(bench: Bench, photos: Path) -> Submission:
    settings = bench.settings
    source = open_source(str(photos), tower="img")
    return submit(source, bench.dataset_path(), str(settings.model), settings=settings)


def wait_until_finished(bench: Bench, name: str) -> None:
    def finished() -> bool:
        return read_progress(bench.dataset_path(name), bench.settings).finished

    wait_until(lambda: finished() and bench.in_redis() == (0, 0), what="retry done")


def paint(path: Path) -> None:
    Image.new("RGB", (40, 30), (40, 90, 200)).save(path)


def fill(photos: Path) -> list[Path]:
    """Make a picture, a broken one, and a link to one that is not there yet."""
    photos.mkdir()
    names = ("whole.png", "broken.png", "late.png")
    whole, broken, late = (photos / name for name in names)
    paint(whole)
    broken.write_bytes(whole.read_bytes()[:60])
    late.symlink_to(photos.parent / "elsewhere.png")
    return [whole, broken, late]


def rows(bench: Bench, name: str) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Return the ids of vectors, and the errors, as readers that know of no retry see them."""
    root = Path(bench.dataset_path(name))
    parts = pq.read_table(root / "parts")["id"].to_pylist()
    errors = pq.read_table(root / "errors").to_pylist()
    return sorted(parts), [(row["id"], row["error"], row["attempt"]) for row in errors]


def test_what_was_missing_and_is_there_now_gets_its_vector(bench: Bench, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    pictures = fill(photos)
    bench.start_worker()
    submit_folder(bench, photos)
    items = [{"id": path.name, "uri": str(path)} for path in pictures]
    bench.queue_items(items, size=3)
    redis_url = ("--redis-url", bench.settings.redis_url)
    for name in ("dataset", SINGLY):
        bench.wait_for_items(3, name)
        code, told = run("errors", bench.dataset_path(name))
        assert (code, told["errors"]) == (1, 2)
        assert {each["first"]["id"] for each in told["classes"].values()} == {
            "broken.png",
            "late.png",
        }
        assert told["classes"]["missing"]["first"]["uri"] == str(photos / "late.png")
    (broken,) = told["classes"].keys() - {"missing"}

    paint(tmp_path / "elsewhere.png")
    for name in ("dataset", SINGLY):
        code, told = run("retry", bench.dataset_path(name), "--only", "missing", *redis_url)
        assert (code, told["items"], told["queued_shards"]) == (0, 1, 1)
        wait_until_finished(bench, name)
        bench.assert_whole(name, vectors=2, errors=1)
        assert rows(bench, name) == (["late.png", "whole.png"], [("broken.png", broken, 1)])
        assert run("errors", bench.dataset_path(name), "--only", "missing")[0] == 0

    again = submit_folder(bench, photos)  # the ids are known
    assert (again.job, again.queued_shards) == (None, 0)
    bench.queue_items(items)
    wait_until(lambda: bench.in_redis() == (0, 0), what="items looked at")
    for name in ("dataset", SINGLY):
        bench.assert_whole(name, vectors=2, errors=1)
        assert run("retry", bench.dataset_path(name), *redis_url)[1]["items"] == 1
        wait_until_finished(bench, name)
        bench.assert_whole(name, vectors=2, errors=1)
        assert rows(bench, name)[1] == [("broken.png", broken, 2)]
        progress = read_progress(bench.dataset_path(name), bench.settings)
        assert (progress.total, progress.vectors, progress.errors) == (3, 2, 1)


def test_retry_with_a_model_embeds_here_and_proves_the_dataset(
    bench: Bench, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", str(tmp_path / "out")
    fill(photos)
    model = ("--model", str(bench.settings.model))
    submit(open_source(str(photos), tower="img"), out, model[1], settings=bench.settings)
    bench.start_worker(output=str(tmp_path))
    wait_until(lambda: read_progress(out, bench.settings).finished, what="job done")
    paint(tmp_path / "elsewhere.png")
    (photos / "broken.png").unlink()
    paint(photos / "broken.png")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        code, told = run("retry", out, *model)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert (code, told["embedded_items"], told["submission"]["items"]) == (0, 2, 2)
    assert (told["verification"]["vectors"], told["verification"]["errors"]) == (3, 0)
    assert run("errors", out) == (0, {"dataset": out, "errors": 0, "classes": {}})
