"""The temporary folder full, where the indexes of ids are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import Rig
from tests.faults.tmpfs import Tmpfs, mounted_tmpfs
from tests.integration.support import PATIENCE_S, texts, wait_until
from tests.steps import INDEX_VARIABLE

pytestmark = pytest.mark.integration

INDEX_KIB = 16
ITEMS = 2_000
SIZE_BYTES = 4 << 20


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tmpfs]:
    """A small file system as the temporary folder of the processes that a test starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv(INDEX_VARIABLE, str(INDEX_KIB))
    with mounted_tmpfs(folder, SIZE_BYTES) as tmpfs:
        yield tmpfs


def run_alone(rig: Rig, *arguments: str) -> tuple[int, str]:
    """Return what a command in a process of its own ends with: SQLite reads TMPDIR at its start."""
    with rig.start(*arguments) as process:
        _, said = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


def test_a_full_temporary_folder_is_named_by_the_commands_that_need_it(
    make_rig: MakeRig, tmp_path: Path, temporary: Tmpfs
) -> None:
    rig = make_rig()
    source, path = str(rig.write_source(ITEMS)), rig.dataset_path()
    submit = ("submit", source, path, "--model", str(rig.settings.model))
    temporary.fill()
    refused = [run_alone(rig, *submit)]
    temporary.empty()
    assert run_alone(rig, *submit)[0] == 0
    temporary.fill()
    refused.append(run_alone(rig, "verify", path))
    for code, said in refused:
        assert code == 2
        assert f"the temporary folder {tmp_path}/temporary (" in said
        assert "set TMPDIR" in said
        assert "Traceback" not in said


def test_a_worker_whose_index_of_known_ids_broke_reads_the_dataset_again(
    make_rig: MakeRig, record: Record, temporary: Tmpfs
) -> None:
    rig = make_rig()
    worker = rig.start_held_worker()
    rig.queue_items(texts(ITEMS), size=100)
    rig.wait_for_items(ITEMS, "items-txt")
    temporary.fill()
    rig.queue_items(texts(ITEMS, start=ITEMS), size=100)
    wait_until(
        lambda: sum("TMPDIR" in e["reason"] for e in worker.events("items failed")) >= 2,
        what="the full folder in the log, twice",
    )
    temporary.empty()
    rig.recovery_begins()
    fault = "temporary folder of a worker full, then freed, with single items"
    record(rig.outcome(fault, name="items-txt"))
