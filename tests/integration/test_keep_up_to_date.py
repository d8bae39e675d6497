"""A folder that changes, its dataset and an index, as docs/how-to/keep-up-to-date.md has them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import clipfleet
from clipfleet.items import Item
from clipfleet.settings import load_settings
from clipfleet.storage.commit.manifest import committed_names, read_records
from clipfleet.storage.format.dataset import Dataset as StoredDataset
from clipfleet.storage.format.parts import part_path
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.refresh import Refresh, refresh_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.tasks.submit.submit import PlanRules, create_planned, submit
from clipfleet.workers.copies.fingerprints import Fingerprints
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import write_fake_engine
from tests.datasets import fake_dataset
from tests.integration.conftest import MakeBench
from tests.integration.support import forget_settings, run_command
from tests.unit.workers.test_fingerprints import embed

pytestmark = pytest.mark.integration


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_fake_engine(tmp_path, "img")
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        paint(tmp_path / "photos" / name, number)
    (tmp_path / "photos/d.png").write_bytes((tmp_path / "photos/a.png").read_bytes())
    return tmp_path


def paint(path: Path, number: int) -> None:
    Image.new("RGB", (40 + number, 30), (40, 90, 20 * number)).save(path)


def run(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = run_command(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def out(home: Path) -> str:
    """A dataset of the photos with content hashes, which this process embedded."""
    source = FolderSource(str(home / "photos"))
    with Embedder.from_settings(load_settings(model="fake.img", decoders=1)) as embedder:
        dataset = create_planned("out", embedder.card, embedder.settings, source, content_hash=True)
        plan_items(dataset, source, 2)
        embed(dataset, embedder)
    return "out"


def test_the_parts_say_what_bytes_the_vectors_are_of(home: Path, out: str) -> None:
    rows = clipfleet.Dataset(out).to_arrow().to_pydict()
    for n, name in enumerate(rows["id"]):
        path = home / "photos" / name
        assert rows["size_bytes"][n] == path.stat().st_size
        assert rows["mtime_ns"][n] == path.stat().st_mtime_ns
        assert rows["content_hash"][n] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert refresh(home, by_hash=True) == Refresh()
    paint(home / "photos/b.png", 9)
    (home / "photos/c.png").unlink()
    found = refresh(home)
    assert (found.overwritten, found.gone) == (1, 1)


def refresh(home: Path, *, by_hash: bool = False) -> Refresh:
    source, dataset = FolderSource(str(home / "photos")), StoredDataset.open("out")
    return refresh_items(dataset, source, 2, on_conflict="keep", by_hash=by_hash)


def test_a_changed_folder_is_embedded_with_the_vectors_of_its_old_dataset(
    home: Path, out: str
) -> None:
    paint(home / "photos/b.png", 9)
    (home / "photos/c.png").unlink()
    options = ("--model", "fake.img", "--reuse", out)
    summary = run("embed", "photos", "new", *options)
    assert (summary["ok"], summary["verification"]["copied"]) == (True, 2)
    before, after = (
        dict(zip(rows["id"], rows["embedding"], strict=True))
        for rows in (clipfleet.Dataset(name).to_arrow().to_pydict() for name in (out, "new"))
    )
    assert sorted(after) == ["a.png", "b.png", "d.png"]
    assert after["a.png"] == after["d.png"] == before["a.png"]
    assert after["b.png"] != before["b.png"]

    run("remove", "new", "--ids", write_ids(home, "a.png"))
    again = run("embed", "photos", "new", "--model", "fake.img")  # a removed item is no failure
    assert (again["ok"], again["classes"], again["embedded_items"]) == (True, {"removed": 1}, 0)


def test_a_picture_whose_vector_is_gone_is_decoded_again(home: Path, out: str) -> None:
    source = FolderSource(str(home / "photos"))
    before = dict(zip(clipfleet.Dataset(out).ids, clipfleet.Dataset(out).vectors(), strict=True))
    settings = load_settings(model="fake.img", decoders=1, reuse=str(home / out))
    with Embedder.from_settings(settings) as embedder:
        new = create_planned("new", embedder.card, settings, source, content_hash=True)
        fingerprints = Fingerprints.of(new, embedder.copies)
        (home / out / part_path("00001-0000001")).unlink()  # of c.png and d.png, which is a.png
        items = list(source)
        rows = embedder.embed(items, fingerprints=fingerprints)
    assert (rows.items, rows.failures) == (items, [])
    assert rows.sizes == [(40, 30), (41, 30), (42, 30), (40, 30)]
    assert rows.copied == 2
    for item, vector in zip(items, rows.vectors, strict=True):
        assert vector == pytest.approx(before[item.id], abs=1e-3)


def test_the_workers_of_a_job_embed_equal_bytes_once(make_bench: MakeBench) -> None:
    bench = make_bench(item_s=0.01, shard_size=10)
    for worker in [bench.start_worker(), bench.start_worker()]:
        worker.ready()
    distinct, times = 80, 10
    items = [Item(id=f"{n}", text=f"text {n % distinct}") for n in range(distinct * times)]
    submit(
        ListSource(items),
        bench.dataset_path(),
        str(bench.settings.model),
        settings=bench.settings,
        rules=PlanRules(content_hash=True),
    )
    bench.wait_for_items(len(items))
    dataset = StoredDataset.open(bench.dataset_path())
    records = [record for _, record in read_records(dataset, committed_names(dataset))]
    assert len({record.worker for record in records}) == 2
    copied = sum(record.copied for record in records)
    in_flight = 3 * bench.settings.shard_size  # a shard of each worker, and one of the last look
    assert len(items) - distinct - in_flight <= copied <= len(items) - distinct
    status = run("status", dataset.root)
    assert (status["finished"], status["copied"]) == (True, copied)
    vectors = clipfleet.Dataset(dataset.root).to_arrow().to_pydict()
    vector_of = dict(zip(vectors["id"], vectors["embedding"], strict=True))
    assert all(vector_of[item.id] == vector_of[f"{int(item.id) % distinct}"] for item in items)


def write_ids(home: Path, *ids: str) -> str:
    (home / "ids.txt").write_text("".join(f"{id_}\n" for id_ in ids), encoding="utf-8")
    return "ids.txt"


def test_removed_ids_are_in_no_answer_of_any_reader(home: Path, out: str) -> None:
    run("index", out, "index")
    run("compact", out)
    write_ids(home, "a.png", "c.png")
    assert run("remove", out, "--ids", "ids.txt", "--dry-run")["removed"] == 2
    assert run("remove", out, "--ids", "ids.txt")["job"] == "00002"

    assert clipfleet.Dataset(out).ids == ("b.png", "d.png")
    status = run("status", out)
    assert (status["finished"], status["errors"], status["removed"]) == (True, 2, 2)
    assert run("errors", out)["classes"]["removed"]["count"] == 2
    verified = run("verify", out)
    assert (verified["vectors"], verified["errors"], verified["removed"]) == (2, 2, 2)
    run("verify", out, "index", code=1)
    run("index", out, "index", "--append")
    run("verify", out, "index")
    run("export", out, "rows.jsonl", "--to", "jsonl")
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["b.png", "d.png"]
    run("compact", out)
    assert run("verify", out)["problems"] == []
    assert clipfleet.Dataset(out).ids == ("b.png", "d.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name what to remove: --ids FILE, or --missing"),
        (("--ids", "ids.txt", "--missing"), "name what to remove"),
        (("--ids", "nothing.txt"), "nothing.txt cannot be read: No such file"),
        (("--ids", "empty.txt"), "empty.txt has no id"),
        (("--ids", "latin.txt"), "latin.txt is not UTF-8"),
        (("--ids", "ids.txt"), "does not have 1 of the ids: 'x.png'"),
    ],
)
def test_what_cannot_be_removed_is_refused_with_the_way_out(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    dataset = fake_dataset(tmp_path)
    (tmp_path / "ids.txt").write_text("x.png\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"\xe4.png\n")
    done = run_command("remove", dataset.root, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
