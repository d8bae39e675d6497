"""Temporary folders: whose owner was killed, and whose owner lives."""

from __future__ import annotations

from pathlib import Path

from clipfleet.tasks.scratch import scratch_folder


def abandon(parent: Path, name: str, *, owner: bool = True) -> Path:
    """Make a folder as a killed run leaves it."""
    folder = parent / name
    (folder / "pymp-x").mkdir(parents=True)
    (folder / "redis.log").write_text("…")
    if owner:
        (folder / "owner").touch()
    return folder


def test_the_folders_of_killed_runs_are_removed_by_the_next_one(tmp_path: Path) -> None:
    for n in range(3):
        abandon(tmp_path, f"clipfleet-{n}")
    with scratch_folder(str(tmp_path)) as folder:
        assert [str(path) for path in tmp_path.iterdir()] == [folder]
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_the_folders_of_living_runs_and_of_other_programs_are_kept(tmp_path: Path) -> None:
    kept = [abandon(tmp_path, "clipfleet-other", owner=False), abandon(tmp_path, "else-1")]
    elsewhere = abandon(tmp_path / "elsewhere", "x")
    (tmp_path / "clipfleet-link").symlink_to(elsewhere)
    with (
        scratch_folder(str(tmp_path)) as first,
        scratch_folder(str(tmp_path)) as second,
        scratch_folder(str(tmp_path)),
    ):
        assert all(path.exists() for path in (*kept, elsewhere, Path(first), Path(second)))
