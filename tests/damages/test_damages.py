"""Every damage is named by `verify` with its remedy, and mended by `repair` or left to the user."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import clipfleet
from clipfleet.errors import ClipfleetError
from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.verify.verify import verify_dataset
from tests.damages.damages import Damage, all_damages
from tests.damages.datasets import MAKERS, embed_missing, send
from tests.datasets import texts

DAMAGES = all_damages()
REMEDY = re.compile(r"`clipfleet |restore|correct|move them out|queue their items|use the version")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole dataset of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    for name, make in MAKERS.items():
        make(folder / name)
        assert verify_dataset(str(folder / name)).ok
    return {name: folder / name for name in MAKERS}


def rows_of(root: Path) -> list[dict[str, object]]:
    rows = clipfleet.Dataset(root).to_arrow().to_pylist()
    return sorted(rows, key=lambda row: str(row["id"]))


def said(root: Path) -> list[str]:
    """Return what `verify` says, whether as problems or as an error."""
    try:
        return verify_dataset(str(root)).problems
    except ClipfleetError as error:
        return [str(error)]


def leaves_alone(root: Path) -> None:
    """Check that `repair` moves nothing, and says what is left to do."""
    try:
        Dataset.open(str(root))
    except ClipfleetError:
        return  # dataset.json is damaged
    repaired = clipfleet.repair(root, queue=False)
    assert repaired.moved == []
    assert repaired.left


def test_no_two_damages_have_the_same_title() -> None:
    assert len({damage.title for damage in DAMAGES}) == len(DAMAGES) >= 68


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.title for damage in DAMAGES])
def test_a_damage_is_named_with_its_remedy_and_mended(
    damage: Damage, templates: dict[str, Path], tmp_path: Path
) -> None:
    root, whole = tmp_path / "dataset", templates[damage.maker]
    shutil.copytree(whole, root)
    damage.apply(root)

    problems = said(root)
    (problem, *_) = [line for line in problems if damage.names in line] or [""]
    assert problem, problems
    assert [line for line in problems if not REMEDY.search(line)] == []

    if damage.by_hand:
        assert "repair" not in problem or "restore" in problem
        leaves_alone(root)
        return
    repaired = clipfleet.repair(root, queue=False)
    assert repaired.left == [] or damage.untold
    dataset = Dataset.open(str(root))
    embed_missing(dataset)
    if damage.maker == "stream":
        assert bool(repaired.unreadable) <= damage.untold
        resent = [Item(**item) for item in repaired.resend]
        known = texts(*(f"s{n:02d}" for n in range(12))) if damage.untold else []
        send(dataset, [*resent, *known, *texts("later")])
    clipfleet.repair(root, queue=False)  # tables of errors that a part, embedded again, changed
    assert verify_dataset(dataset).problems == []
    assert [row for row in rows_of(root) if row["id"] != "later"] == rows_of(whole)


def test_a_repair_that_may_change_nothing_changes_nothing(
    templates: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(templates["planned"], root)
    (damage,) = [d for d in DAMAGES if d.title == "a text replaced"]
    damage.apply(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    repaired = clipfleet.repair(root, dry_run=True)
    assert (repaired.moved, repaired.open_shards) == (["00001-0000000"], 1)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_dataset_without_damage_needs_no_repair(templates: dict[str, Path]) -> None:
    for root in templates.values():
        repaired = clipfleet.repair(root, queue=False)
        assert repaired.ok
        assert (repaired.moved, repaired.rewritten, repaired.open_shards) == ([], [], 0)
        assert not (root / "_damaged").exists()
