"""A folder with everything that goes wrong: each is one clear error row, the rest vectors."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipfleet.cli.output import ITEMS_FAILED
from clipfleet.workers.engines.fake import write_fake_engine

pytestmark = pytest.mark.integration

GOOD = ("plain.jpg", "deep/er/still.png", "two\nlines.jpg", "笑脸 😀.webp", "a JPEG.heic")
BAD = {
    "zero.jpg": "empty_file",
    "text.jpg": "unsupported_format",
    "truncated.jpg": "decode_failed",
    "bomb.png": "too_large",
    "folder.png": "not_a_file",
    "forbidden.jpg": "permission_denied",
    "dangling.gif": "missing",
}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def fill(photos: Path) -> None:
    for n, name in enumerate(GOOD):
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if path.suffix == ".heic" else None
        Image.new("RGB", (40 + n, 30), (n * 40, 90, 200)).save(path, kind)
    whole = (photos / GOOD[0]).read_bytes()
    (photos / "zero.jpg").touch()
    (photos / "text.jpg").write_text("this is no picture\n" * 20)
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "bomb.png").write_bytes(bomb(100_000))
    (photos / "folder.png").mkdir()
    (photos / "forbidden.jpg").write_bytes(whole)
    (photos / "forbidden.jpg").chmod(0)
    (photos / "dangling.gif").symlink_to("nowhere.gif")
    (photos / "notes.txt").write_text("not an image by its name: not planned")
    (photos / "old").mkdir()
    (photos / "old" / "excluded.jpg").write_bytes(whole)


def without_roots_rights(command: list[str]) -> list[str]:
    """Root reads every file; a permission means something only without that capability."""
    if os.geteuid() != 0:
        return command
    setpriv = shutil.which("setpriv")
    assert setpriv is not None, "this test needs setpriv (util-linux) where it runs as root"
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", *command]


def test_every_odd_file_is_one_error_row_and_the_rest_are_vectors(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "vectors"
    photos.mkdir()
    fill(photos)
    card = write_fake_engine(tmp_path, "img", dim=16)
    command = [sys.executable, "-m", "clipfleet", "embed", str(photos), str(out)]
    command += ["--model", str(card), "--exclude", "old/", "--json"]
    run = subprocess.run(without_roots_rights(command), capture_output=True, text=True, check=False)
    assert run.returncode == ITEMS_FAILED, run.stderr
    summary = json.loads(run.stdout)
    assert summary["submission"]["skipped"] == {".txt": 1, "excluded": 1}
    assert summary["classes"] == dict.fromkeys(BAD.values(), 1)
    result = summary["verification"]
    assert result["ok"]
    assert (result["vectors"], result["errors"]) == (len(GOOD), len(BAD))
    assert sorted(pq.read_table(out / "parts")["id"].to_pylist()) == sorted(GOOD)
    rows = pq.read_table(out / "errors").to_pylist()
    assert {row["id"]: row["error"] for row in rows} == BAD
    for row in rows:
        print(f"{row['id']}: {row['error']}: {row['message']}")
        assert row["uri"] == str(photos / row["id"])
        assert len(row["message"]) > len("no reason")
        assert " object at 0x" not in row["message"]
