"""Places that the commands of an index refuse, before they write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clipfleet.cli.main import app
from clipfleet.errors import UsageError
from tests.datasets import dataset_of


def refusal(*arguments: str) -> str:
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, UsageError), error
    return str(error)


def test_a_page_replaces_no_other_kind_of_file_and_answers_no_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    queries = ("search", "index", "--queries", str(tmp_path / "q.parquet"))
    assert "would replace the queries" in refusal(*queries, "--out", "q.parquet")
    assert "--html a.jpg: expected a name that ends with .html" in refusal(
        "search", "index", "--image", "a.jpg", "--html", "a.jpg"
    )
    assert "--html u.parquet: expected a name that ends with .html" in refusal(
        "dedupe", "photos", "u.parquet", "--html", "u.parquet"
    )


def test_an_index_in_an_object_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a path of the scheme would be a folder here
    dataset_of("photos", np.eye(8, dtype=np.float32))
    for command in (
        ("index", "photos", "s3://bucket/index"),
        ("search", "s3://bucket/index", "a"),
        ("verify", "photos", "s3://bucket/index"),
    ):
        assert "s3://bucket/index is in an object store" in refusal(*command), command
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
