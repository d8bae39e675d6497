"""The harness sees damage that is done on purpose, without the product's own proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.jobs import jobs, shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from tests.datasets import embedded_texts, fake_dataset, numbered_texts
from tests.faults.__main__ import main
from tests.faults.counting import count_ids
from tests.faults.harness import FULL_VARIABLE, Fault, outcome_of
from tests.faults.table import SECTION

SUBMITTED = {item.id for item in numbered_texts(30)}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One shard of 30 items, of which 4 are errors."""
    whole = fake_dataset(tmp_path)
    plan_items(whole, ListSource(numbered_texts(30)), 30)
    for shard in shards(jobs(whole)[0]):
        commit(whole, shard.name, embedded_texts(30, failures=4), card=whole.info.card, worker="w")
    return whole


def outcome(dataset: Dataset) -> Fault:
    return outcome_of("damage", dataset.root, SUBMITTED, recovery_s=1.0)


def only_file(dataset: Dataset, folder: str) -> Path:
    (path,) = Path(dataset.root, folder).glob("00001-*")
    return path


def test_a_whole_dataset_lost_and_doubled_nothing(dataset: Dataset) -> None:
    fault = outcome(dataset)
    assert (fault.submitted, fault.vectors, fault.errors) == (30, 26, 4)
    assert (fault.lost, fault.doubled, fault.problems) == (0, 0, ())
    assert fault.ok


def test_a_part_that_is_gone_is_lost(dataset: Dataset) -> None:
    only_file(dataset, "parts").unlink()
    fault = outcome(dataset)
    assert (fault.vectors, fault.lost, fault.doubled) == (0, 26, 0)
    assert not fault.ok


def test_an_errors_table_that_is_gone_is_lost(dataset: Dataset) -> None:
    only_file(dataset, "errors").unlink()
    assert outcome(dataset).lost == 4


def repeat_first_row(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take([0, *range(table.num_rows)]), path)


def copy_part(path: Path) -> None:
    path.with_name("00001-0000009.parquet").write_bytes(path.read_bytes())


@pytest.mark.parametrize(("harm", "doubled"), [(repeat_first_row, 1), (copy_part, 26)])
def test_ids_that_are_written_twice_are_doubled(
    dataset: Dataset, harm: Callable[[Path], None], doubled: int
) -> None:
    harm(only_file(dataset, "parts"))
    fault = outcome(dataset)
    assert (fault.lost, fault.doubled) == (0, doubled)
    assert not fault.ok


def test_an_id_that_is_a_vector_and_an_error_is_doubled(dataset: Dataset) -> None:
    path = only_file(dataset, "errors")
    table = pq.read_table(path)
    ids = ["t0", *table["id"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "id", [ids]), path)
    fault = outcome(dataset)
    assert (fault.lost, fault.doubled) == (1, 1)


def test_ids_that_nobody_submitted_are_seen(dataset: Dataset) -> None:
    counts = count_ids(dataset.root, {item.id for item in numbered_texts(29)})
    assert asdict(counts) == {"vectors": 26, "errors": 4, "lost": 0, "doubled": 0, "foreign": 1}


def test_what_never_recovered_and_a_dataset_that_is_none_are_not_ok(
    dataset: Dataset, tmp_path: Path
) -> None:
    assert not outcome_of("never", dataset.root, SUBMITTED, recovery_s=None).ok
    nothing = outcome_of("none", str(tmp_path / "nothing"), SUBMITTED, recovery_s=1.0)
    assert (nothing.lost, nothing.ok) == (30, False)


@pytest.mark.parametrize("option", [["--only", "redis"], ["--quick"]])
def test_a_part_of_the_faults_does_not_replace_the_table_of_all(
    option: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{SECTION.begin}\n\nthe table\n\n{SECTION.end}\n")
    monkeypatch.setattr("tests.faults.__main__.pytest.main", lambda *_, **__: 0)
    monkeypatch.setenv(FULL_VARIABLE, "")  # which the command sets: put back afterwards
    with pytest.raises(SystemExit, match="2"):
        main([*option, "--into", str(page)])
    assert "leave out --into and read what is printed" in capsys.readouterr().err
    assert "the table" in page.read_text()
