"""Indexes end to end: built, killed and resumed, appended to, checked, and built by a fleet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

import clipfleet
from clipfleet.cli.output import DONE, ITEMS_FAILED, WRONG_USE
from clipfleet.errors import DatasetError, DatasetMismatchError, UsageError
from clipfleet.retrieval.exact import exact_top_k
from clipfleet.retrieval.index import index as index_module
from clipfleet.retrieval.index.build import (
    BuildShards,
    Choice,
    RunPilot,
    Show,
    build,
    build_here,
)
from clipfleet.retrieval.index.card import CARD_NAME, IndexCard, IndexShard, read_card
from clipfleet.retrieval.index.folder import (
    ITEMS_NAME,
    PLAN_NAME,
    SHARDS_FOLDER,
    VECTORS_NAME,
    lock,
    publish,
)
from clipfleet.retrieval.index.parameters import BuildOptions
from clipfleet.retrieval.index.plan import BuildPlan
from clipfleet.retrieval.pilot.run import run_pilot
from clipfleet.storage.commit.record import record_path
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_path
from tests.datasets import add_rows, dataset_of, make_card
from tests.integration.support import Bench, run_command, wait_until
from tests.s3 import S3

pytestmark = pytest.mark.integration

DIM = 32
ROWS = 3000
LISTS = 16
K = 10
ALL = clipfleet.SearchParameters(probes=LISTS, rerank=20)
SHARD_ROWS = 1000
SMALL = BuildOptions(lists=LISTS, bits=2, max_memory_gib=1.0, shard_rows=SHARD_ROWS)

Vectors = NDArray[np.float32]
small_pilot: RunPilot = partial(run_pilot, min_recall=0.9, queries=None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    faiss.omp_set_num_threads(1)


def clustered(count: int, seed: int) -> Vectors:
    """Return unit vectors (count, DIM) around 50 centres."""
    centres = np.random.default_rng(0).standard_normal((50, DIM))
    random = np.random.default_rng(seed)
    vectors = centres[random.integers(0, 50, count)] + 0.5 * random.standard_normal((count, DIM))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return dataset_of(tmp_path / "dataset", clustered(ROWS, 1), part_rows=500)


def build_small(
    dataset: Dataset,
    folder: Path,
    *,
    append: bool = False,
    build_shards: BuildShards = build_here,
    options: BuildOptions = SMALL,
    run_pilot: RunPilot = small_pilot,
) -> IndexCard | None:
    with lock(folder):
        card = build(
            dataset,
            folder,
            options,
            append=append,
            run_pilot=run_pilot,
            build_shards=build_shards,
            show=lambda *_: None,
        )
        if card is not None:
            publish(folder, card)
    return card


def assert_finds_what_is_there(path: Path, dataset: Dataset) -> None:
    """Compare an index with exact search over the dataset, by the ids that are found."""
    stored = clipfleet.Dataset(dataset.root)
    queries = clustered(40, 9)
    exact = exact_top_k(queries, [stored.vectors()], K)
    with clipfleet.Index.open(path) as index:
        assert len(index) == len(stored)
        found = index.search(queries, K, parameters=None if index.card.kind == "exact" else ALL)
        assert index.alive[found.rows].all()
        np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)
        ids = index.items(found.rows.ravel())["id"].to_pylist()
        assert ids == [stored.ids[row] for row in exact.rows.ravel()]


def lose_part(dataset: Dataset, name: str) -> None:
    dataset.fs.delete(record_path(name))
    dataset.fs.delete(part_path(name))


def test_an_exact_index_finds_what_exact_search_finds(tmp_path: Path, dataset: Dataset) -> None:
    card = clipfleet.build_index(dataset.root, tmp_path / "index")
    assert (card.kind, card.alive_rows) == ("exact", ROWS)
    assert_finds_what_is_there(tmp_path / "index", dataset)
    before = (tmp_path / "index" / "index.json").read_bytes()
    assert clipfleet.build_index(dataset.root, tmp_path / "index") == card  # nothing to do
    assert (tmp_path / "index" / "index.json").read_bytes() == before
    faiss.omp_set_num_threads(1)


def test_an_index_of_codes_finds_what_exact_search_finds(tmp_path: Path, dataset: Dataset) -> None:
    card = build_small(dataset, tmp_path / "index")
    assert card is not None
    assert [shard.name for shard in card.shards] == ["00001", "00002", "00003"]
    assert_finds_what_is_there(tmp_path / "index", dataset)
    with clipfleet.Index.open(tmp_path / "index") as index:
        assert index.memory_bytes < ROWS * DIM * 2  # less than the vectors
        rows = np.array([2999, 0, 1500])
        stored = clipfleet.Dataset(dataset.root)
        np.testing.assert_array_equal(index.vectors(rows), stored.vectors()[rows])
        table = index.items(rows)
        assert table.column_names == ["id", "uri"]
        assert table["id"].to_pylist() == [stored.ids[row] for row in rows]
        whole = np.concatenate(list(index.blocks(rows=300)))
        np.testing.assert_array_equal(whole, stored.vectors())
        few = index.search(clustered(2, 9), ROWS + 5, parameters=ALL)
        assert (few.rows[:, ROWS:] == -1).all()
        assert np.isneginf(few.scores[:, ROWS:]).all()
        with pytest.raises(IndexError, match="row 3000 of an index of 3000 rows"):
            index.items(np.array([3000]))
        too_many = clipfleet.SearchParameters(probes=LISTS + 1, rerank=1)
        with pytest.raises(UsageError, match="this index has 16 lists"):
            index.search(clustered(1, 1), 1, parameters=too_many)


KILLED = """
import os, signal, sys
from pathlib import Path
import faiss
from clipfleet.retrieval.index import shard_builder
from clipfleet.retrieval.index.folder import lock
from clipfleet.storage.format.dataset import Dataset
from tests.integration.test_index import build_small

faiss.omp_set_num_threads(1)
save = shard_builder.Codes.save
left = 2  # the trained lists are saved elsewhere
def save_or_die(codes, path):
    global left
    if "shard-" in str(path):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    save(codes, path)
shard_builder.Codes.save = save_or_die
build_small(Dataset.open(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_build_that_is_killed_goes_on_and_makes_the_same_index(
    tmp_path: Path, dataset: Dataset
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    build_small(dataset, whole)
    command = [sys.executable, "-c", KILLED, dataset.root, str(killed)]
    assert subprocess.run(command, check=False).returncode == -9
    assert [path.name for path in (killed / SHARDS_FOLDER).iterdir()] == ["00001"]
    with pytest.raises(UsageError, match="no index at"):
        clipfleet.Index.open(killed)
    with pytest.raises(UsageError, match=r"begun with other options.*lists 8, not 16"):
        clipfleet.build_index(dataset.root, killed, lists=8)
    built: list[str] = []

    def counted(
        dataset: Dataset, folder: Path, plan: BuildPlan, shards: Sequence[IndexShard], *, show: Show
    ) -> None:
        built.extend(shard.name for shard in shards)
        build_here(dataset, folder, plan, shards, show=show)

    build_small(dataset, killed, build_shards=counted)
    assert built == ["00002", "00003"]
    assert not list((killed / "_temporary").iterdir())
    for name in ("trained-00001.faiss", "shards/00002/vectors.f16", "shards/00002/items.arrow"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    with clipfleet.Index.open(whole) as one, clipfleet.Index.open(killed) as other:
        queries = clustered(40, 5)
        for probes in (1, 4):
            used = clipfleet.SearchParameters(probes=probes, rerank=2)
            first, second = (i.search(queries, K, parameters=used) for i in (one, other))
            np.testing.assert_array_equal(first.rows, second.rows)


def test_bits_and_lists_are_measured_once_and_a_build_that_was_ended_keeps_them(
    tmp_path: Path, dataset: Dataset
) -> None:
    options = BuildOptions(kind="ivf-rabitq", max_memory_gib=1.0, shard_rows=SHARD_ROWS)

    def ended(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def never(*_: object, **__: object) -> Choice:
        raise AssertionError("the structure was chosen")

    with pytest.raises(KeyboardInterrupt):
        build_small(dataset, tmp_path / "index", options=options, build_shards=ended)
    card = build_small(dataset, tmp_path / "index", options=options, run_pilot=never)
    assert card is not None
    assert card.pilot is not None
    trials = {(one.bits, one.lists): one for one in card.pilot.trials}
    assert {bits for bits, _ in trials} == {1, 2}  # which reach the recall: 4 would take more
    chosen = trials[card.structure.bits, card.structure.lists]
    assert chosen.reaches
    assert chosen.recall >= 0.9
    assert {(chosen.bits, 256), (chosen.bits, 128)} <= set(trials)  # 4 √3000 is near 256
    assert (tmp_path / "index" / "trained-00001.faiss").exists()
    add_rows(dataset, clustered(100, 2))
    appended = build_small(
        dataset, tmp_path / "index", append=True, options=options, run_pilot=never
    )
    assert appended is not None
    assert appended.pilot == card.pilot


@pytest.mark.parametrize("kind", ["exact", "ivf-rabitq"])
def test_an_append_adds_what_is_new_and_removes_what_is_gone(
    tmp_path: Path, dataset: Dataset, kind: str
) -> None:
    path = tmp_path / "index"
    given = ("--kind", kind, *(("--lists", str(LISTS), "--bits", "2") if kind != "exact" else ()))
    assert run_command("index", dataset.root, str(path), *given).returncode == DONE
    reader = clipfleet.Index.open(path)
    queries = clustered(40, 3)
    used = None if kind == "exact" else ALL
    before = reader.search(queries, K, parameters=used)
    add_rows(dataset, clustered(700, 2), part_rows=500)
    lose_part(dataset, "00001-0000001")
    stale = run_command("verify", dataset.root, str(path))
    assert stale.returncode == ITEMS_FAILED
    assert f"`clipfleet index {dataset.root} {path} --append` brings it" in stale.stdout
    assert "not in the index: 2 parts with 700 vectors, 00001-0000006" in stale.stdout
    assert "no longer in the dataset: 1 part with 500 vectors, 00001-0000001" in stale.stdout
    refused = run_command("index", dataset.root, str(path))
    assert refused.returncode == WRONG_USE
    assert "--append adds what the dataset gained" in refused.stderr
    assert run_command("index", dataset.root, str(path), "--append").returncode == DONE
    assert run_command("verify", dataset.root, str(path)).returncode == DONE
    assert_finds_what_is_there(path, dataset)
    with clipfleet.Index.open(path) as index:
        assert index.card.removed == ((500, 1000),)
        assert len(index.card.shards) == 2
    again = reader.search(queries, K, parameters=used)  # it stays what it was
    np.testing.assert_array_equal(before.rows, again.rows)
    reader.close()
    with pytest.raises(UsageError, match="is closed: open it again"):
        reader.search(queries, K, parameters=used)
    names = {file.name for file in path.glob("*.faiss")}
    assert names == (set() if kind == "exact" else {"codes-00002.faiss", "trained-00001.faiss"})


def test_an_index_takes_no_other_model_and_one_builder(tmp_path: Path, dataset: Dataset) -> None:
    path = tmp_path / "index"
    clipfleet.build_index(dataset.root, path)
    other = dataset_of(tmp_path / "other", clustered(10, 1), tower="txt")
    with pytest.raises(DatasetMismatchError, match=r"tiny img fp32.*tiny txt fp32"):
        clipfleet.build_index(other.root, path, append=True)
    with pytest.raises(UsageError, match=r"of kind exact already \(lists 8, not 0\)"):
        clipfleet.build_index(dataset.root, path, lists=8)
    with lock(path), pytest.raises(UsageError, match="another process builds"):
        clipfleet.build_index(dataset.root, path)
    with pytest.raises(UsageError, match="is not empty and has no index"):
        clipfleet.build_index(dataset.root, dataset.root)
    with pytest.raises(UsageError, match="no index to append to"):
        clipfleet.build_index(dataset.root, tmp_path / "new", append=True)
    empty = Dataset.create(
        str(tmp_path / "empty"), make_card(), kind="planned", embedding_dtype="float16"
    )
    with pytest.raises(DatasetError, match="has no vectors yet"):
        clipfleet.build_index(empty.root, tmp_path / "none")
    faiss.omp_set_num_threads(1)


def test_an_index_with_a_lost_or_damaged_file_is_refused_and_mixed_with_no_other_build(
    tmp_path: Path,
) -> None:
    path = tmp_path / "index"
    old = dataset_of(tmp_path / "old", clustered(20, 1), part_rows=10)
    clipfleet.build_index(old.root, path)
    (path / CARD_NAME).unlink()
    new = dataset_of(tmp_path / "new", clustered(20, 2), part_rows=10)
    with pytest.raises(DatasetError, match="it is of another build: delete the folder"):
        clipfleet.build_index(new.root, path)
    (path / PLAN_NAME).unlink()
    clipfleet.build_index(old.root, path)  # its shards are these
    shard = path / SHARDS_FOLDER / "00001"
    (shard / VECTORS_NAME).unlink()
    with pytest.raises(DatasetError, match=r"00001 is damaged \(FileNotFoundError"):
        clipfleet.build_index(old.root, path)


def test_a_flipped_bit_anywhere_in_the_items_is_told_and_never_read(tmp_path: Path) -> None:
    path = tmp_path / "index"
    clipfleet.build_index(dataset_of(tmp_path / "new", clustered(20, 1)).root, path)
    items = path / SHARDS_FOLDER / "00001" / ITEMS_NAME
    whole = items.read_bytes()
    told = rf"{items} is not as it was written .*`clipfleet verify {path}`"
    for place in np.linspace(0, len(whole) - 1, 60, dtype=int):
        items.write_bytes(bytes(byte ^ (n == place) for n, byte in enumerate(whole)))
        with clipfleet.Index.open(path) as index:
            found = index.search(clustered(2, 3), K)
            with pytest.raises(DatasetError, match=told):
                index.items(found.rows[0])
    (problem,) = clipfleet.verify_index(path).problems
    assert problem.startswith(f"{items} is not as it was written")
    items.write_bytes(whole)
    with clipfleet.Index.open(path) as index:
        assert index.items(np.array([3, 0]))["id"].to_pylist() == ["i0-3", "i0-0"]


def test_a_dataset_in_an_object_store_is_indexed_in_a_folder(tmp_path: Path, s3: S3) -> None:
    dataset = dataset_of("s3://bucket/vectors", clustered(300, 1), part_rows=100)
    build_small(dataset, tmp_path / "index")
    assert_finds_what_is_there(tmp_path / "index", dataset)
    with pytest.raises(UsageError, match="choose a folder; the dataset may stay in the store"):
        clipfleet.build_index(dataset.root, "s3://bucket/index")


def test_a_part_that_is_not_its_record_s_is_not_indexed(tmp_path: Path, dataset: Dataset) -> None:
    path = Path(dataset.root, part_path("00001-0000002"))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DatasetError, match=r"0000002\.parquet is another file than its record"):
        clipfleet.build_index(dataset.root, tmp_path / "index")
    faiss.omp_set_num_threads(1)


def test_two_workers_build_the_shards_of_an_index(
    bench: Bench,
) -> None:
    root = bench.dataset_path()
    dataset = dataset_of(Path(root), clustered(2000, 1), tower="txt", part_rows=200)
    path = Path(bench.dataset_path("index"))
    for _ in range(2):
        bench.start_worker(engine_threads=1)
    card = clipfleet.build_index(
        root,
        path,
        lists=LISTS,
        bits=2,
        shard_rows=SHARD_ROWS,
        build_shards=clipfleet.FleetBuild(settings=bench.settings),
        settings=bench.settings,
    )
    assert [shard.rows for shard in card.shards] == [1000, 1000]
    assert_finds_what_is_there(path, dataset)
    done = "shard of an index done"
    wait_until(
        lambda: sum(len(worker.events(done)) for worker in bench.workers) == 2, what="both logs"
    )
    assert bench.in_redis() == (0, 0)


def test_a_reader_that_read_the_card_before_an_append_opens_the_new_index(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    build_small(dataset, path)
    old = read_card(path)
    add_rows(dataset, clustered(500, 2))
    build_small(dataset, path, append=True)
    cards = iter([old])
    monkeypatch.setattr(index_module, "read_card", lambda *given: next(cards, read_card(path)))
    with clipfleet.Index.open(path) as index:  # the codes of the old card are gone
        assert index.card == read_card(path) != old
