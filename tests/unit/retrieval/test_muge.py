"""The guide's data, and the comparison of runtimes: without engines."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipfleet.errors import SourceError, UsageError
from clipfleet.retrieval.muge.comparison import WAYS, Comparison, Row
from clipfleet.retrieval.muge.pictures import read_pictures
from clipfleet.retrieval.muge.split import find_split
from clipfleet.retrieval.muge.unpack import unpack

PICTURES = {"7": b"\xff\xef\xfe first", "12": b"\xfb\xff second", "3": b"third"}  # with - and _


def write_tsv(path: Path, pictures: dict[str, bytes]) -> Path:
    lines = (
        f"{id_}\t{base64.urlsafe_b64encode(data).decode()}\n" for id_, data in pictures.items()
    )
    path.write_text("".join(lines))
    return path


def test_pictures_are_read_in_their_order_whichever_alphabet_their_base64_has(
    tmp_path: Path,
) -> None:
    safe = write_tsv(tmp_path / "valid_imgs.tsv", PICTURES)
    assert "-" in safe.read_text()
    assert "_" in safe.read_text()
    plain = tmp_path / "plain.tsv"
    plain.write_text(safe.read_text().replace("-", "+").replace("_", "/"))
    assert list(read_pictures(safe)) == list(read_pictures(plain)) == list(PICTURES.items())


def test_base64_that_is_damaged_is_a_picture_that_fails_later(tmp_path: Path) -> None:
    path = tmp_path / "valid_imgs.tsv"
    path.write_text("1\tabcde\n2\tYWJj\n")
    assert list(read_pictures(path)) == [("1", b"abcde"), ("2", b"abc")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("../../etc/passwd\tYWJj", "line 2: the id of a picture is b'../../etc/passwd'"),
        ("٣\tYWJj", "expected a whole number"),
        ("5 YWJj", r"line 2: 1 fields with tabs between \(b'5 YWJj"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "valid_imgs.tsv"
    path.write_text(f"1\tYWJj\n{line}\n")
    with pytest.raises(SourceError, match=reason):
        list(read_pictures(path))


def write_lmdb(folder: Path, pairs: dict[bytes, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(folder), map_size=1 << 20) as database, database.begin(write=True) as write:
        for key, value in pairs.items():
            write.put(key=key, value=value)
    return folder


@pytest.mark.parametrize(("said", "shown"), [({b"num_images": b"3"}, "b'3'"), ({}, "None")])
def test_an_lmdb_that_lacks_pictures_is_refused(
    tmp_path: Path, said: dict[bytes, bytes], shown: str
) -> None:
    folder = write_lmdb(tmp_path / "imgs", {b"1": b"YWJj", b"2": b"YWJj", **said})
    with pytest.raises(SourceError, match=f"holds 2 pictures, and its num_images is {shown}"):
        list(read_pictures(folder))


def test_unpacking_continues_where_it_stopped_and_keeps_the_bytes(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "valid_imgs.tsv", PICTURES)
    folder = tmp_path / "pictures"
    cut = tmp_path / "cut.tsv"
    cut.write_text(source.read_text().splitlines()[0] + "\nno picture\n")
    with pytest.raises(SourceError):
        unpack(cut, folder)
    assert not (folder / "pictures.jsonl").exists()  # an interruption leaves no table
    first = (folder / "files" / "7").stat().st_mtime_ns

    table = unpack(source, folder)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(PICTURES)
    assert [(folder / row["path"]).read_bytes() for row in rows] == list(PICTURES.values())
    assert (folder / "files" / "7").stat().st_mtime_ns == first


def test_an_id_with_two_pictures_is_refused(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "valid_imgs.tsv", PICTURES)
    unpack(source, tmp_path / "pictures")
    write_tsv(source, {**PICTURES, "12": b"newer"})
    with pytest.raises(UsageError, match="files/12 is another picture"):
        unpack(source, tmp_path / "pictures")


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tsv(tmp_path / "valid_imgs.tsv", {"1": bytes(4000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3000))
    with pytest.raises(UsageError, match=r"take about 0\.0 GB as files"):
        unpack(source, tmp_path / "pictures")
    assert not list((tmp_path / "pictures" / "files").iterdir())


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
