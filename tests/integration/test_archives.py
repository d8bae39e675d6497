"""The command of docs/how-to/sources.md, on archives of the real tools, with real decoders."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipfleet.cli.output import ITEMS_FAILED
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.support import forget_settings, run_command

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "archive_files"


def test_the_pages_command_embeds_archives_and_tells_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FILES / "img2dataset", "shards")
    shutil.copy(FILES / "packed.tar.gz", "shards")
    with Path("shards/00001.tar").open("r+b") as cut:
        cut.truncate(2048)
    model = write_fake_engine(tmp_path, "img", dim=16)

    page = (ROOT / "docs/how-to/sources.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^```sh\nclipfleet (.*)\n```$", page, re.MULTILINE)
    done = run_command(*command.replace("models/vit-b-16", str(model)).split())
    assert done.returncode == ITEMS_FAILED, done.stderr
    assert "skipped 3 files: failed_to_download 2, failed_to_resize 1" in done.stdout + done.stderr

    parts = pq.read_table("vectors/pictures/parts").to_pylist()
    vectors = {row["id"]: row["embedding"] for row in parts}
    assert vectors.keys() == {"000000000", "000000002", "packed/0", "packed/1", "packed/2"}
    np.testing.assert_array_equal(vectors["packed/2"], vectors["000000002"])  # equal pictures
    assert vectors["packed/2"] != vectors["packed/1"]
    failed = pq.read_table("vectors/pictures/errors").to_pylist()
    assert {row["id"]: row["error"] for row in failed} == {
        "000010000": "read_failed",
        "00001.tar, byte 1536": "bad_item",
    }
