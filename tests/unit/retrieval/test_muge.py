"""The guide's data, and the comparison of runtimes: without engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from clipfleet.errors import SourceError
from clipfleet.retrieval.muge.comparison import WAYS, Comparison, Row
from clipfleet.retrieval.muge.split import find_split


def test_a_split_has_the_pictures_of_the_tsv_or_of_the_lmdb(tmp_path: Path) -> None:
    texts = tmp_path / "valid_texts.jsonl"
    texts.touch()
    with pytest.raises(SourceError, match=r"'valid' has no pictures.*has valid_texts\.jsonl"):
        find_split(tmp_path, "valid")
    lmdb = tmp_path / "lmdb" / "valid" / "imgs"
    lmdb.mkdir(parents=True)
    assert find_split(tmp_path, "valid").pictures == lmdb
    tsv = tmp_path / "valid_imgs.tsv"
    tsv.touch()
    found = find_split(tmp_path, "valid")
    assert (found.pictures, found.texts) == (tsv, texts)


def row(runtime: str, *r1: float, failed: int = 0) -> Row:
    """Return a row with these recalls at 1 of both directions."""
    figures = {way: (value, 90.0, 95.0, 90.0) for way, value in zip(WAYS, r1, strict=True)}
    return Row(runtime=runtime, figures=figures, failed=failed)


NOT_RUN = Row(runtime="TensorRT fp16", not_run="there is no GPU")


@pytest.mark.parametrize(
    ("rows", "difference", "ok"),
    [
        ([row("PyTorch fp32", 80.1, 70.0), row("ONNX fp32", 80.3, 70.0), NOT_RUN], 0.2, True),
        ([row("PyTorch fp32", 80.1, 70.0), row("ONNX fp32", 80.1, 69.79)], 0.21, False),
        ([NOT_RUN, row("ONNX fp32", 80.0, 70.0), row("ONNX fp16", 80.1, 70.0)], 0.1, True),
        ([row("PyTorch fp32", 80.0, 70.0, failed=1)], 0.0, False),
        ([NOT_RUN], 0.0, False),
    ],
)
def test_runtimes_agree_within_0_2_points_of_the_first_that_ran(
    rows: Sequence[Row], difference: float, ok: bool
) -> None:
    comparison = Comparison(rows=rows)
    assert comparison.largest_difference == pytest.approx(difference)
    assert comparison.ok == ok
    assert comparison.to_json()["ok"] == ok


def test_the_table_shows_differences_and_why_a_runtime_was_not_run() -> None:
    rows = [row("PyTorch fp32", 80.1, 70.0), row("ONNX fp16", 80.0, 70.5, failed=2), NOT_RUN]
    text = "\n".join(Comparison(rows=rows).lines())
    assert "| ONNX fp16 | 80.00 | 90.00 | 95.00 | 90.00 | -0.10 / +0.00 / +0.00 / +0.00 |" in text
    assert "| TensorRT fp16 | | | | | not run: there is no GPU |" in text
    assert "ONNX fp16: 2 items have no vector and count as misses" in text
    assert text.endswith("0.50 points, over the limit of 0.2.")
