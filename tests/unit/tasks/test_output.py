"""Which datasets a message may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.errors import MessageError
from tasks.output import dataset_root


def test_paths_inside_the_output_folder_are_taken(tmp_path: Path) -> None:
    output = str(tmp_path)
    for named in (str(tmp_path / "a" / "b"), "a/b", f"file://{tmp_path}/a/b", f"{output}//a/./b"):
        assert dataset_root(output, named) == str(tmp_path.resolve() / "a" / "b")
    assert dataset_root(output, output) == str(tmp_path.resolve())


@pytest.mark.parametrize(
    "named",
    ["", "/etc", "..", "../x", "a/../../x", "a/../b", "s3://bucket/a", "file://host/a", "a\0b"],
)
def test_other_paths_are_refused(tmp_path: Path, named: str) -> None:
    with pytest.raises(MessageError, match="dataset"):
        dataset_root(str(tmp_path), named)


def test_a_sibling_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    with pytest.raises(MessageError, match="is not inside"):
        dataset_root(str(tmp_path / "out"), str(tmp_path / "outside"))


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_followed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "real").mkdir(parents=True)
    (output / "inside").symlink_to(output / "real")
    (output / "outside").symlink_to(tmp_path)
    (output / "loop").symlink_to(output / "loop")
    assert dataset_root(str(output), "inside/x") == str(output.resolve() / "real" / "x")
    with pytest.raises(MessageError, match="is not inside"):
        dataset_root(str(output), "outside/x")


def test_an_output_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = dataset_root(str(tmp_path / "link"), str(tmp_path / "link" / "a"))
    assert found == str(tmp_path.resolve() / "real" / "a")
