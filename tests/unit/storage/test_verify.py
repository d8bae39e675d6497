import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.errors import DatasetError
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format import parts
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.errors_table import errors_bytes
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.moves import Move, Moves, write_moves
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verification import Verification
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import DIM, embedded, images, make_card, memory_dataset, texts

EMBEDS_AGAIN = "`clipfleet repair` embeds their shards again"
FIRST, SECOND = "00001-0000000", "00001-0000001"


@pytest.fixture
def dataset() -> Dataset:
    made = memory_dataset(kind=None)  # of an earlier version, which may have both
    fill(made)
    single = embedded(texts("x", "y"), failing="y")
    commit_single_items(made, KnownIds(made), single, card=make_card(), worker="w")
    return made


def fill(dataset: Dataset) -> None:
    """Five planned items; b fails."""
    items = (images if dataset.info.tower == "img" else texts)(*"abcde")
    plan_items(dataset, ListSource(items), 3)
    for shard in list(missing_shards(dataset)):
        rows = embedded(PlanReader(dataset).read(shard), failing="b")
        commit(dataset, shard.name, rows, card=dataset.info.card, worker="w")


def problem_of(dataset: Dataset) -> tuple[Verification, str]:
    result = verify_dataset(dataset)
    assert not result.ok
    return result, "\n".join(result.problems)


def replace_part(
    dataset: Dataset, name: str, items: list[Item], vectors: np.ndarray | None = None
) -> None:
    """Write a part that no commit writes, with its record."""
    rows = embedded(items)
    if vectors is not None:
        rows = Embedded(items=items, vectors=vectors, sizes=None, failures=[])
    dataset.fs.delete(f"parts/{name}.parquet")
    commit(dataset, name, rows, card=dataset.info.card, worker="w")


def test_a_whole_dataset_is_verified(tmp_path: Path) -> None:
    local = Dataset.create(str(tmp_path), make_card(), kind="planned", embedding_dtype="float16")
    fill(local)
    result = verify_dataset(str(tmp_path))
    assert result.ok
    assert result.problems == []
    counts = (result.planned, result.parts, result.vectors, result.errors)
    assert counts == (5, 2, 4, 1)
    assert json.loads(json.dumps(result.to_json()))["ok"] is True
    assert result.lines()[0].startswith("5 items planned; 4 vectors and 1 errors in 2 parts")
    assert "every item once" in result.lines()[1]


def test_an_empty_dataset_is_whole() -> None:
    assert verify_dataset(memory_dataset()).ok


def test_a_folder_without_a_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset at"):
        verify_dataset(str(tmp_path))


def test_a_missing_part_is_found(dataset: Dataset) -> None:
    dataset.fs.delete(f"parts/{FIRST}.parquet")
    result, problem = problem_of(dataset)
    assert result.missing == 3
    assert (
        "3 planned ids are neither in a part nor in an errors table (`clipfleet resume`" in problem
    )
    assert ": 'a', 'b', 'c'" in problem
    assert (
        f"1 manifest records have no part (`clipfleet resume` embeds these shards again): {FIRST}"
        in problem
    )
    assert "1 errors tables differ" in problem


def test_items_that_were_never_embedded_are_missing() -> None:
    dataset = memory_dataset()
    plan_items(dataset, ListSource(texts(*(f"{n:02d}" for n in range(20)))), 3)
    result, problem = problem_of(dataset)
    assert result.missing == 20
    assert problem.endswith("'00', '01', '02', '03', '04', …")


def test_a_lost_row_is_found(dataset: Dataset) -> None:
    replace_part(dataset, SECOND, texts("d"))
    result, problem = problem_of(dataset)
    assert (result.missing, result.doubled, result.unplanned) == (1, 0, 0)
    assert "'e'" in problem


def test_a_doubled_row_is_found(dataset: Dataset) -> None:
    replace_part(dataset, SECOND, texts("d", "e", "d"))
    result, problem = problem_of(dataset)
    assert (result.missing, result.doubled, result.unplanned) == (0, 1, 0)
    assert "1 ids are in parts and errors tables twice (if replaced," in problem
    assert ": 'd'" in problem


def test_an_item_that_is_a_vector_and_an_error_is_doubled(dataset: Dataset) -> None:
    replace_part(dataset, SECOND, texts("d", "e", "b"))
    result, _ = problem_of(dataset)
    assert result.doubled == 1


def test_single_items_that_were_written_twice_are_doubled(dataset: Dataset) -> None:
    commit(dataset, "items-again", embedded(texts("x", "y", "a")), card=make_card(), worker="w")
    result, problem = problem_of(dataset)
    assert result.doubled == 3
    assert "'a', 'x', 'y'" in problem


def test_a_row_in_no_plan_is_found(dataset: Dataset) -> None:
    replace_part(dataset, SECOND, texts("d", "e", "z"))
    result, problem = problem_of(dataset)
    assert result.unplanned == 1
    assert "1 ids in the parts of shards are in no plan (`clipfleet repair`" in problem
    assert ": 'z'" in problem


def test_an_id_that_is_planned_twice_is_found(dataset: Dataset) -> None:
    record = json.loads(dataset.fs.read("plan/00001.json"))
    record["id"] = "00002"
    dataset.fs.create("plan/00002.json", json.dumps(record).encode())
    (path,) = (n for n in dataset.fs.list("plan") if n.endswith(".parquet"))
    copy = dataset.fs.read(f"plan/{path}")
    dataset.fs.create(f"plan/{path.replace('00001', '00002')}", copy)
    _, problem = problem_of(dataset)
    assert problem.startswith("5 ids are planned more than once (restore the plan")


@pytest.mark.parametrize("value", [0.99, 1.01, 0.0, float("nan"), float("inf")])
def test_a_vector_of_another_norm_is_found(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    vectors = np.eye(2, DIM, dtype=np.float32)
    vectors[1, 1] = value
    with monkeypatch.context() as patch:
        patch.setattr(parts, "_check", lambda *_: None)
        replace_part(dataset, SECOND, texts("d", "e"), vectors)
    result, problem = problem_of(dataset)
    assert result.bad_vectors == 1
    found = f"'e' (norm {np.float16(value):.2g}"
    assert f"1 vectors are not finite or not of norm 1 ({EMBEDS_AGAIN}): {found}" in problem


def test_a_norm_within_a_thousandth_is_fine(dataset: Dataset) -> None:
    vectors = np.eye(2, DIM, dtype=np.float32) * np.float32(1.0009)
    replace_part(dataset, SECOND, texts("d", "e"), vectors)
    assert verify_dataset(dataset).ok


def test_another_models_part_is_found(dataset: Dataset) -> None:
    other = make_card(checkpoint="d")
    info = dataclasses.replace(dataset.info, model=other.identity)
    foreign = dataclasses.replace(dataset, info=info)
    dataset.fs.delete(f"parts/{SECOND}.parquet")
    commit(foreign, SECOND, embedded(texts("d", "e")), card=other, worker="w")
    _, problem = problem_of(dataset)
    assert f"1 parts hold another model's vectors ({EMBEDS_AGAIN}): {SECOND}" in problem


def test_a_part_without_a_record_is_unfinished(dataset: Dataset) -> None:
    dataset.fs.delete(f"manifest/{FIRST}.json")
    dataset.fs.delete(f"errors/{FIRST}.parquet")
    result, problem = problem_of(dataset)
    assert (result.unfinished, result.missing, result.doubled) == (1, 0, 0)
    assert problem == (
        "1 parts are unfinished, without a manifest record (`clipfleet resume` finishes them): "
        + FIRST
    )


@pytest.mark.parametrize("text", ["{", None])
def test_a_record_that_is_not_its_parts_is_found(dataset: Dataset, text: str | None) -> None:
    path = f"manifest/{FIRST}.json"
    record = json.loads(dataset.fs.read(path))
    changed = text or json.dumps({**record, "vectors": record["vectors"] + 1})
    dataset.fs.replace(path, changed.encode())
    _, problem = problem_of(dataset)
    assert "1 manifest records are damaged or differ from their parts" in problem


@pytest.mark.parametrize("change", ["deleted", "damaged", "other"])
def test_an_errors_table_that_is_not_its_parts_is_found(dataset: Dataset, change: str) -> None:
    path = f"errors/{FIRST}.parquet"
    dataset.fs.delete(path)
    if change == "damaged":
        dataset.fs.create(path, b"PAR1")
    if change == "other":
        dataset.fs.create(path, errors_bytes([], "txt"))
    _, problem = problem_of(dataset)
    assert problem.startswith("1 errors tables differ from their parts")


def test_a_damaged_part_is_found(dataset: Dataset) -> None:
    whole = dataset.fs.read(f"parts/{FIRST}.parquet")
    flipped = bytearray(whole)
    flipped[4:40] = bytes(36)  # in the first pages; the footer is sound
    for data in (b"", whole[:-9], bytes(flipped)):
        dataset.fs.replace(f"parts/{FIRST}.parquet", data)
        result, problem = problem_of(dataset)
        assert f"1 parts are damaged or foreign ({EMBEDS_AGAIN}): {FIRST}" in problem
        assert result.missing > 0


def test_a_part_with_other_columns_is_found(dataset: Dataset) -> None:
    path = f"parts/{FIRST}.parquet"
    file = pq.ParquetFile(io.BytesIO(dataset.fs.read(path)))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("id", pa.string())])) as writer:
        writer.write_table(pa.table({"id": ["a", "c"]}))
        writer.add_key_value_metadata(file.metadata.metadata)
    dataset.fs.replace(path, sink.getvalue())
    _, problem = problem_of(dataset)
    assert f"1 parts have other columns than the dataset's ({EMBEDS_AGAIN}): {FIRST}" in problem


def test_a_renamed_part_is_found(dataset: Dataset) -> None:
    dataset.fs.create("parts/00001-0000009.parquet", dataset.fs.read(f"parts/{FIRST}.parquet"))
    result, problem = problem_of(dataset)
    assert f"00001-0000009 (is {FIRST})" in problem
    assert result.doubled == 3


def test_a_quick_verification_counts_the_same(dataset: Dataset) -> None:
    plan_retry(dataset, (), 3)
    for shard in list(missing_shards(dataset)):
        work = read_shard_work(dataset, shard)
        rows = work.finish(embedded(work.items, failing="y"))
        commit(dataset, shard.name, rows, card=make_card(), worker="w")
    deep, quick = (verify_dataset(dataset, quick=quick) for quick in (False, True))
    assert deep.ok
    assert quick.quick
    assert dataclasses.replace(quick, quick=False) == deep
    assert "no row was read" in quick.lines()[-1]


def test_a_quick_verification_reads_no_row(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read)
    assert verify_dataset(dataset, quick=True).ok
    with pytest.raises(AssertionError):
        verify_dataset(dataset)


def test_a_quick_verification_finds_missing_shards_and_rows(dataset: Dataset) -> None:
    dataset.fs.delete(f"parts/{FIRST}.parquet")
    replace_part(dataset, SECOND, texts("d"))
    result = verify_dataset(dataset, quick=True)
    assert result.missing == 3
    problem = "\n".join(result.problems)
    assert f"{SECOND} (1 items, planned 2)" in problem
    assert f"have no part (`clipfleet resume` embeds these shards again): {FIRST}" in problem
    assert result.damaged == [SECOND]


def test_parts_of_another_model_are_not_moved_if_all_are(dataset: Dataset) -> None:
    card = dataclasses.replace(make_card(), precision="fp16")
    info = dataclasses.replace(dataset.info, card=card)
    result = verify_dataset(dataclasses.replace(dataset, info=info))
    assert result.damaged == []
    assert "3 parts are all of another model than dataset.json" in "\n".join(result.problems)


@pytest.mark.parametrize("quick", [False, True])
def test_a_part_of_another_decoder_is_damaged(dataset: Dataset, quick: bool) -> None:
    gpu = dataclasses.replace(dataset, info=dataclasses.replace(dataset.info, decode="gpu"))
    replace_part(gpu, FIRST, texts(*"abc"))
    result = verify_dataset(dataset, quick=quick)
    assert result.damaged == [FIRST]
    assert (
        f"1 parts have another decoder of JPEG files than dataset.json ({EMBEDS_AGAIN}): "
        f"{FIRST} ('gpu')" in "\n".join(result.problems)
    )
    whole = memory_dataset()
    whole = dataclasses.replace(whole, info=dataclasses.replace(whole.info, decode="gpu"))
    fill(whole)
    assert verify_dataset(whole, quick=quick).ok
    with_other_info = dataclasses.replace(whole, info=dataset.info)
    problem = "\n".join(verify_dataset(with_other_info, quick=quick).problems)
    assert "2 parts are all of another model than dataset.json, or of another decoder" in problem


@pytest.mark.parametrize("quick", [False, True])
def test_a_part_of_other_picture_rules_is_damaged(quick: bool) -> None:
    scaled = PictureRules(sixteen_bit="scale", alpha="white", truncated="allow")
    whole = memory_dataset("img")
    whole = dataclasses.replace(whole, info=dataclasses.replace(whole.info, rules=scaled))
    fill(whole)
    assert verify_dataset(whole, quick=quick).ok
    replace_part(dataclasses.replace(whole, info=memory_dataset("img").info), FIRST, images(*"abc"))
    result = verify_dataset(whole, quick=quick)
    assert result.damaged == [FIRST]
    assert "1 parts have other picture rules than dataset.json" in "\n".join(result.problems)


def test_a_part_that_a_damaged_plan_contradicts_is_not_damaged(dataset: Dataset) -> None:
    (path,) = (n for n in dataset.fs.list("plan") if n.endswith(".parquet"))
    other = memory_dataset()
    plan_items(other, ListSource(texts(*"abcdz")), 3)
    (copy,) = (n for n in other.fs.list("plan") if n.endswith(".parquet"))
    dataset.fs.replace(f"plan/{path}", other.fs.read(f"plan/{copy}"))
    result, problem = problem_of(dataset)
    assert f"plan/{path} (its SHA-256 is not that in plan/00001.json)" in problem
    assert (result.damaged, result.unplanned) == ([], 0)


def test_a_planner_that_was_killed_leaves_no_damage(dataset: Dataset) -> None:
    for name in ("00002-0123456789ab-0000", "00001-0123456789ab-0000"):  # before, and after another
        dataset.fs.create(f"plan/{name}.parquet", b"")
    dataset.fs.create("parts/.nfs0001", b"")  # an open file that was deleted
    assert verify_dataset(dataset).ok


def test_images_that_were_moved_are_those_of_the_plan() -> None:
    dataset = memory_dataset("img")
    plan_items(dataset, ListSource(images("a.jpg", "b.jpg", "c.jpg")), 2)
    for number, shard in enumerate(list(missing_shards(dataset))):
        if number == 1:  # the second shard is embedded after the move
            write_moves(dataset, Moves((Move(old="/pictures", new="/moved", last_job="00001"),)))
        items = PlanReader(dataset).read(shard)
        assert items[0].uri == ("/pictures/a.jpg", "/moved/c.jpg")[number]
        rows = embedded(items, failing=("b.jpg",))
        commit(dataset, shard.name, rows, card=make_card("img"), worker="w")
    assert verify_dataset(dataset).ok
