"""Damage, end to end: the commands, a real worker, a real Redis, files and an object store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import clipfleet
from clipfleet.cli.main import app
from clipfleet.cli.output import DONE, ITEMS_FAILED
from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.verify.verify import verify_dataset
from tests.damages.datasets import embed_missing, planned, send, stream
from tests.damages.files import flip_page
from tests.integration.support import Bench
from tests.s3 import S3

pytestmark = pytest.mark.integration

SHARD = "00001-0000001"


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of a command."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.stdout, done.exception
    return done.exit_code, json.loads(done.stdout)


def test_a_damaged_shard_alone_is_embedded_again_by_a_worker(bench: Bench) -> None:
    submission = bench.submit(300)
    worker = bench.start_worker()
    bench.wait_for_items(300)
    root = submission.dataset
    redis = ("--redis-url", bench.settings.redis_url)
    before = clipfleet.Dataset(root).vectors()
    folder = str(Path(str(bench.settings.model)).parent)
    assert run("verify", root, "--recompute", "0.1", "--model", folder)[0] == DONE

    flip_page(Path(root, "parts", f"{SHARD}.parquet"), "text")
    code, verified = run("verify", root)
    assert (code, verified["damaged"]) == (ITEMS_FAILED, [SHARD])
    assert f"`clipfleet repair` embeds their shards again): {SHARD}" in verified["problems"][0]
    assert run("verify", root, "--quick")[0] == DONE  # it reads no row

    code, repaired = run("repair", root, *redis)
    assert (code, repaired["moved"], repaired["queued_shards"]) == (DONE, [SHARD], 1)
    bench.wait_for_items(300)
    assert run("verify", root)[0] == DONE
    assert (clipfleet.Dataset(root).vectors() == before).all()
    assert len(worker.events("shard embedded")) == 4
    assert [path.stem[: len(SHARD)] for path in Path(root, "_damaged").iterdir()] == [SHARD]
    code, repaired = run("repair", root, *redis)
    assert (code, repaired["moved"], repaired["queued_shards"]) == (DONE, [], 0)


def test_single_items_of_a_damaged_part_are_named(tmp_path: Path) -> None:
    stream(tmp_path / "stream")
    root = str(tmp_path / "stream")
    flip_page(tmp_path / "stream/parts/items-0000000002.parquet", "embedding")
    code, repaired = run("repair", root, "--no-queue")
    assert (code, repaired["moved"]) == (ITEMS_FAILED, ["items-0000000002"])
    assert sorted(repaired["resend"], key=lambda item: item["id"]) == [
        {"id": f"s0{n}", "text": f"text of s0{n}"} for n in (3, 4, 5)
    ]
    assert "queue their items again" in run("verify", root)[1]["problems"][0]
    code, again = run("repair", root, "--no-queue")
    assert (code, again["moved"], len(again["left"])) == (ITEMS_FAILED, [], 1)
    send(Dataset.open(root), [Item(**item) for item in repaired["resend"]])
    assert run("verify", root)[0] == DONE


def test_single_items_that_are_gone_with_their_record_are_told_once(tmp_path: Path) -> None:
    root = tmp_path / "stream"
    stream(root)
    for path in root.glob("*/items-0000000002.*"):
        path.unlink()
    (problem,) = run("verify", str(root))[1]["problems"]
    assert "items-0000000002 (written between 20" in problem
    code, repaired = run("repair", str(root), "--no-queue")
    assert (code, repaired["unreadable"]) == (ITEMS_FAILED, ["items-0000000002"])
    assert run("verify", str(root))[0] == DONE


def test_a_damaged_part_in_an_object_store_is_moved_away(s3: S3) -> None:
    root = "s3://bucket/vectors"
    planned(root)
    assert verify_dataset(root).ok
    assert verify_dataset(root, quick=True).ok
    stored = s3.objects[f"bucket/vectors/parts/{SHARD}.parquet"]
    stored.data = stored.data[:60] + b"?" + stored.data[61:]
    assert verify_dataset(root).damaged == [SHARD]
    repaired = clipfleet.repair(root, queue=False)
    assert (repaired.moved, repaired.open_shards, repaired.left) == ([SHARD], 1, [])
    (moved,) = (key for key in s3.objects if "_damaged" in key)
    assert s3.objects[moved].data == stored.data
    embed_missing(Dataset.open(root))
    assert verify_dataset(root).ok
