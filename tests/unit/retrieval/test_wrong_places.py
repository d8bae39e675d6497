"""Places that commands refuse: those of other files, and those in an object store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clipfleet.cli.main import app
from clipfleet.errors import ClipfleetError
from tests.datasets import dataset_of

EVALUATE = (
    *("evaluate", "--images", "photos", "--texts", "texts"),
    *("--gold", "gold.jsonl", "--predictions"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with two datasets and their gold pair."""
    monkeypatch.chdir(tmp_path)
    dataset_of("photos", np.eye(8, dtype=np.float32))
    dataset_of("texts", np.eye(8, dtype=np.float32), tower="txt")
    pair = {"text_id": "i0-0", "image_ids": ["i0-0"]}
    Path("gold.jsonl").write_text(json.dumps(pair) + "\n")
    return tmp_path


def refusal(*arguments: str) -> str:
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ClipfleetError), error
    return str(error)


def test_a_page_replaces_no_other_kind_of_file_and_answers_no_queries(folder: Path) -> None:
    queries = ("search", "index", "--queries", str(folder / "q.parquet"))
    assert "would replace the queries" in refusal(*queries, "--out", "q.parquet")
    assert "--html a.jpg: expected a name that ends with .html" in refusal(
        "search", "index", "--image", "a.jpg", "--html", "a.jpg"
    )
    assert "--html u.parquet: expected a name that ends with .html" in refusal(
        "dedupe", "photos", "u.parquet", "--html", "u.parquet"
    )


def test_files_and_folders_in_an_object_store_are_refused(folder: Path) -> None:
    for command in (
        ("index", "photos", "s3://bucket/index"),
        ("search", "s3://bucket/index", "a"),
        ("verify", "photos", "s3://bucket/index"),
    ):
        assert "s3://bucket/index is in an object store" in refusal(*command), command
    for write in (
        ("dedupe", "photos", "s3://bucket/u.parquet"),
        ("export", "photos", "s3://bucket/npy", "--to", "npy"),
        (*EVALUATE, "s3://bucket/predictions"),
    ):
        assert "s3:// is not supported, only a local path" in refusal(*write), write
    assert {path.name for path in folder.iterdir()} == {"photos", "texts", "gold.jsonl"}


def test_predictions_in_a_file_s_place_are_an_error_with_the_path() -> None:
    assert "gold.jsonl/predictions.jsonl: File exists" in refusal(*EVALUATE, "gold.jsonl")
