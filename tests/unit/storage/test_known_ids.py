from storage.arrivals import arrivals_name, commit_arrivals, without_known
from storage.dataset import Dataset
from storage.known_ids import KnownIds
from storage.manifest import Commit, commit, is_committed
from storage.parts import Embedded
from storage.plan import plan_items
from storage.sources import ListSource
from tests.unit.storage.support import embedded, images, make_card, memory_dataset, texts


def known_ids(dataset: Dataset) -> KnownIds:
    known = KnownIds(dataset)
    known.refresh()
    return known


def arrive(dataset: Dataset, rows: Embedded) -> Commit | None:
    card = make_card(dataset.info.tower)
    return commit_arrivals(dataset, KnownIds(dataset), rows, card=card, worker="w")


def test_planned_ids_are_known() -> None:
    dataset = memory_dataset()
    known = known_ids(dataset)
    assert "a" not in known
    plan_items(dataset, ListSource(texts("a", "b")), 1)
    assert "a" not in known
    known.refresh()
    assert "a" in known
    assert "c" not in known
    assert len(known) == 2


def test_ids_that_came_singly_are_known_vectors_and_failures_alike() -> None:
    dataset = memory_dataset("img")
    arrive(dataset, embedded(images("a", "b"), failing=("b",)))
    known = known_ids(dataset)
    assert "a" in known
    assert "b" in known


def test_any_name_that_begins_with_items_is_a_part_of_single_items() -> None:
    dataset = memory_dataset()
    commit(dataset, "items-20261122-x", embedded(texts("a")), card=make_card(), worker="w")
    known = known_ids(dataset)
    assert "a" in known
    assert known.last_number == 0
    arrive(dataset, embedded(texts("b")))
    assert is_committed(dataset, arrivals_name(1))


def test_each_arrival_takes_the_next_number() -> None:
    dataset = memory_dataset()
    names = [arrive(dataset, embedded(texts(id_))) for id_ in "abc"]
    assert [done.name for done in names if done] == [arrivals_name(n) for n in (1, 2, 3)]
    assert dataset.fs.list("parts") == [f"{arrivals_name(n)}.parquet" for n in (1, 2, 3)]


def test_what_arrives_twice_is_written_once() -> None:
    dataset = memory_dataset()
    plan_items(dataset, ListSource(texts("planned")), 1)
    arrive(dataset, embedded(texts("a", "b"), failing=("b",)))
    done = arrive(dataset, embedded(texts("c", "a", "planned", "b", "c", "d"), failing=("b", "d")))
    assert done is not None
    assert (done.vectors, done.errors) == (1, 1)
    assert arrive(dataset, embedded(texts("a", "b", "c", "d"))) is None
    assert len(dataset.fs.list("parts")) == 2


def test_rows_keep_their_vectors_when_others_are_left_out() -> None:
    dataset = memory_dataset("img")
    arrive(dataset, embedded(images("a", "c")))
    rows = embedded(images("a", "b", "c", "d"))
    rest = without_known(rows, known_ids(dataset))
    assert [item.id for item in rest.items] == ["b", "d"]
    assert (rest.vectors == rows.vectors[[1, 3]]).all()
    assert rest.sizes == [(640, 480)] * 2
