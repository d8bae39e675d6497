"""The page on the dataset's format has complete lists; the page on reading has Python that runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipfleet.architectures import TOWERS, Tower
from clipfleet.error_codes import ERROR_CODES, TRANSIENT_CODES
from clipfleet.images import PictureRules
from clipfleet.retrieval.export.export import export
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.compact.compact import compact_dataset
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.errors_table import errors_schema
from clipfleet.storage.format.parts import part_schema
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from tests.datasets import DIM, embedded, images, make_card, memory_dataset, texts
from tests.page_blocks import missing_packages, packages_of, run_block

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "dataset-format.md").read_text(encoding="utf-8")
READING = (DOCS / "how-to" / "reading.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", READING, re.DOTALL)
DATABASES = {"lancedb", "embedding_reader", "qdrant_client"}
OF_IMAGES = {  # keys of footers
    *("clipfleet.decode", "clipfleet.sixteen_bit", "clipfleet.alpha", "clipfleet.truncated"),
    *("clipfleet.transparent", "clipfleet.without_end"),
}
SCORES = {"lancedb": 0.0}  # of a vector and itself: a distance; the others give cosines


@pytest.fixture(params=TOWERS)
def dataset(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Dataset:
    """A dataset of 20 items in the working folder; two fail, one shard has no rows.

    That of the texts is compacted.
    """
    tower: Tower = request.param
    made = Dataset.create(
        str(tmp_path / "out"),
        make_card(tower),
        kind="planned",
        embedding_dtype="float16",
        decode="gpu" if tower == "img" else "exact",
        rules=PictureRules(sixteen_bit="scale", alpha="white", truncated="allow"),
    )
    items = (images if tower == "img" else texts)(*(f"{n:02d}" for n in range(20)), "z")
    job = plan_items(made, ListSource(items), 10)
    assert job is not None
    for shard in shards(job):
        rows = embedded(PlanReader(made).read(shard), failing=("07", "z"), seed=shard.index)
        if tower == "img":
            rows = replace(rows, transparent=frozenset({"01"}), without_end=frozenset({"02"}))
        commit(made, shard.name, rows, card=made.info.card, worker="w")
    if tower == "txt":
        assert compact_dataset(made).files_after == 1
    export(made.root, tmp_path / "points.jsonl", to="qdrant")
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return made


@pytest.mark.parametrize(
    "block", BLOCKS, ids=[block.partition("(")[0].split()[-1] for block in BLOCKS]
)
def test_the_pages_python_runs(dataset: Dataset, block: str) -> None:
    if absent := missing_packages(block):
        pytest.skip(f"{', '.join(absent)} not installed")
    if dataset.info.tower == "img" and DATABASES.intersection(packages_of(block)):
        pytest.skip("runs with the texts, which are in a pack")  # each takes seconds to import
    found = run_block(block)
    if "shape" in found:
        assert found["shape"][0] in (0, 10, 19)  # all rows, or those of a part
        float32 = "embedding_reader" in packages_of(block)
        assert (found["shape"][1], found["dtype"]) == (DIM, "float32" if float32 else "float16")
    assert found.get("rows", 19) == 19
    assert found.get("model", dataset.info.model) == dataset.info.model
    assert "empty_file" in found.get("shown", "empty_file")
    if "nearest" in found:  # the query is a vector of the dataset
        score = next((SCORES[name] for name in packages_of(block) if name in SCORES), 1.0)
        assert found["nearest"][1] == pytest.approx(score, abs=2e-3)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "errors = " in block])
def test_the_pages_readers_skip_superseded_rows(dataset: Dataset, block: str) -> None:
    if absent := missing_packages(block):
        pytest.skip(f"{', '.join(absent)} not installed")
    before = {path: path.read_bytes() for path in Path("errors").iterdir()}
    assert plan_retry(dataset, (), 10) is not None
    for shard in missing_shards(dataset):
        work = read_shard_work(dataset, shard)
        rows = work.finish(embedded(work.items, failing=("z",)))
        commit(dataset, shard.name, rows, card=dataset.info.card, worker="w")
    for path, data in before.items():  # as if a worker was killed before it deleted superseded rows
        path.write_bytes(data)
    assert run_block(block)["errors"] in (["z"], [["empty_file", 1]], [("empty_file", 1)])


@pytest.mark.parametrize("tower", TOWERS)
def test_the_page_names_every_column(tower: Tower) -> None:
    info = memory_dataset(tower).info
    for name in (*part_schema(info).names, *errors_schema(tower).names):
        assert f"`{name}`" in PAGE


def test_the_page_names_every_key_of_the_footer(dataset: Dataset) -> None:
    folder = Path(dataset.root, "parts")
    footers = [pq.read_metadata(path).metadata for path in folder.iterdir()]
    compact_dataset(dataset)
    footers += [pq.read_metadata(path).metadata for path in folder.iterdir()]
    with dataset.fs.open("parts/00001-0000000.parquet") as file:
        footers.append(pq.read_metadata(file).metadata)
    keys = {key.decode() for footer in footers for key in footer} - {"ARROW:schema"}
    only_images = () if dataset.info.tower == "img" else OF_IMAGES
    assert keys == set(re.findall(r"`(clipfleet\.\w+)`", PAGE)).difference(only_images)


def test_the_page_names_every_folder(dataset: Dataset) -> None:
    for path in Path(dataset.root).iterdir():
        assert f"\n      {path.name}" in PAGE


def test_the_page_has_every_class_of_error_once_and_which_are_transient() -> None:
    table = re.findall(r"^\| `(\w+)` \| (permanent|transient) \|", PAGE, re.MULTILINE)
    assert sorted(code for code, _ in table) == sorted(ERROR_CODES)
    assert {code for code, kind in table if kind == "transient"} == TRANSIENT_CODES
