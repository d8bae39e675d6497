"""Which parts of a dataset go into which shard of an index, and which rows are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.errors import DatasetError, DatasetMismatchError, UsageError
from clipfleet.retrieval.index.card import (
    CARD_NAME,
    IndexCard,
    IndexedPart,
    IndexShard,
    check_queries,
    read_card,
)
from clipfleet.retrieval.index.parameters import SearchParameters, Structure
from clipfleet.retrieval.index.plan import append_plan, first_plan, removed_rows, renewed
from clipfleet.retrieval.index.sizing import GIB, structures_that_fit, usual_lists
from tests.datasets import make_card

IVF = Structure(kind="ivf-rabitq", lists=4, bits=2, sample_rows=8)


def part(name: str, rows: int = 10, content: str = "a") -> IndexedPart:
    return IndexedPart(name=name, sha256=content * 64, rows=rows)


def card_of(*shards: list[IndexedPart], removed: tuple[tuple[int, int], ...] = ()) -> IndexCard:
    return IndexCard(
        dataset="/d",
        model=make_card("img"),
        structure=IVF,
        shards=tuple(
            IndexShard(name=f"{n:05d}", parts=tuple(parts)) for n, parts in enumerate(shards, 1)
        ),
        removed=removed,
        codes="codes-00001.faiss",
        trained="trained-00001.faiss",
        parameters=SearchParameters(probes=2, rerank=10),
        seconds=1.5,
        created_at="2026-12-01T00:00:00.000+00:00",
    )


def names(shards: tuple[IndexShard, ...]) -> list[tuple[str, list[str]]]:
    return [(shard.name, [part.name for part in shard.parts]) for shard in shards]


A, B, C, D = (part(name) for name in "abcd")


def test_parts_are_grouped_in_order_into_shards_of_enough_rows() -> None:
    plan = first_plan("/d", "m", IVF, [A, B, C], shard_rows=15)
    assert names(plan.shards) == [("00001", ["a", "b"]), ("00002", ["c"])]
    assert (plan.codes, plan.trained, plan.base) == (
        "codes-00001.faiss",
        "trained-00001.faiss",
        None,
    )


def test_a_build_that_was_ended_keeps_its_shards_unless_a_part_of_them_changed() -> None:
    plan = first_plan("/d", "m", IVF, [A, B, C], shard_rows=15)
    assert renewed(plan, None, [A, B, C], shard_rows=15) == plan
    again = renewed(plan, None, [A, part("b", content="b"), C, D], shard_rows=15)
    # The name 00001 is not used again: a worker may still write that shard.
    assert names(again.shards) == [("00002", ["c"]), ("00003", ["a", "b"]), ("00004", ["d"])]


def test_an_append_adds_new_and_changed_parts_and_new_names_for_codes() -> None:
    card = card_of([A, B], [C])
    changed = part("b", rows=9, content="b")
    plan = append_plan(card, "/d", [A, changed, C, D], shard_rows=100)
    assert names(plan.shards) == [*names(card.shards), ("00003", ["b", "d"])]
    assert (plan.base, plan.codes) == ("codes-00001.faiss", "codes-00002.faiss")
    assert removed_rows(plan.shards, [A, changed, C, D]) == ((10, 20),)


def test_a_part_that_comes_back_has_its_last_rows_only() -> None:
    card = card_of([A, B], [C], removed=((10, 20),))
    assert card.alive_parts() == {"a": A, "c": C}
    assert card.alive_rows == 20
    plan = append_plan(card, "/d", [A, B, C], shard_rows=100)
    assert names(plan.new_shards) == [("00003", ["b"])]
    assert removed_rows(plan.shards, [A, B, C]) == ((10, 20),)
    assert names(renewed(plan, card, [A, B, C], shard_rows=100).new_shards) == [("00003", ["b"])]


def test_a_card_is_read_as_it_was_written_and_damage_is_named(tmp_path: Path) -> None:
    card = card_of([A, B], [C], removed=((10, 20),))
    assert read_card(tmp_path) is None
    (tmp_path / CARD_NAME).write_text(card.to_json())
    assert read_card(tmp_path) == card
    (tmp_path / CARD_NAME).write_text(card.to_json().replace('"format":', '"from":'))
    with pytest.raises(DatasetError, match=r"index.json is damaged.*from"):
        read_card(tmp_path)


def test_queries_of_either_tower_of_the_same_checkpoint_are_compared() -> None:
    card = card_of([A])
    check_queries(card, make_card("img"))
    check_queries(card, make_card("txt"))
    with pytest.raises(DatasetMismatchError, match="they differ in checkpoint, so"):
        check_queries(card, make_card("txt", checkpoint="d"))
    with pytest.raises(DatasetMismatchError, match="they differ in width, so"):
        check_queries(card, make_card("txt", dim=16))


@pytest.mark.parametrize(("rows", "lists"), [(300_000, 2048), (1_000_000, 4096), (20, 16), (5, 5)])
def test_lists_are_a_power_of_two_near_four_roots(rows: int, lists: int) -> None:
    assert usual_lists(rows) == lists


def test_the_structures_that_may_be_chosen_follow_size_and_memory() -> None:
    all_of_them = structures_that_fit(1_000_000, 512, max_memory_bytes=4 * GIB)
    assert {(one.bits, one.lists) for one in all_of_them} == {
        (bits, lists) for bits in (1, 2, 4) for lists in (1024, 2048, 4096)
    }
    first = all_of_them[0]
    assert (first.kind, first.lists, first.bits) == ("ivf-rabitq", 4096, 2)
    assert first.sample_rows == 40 * 4096
    (exact,) = structures_that_fit(200_000, 512, max_memory_bytes=4 * GIB)
    assert exact.kind == "exact"
    tight = structures_that_fit(10_000_000, 512, max_memory_bytes=int(2.3 * GIB))
    assert [(one.bits, one.lists) for one in tight] == [(1, 8192), (1, 4096)]
    given = structures_that_fit(1000, 8, max_memory_bytes=GIB, lists=10, bits=3)
    assert [(one.bits, one.lists) for one in given] == [(3, 10)]
    with pytest.raises(UsageError, match=r"needs 1\.\d GiB of memory, and --max-memory is 1:"):
        structures_that_fit(10_000_000, 512, max_memory_bytes=GIB)
    with pytest.raises(UsageError, match="neither lists nor bits"):
        structures_that_fit(10, 8, max_memory_bytes=GIB, kind="exact", lists=4)
    with pytest.raises(UsageError, match="100 lists need as many vectors, and there are 10"):
        structures_that_fit(10, 8, max_memory_bytes=GIB, lists=100)
