"""A list of URLs and files through `clipfleet embed` and `retry`, from a server over TLS."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipfleet
from clipfleet.cli.output import ITEMS_FAILED
from clipfleet.errors import SourceError
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.support import forget_settings, run_command
from tests.web import Web, after, make_certificate, redirect, serve_web, status

pytestmark = pytest.mark.integration


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40 + shade, 30), (shade, 90, 200)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server of one's own, which the settings allow, and nothing besides."""
    forget_settings(monkeypatch)
    certificate = make_certificate(tmp_path, "127.0.0.1")
    if certificate is None:
        needs = "openssl is needed"
        pytest.fail(needs) if os.environ.get("CI") else pytest.skip(needs)
    pages = {f"/{n}.png": picture(n) for n in range(20)}
    with serve_web(Web({**pages}), certificate) as served:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        monkeypatch.setenv("CLIPFLEET_URL_PRIVATE_HOSTS", f"127.0.0.1:{served.port}")
        yield served


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = run_command(*arguments, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def errors_of(dataset: Path) -> dict[str, str]:
    rows = pq.read_table(dataset / "errors").to_pylist()
    return {row["id"]: row["error"] for row in rows}


def write_csv(path: Path, uris: dict[str, str]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "uri"), *uris.items()])
    return str(path)


def test_urls_become_vectors_or_the_error_that_they_are(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside, out = tmp_path / "in", tmp_path / "out.png", tmp_path / "vectors"
    inside.mkdir()
    (inside / "file.png").write_bytes(picture(50))
    outside.write_bytes(picture(51))
    monkeypatch.setenv("CLIPFLEET_INPUT_ROOTS", str(inside))  # is for files
    web.pages["/late.png"] = after(1, 503, picture(60), Retry_After="0")
    web.pages["/busy.png"] = status(503)
    web.pages["/inside"] = redirect("https://169.254.169.254/latest/meta-data")
    web.pages["/page.html"] = b"<html>no picture</html>"
    uris = {f"web-{n}": web.url(f"/{n}.png") for n in range(20)}
    uris |= {
        "twin": web.url("/0.png"),
        "file": str(inside / "file.png"),
        "late": web.url("/late.png"),
        "busy": web.url("/busy.png"),
        "gone": web.url("/gone.png"),
        "page": web.url("/page.html"),
        "metadata": web.url("/inside"),
        "elsewhere": "https://example.com/a.png",
        "plain": web.url("/1.png").replace("https", "http"),
        "outside": str(outside),
    }
    model = str(write_fake_engine(tmp_path, "img", dim=16))
    source = write_csv(tmp_path / "urls.csv", uris)
    code, summary = run("embed", source, str(out), "--model", model)
    assert code == ITEMS_FAILED
    assert summary["verification"]["ok"]
    assert (summary["verification"]["vectors"], summary["verification"]["errors"]) == (23, 7)
    assert errors_of(out) == {
        "busy": "server_busy",
        "gone": "missing",
        "page": "unsupported_format",
        "metadata": "not_allowed",
        "elsewhere": "not_allowed",
        "plain": "not_allowed",
        "outside": "not_allowed",
    }
    parts = pq.read_table(out / "parts").to_pylist()
    assert {row["id"]: row["uri"] for row in parts} == {
        id_: uri for id_, uri in uris.items() if id_ not in errors_of(out)
    }
    counts = web.counts
    assert counts["/busy.png"] == 3
    assert counts["/late.png"] == 2
    assert counts["/0.png"] == counts["/gone.png"] == counts["/inside"] == 1

    web.pages["/busy.png"] = picture(70)
    code, _ = run("retry", str(out), "--only", "server_busy", "--model", model)
    assert "busy" not in errors_of(out)
    assert len(errors_of(out)) == 6
    assert web.counts["/gone.png"] == 1


def test_urls_without_an_allowed_host_are_refused_and_nothing_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch)
    model = str(write_fake_engine(tmp_path, "img", dim=16))
    source = write_csv(tmp_path / "urls.csv", {"a": "https://a.example/a.png"})
    with pytest.raises(SourceError, match="no host is allowed: name the hosts to fetch from"):
        clipfleet.embed(source, tmp_path / "out", model=model)
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
def test_every_table_may_have_urls(tmp_path: Path, kind: str) -> None:
    rows = [{"id": str(n), "uri": f"https://a.example/{n}.png?x=//y"} for n in range(3)]
    path = tmp_path / f"urls.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(row["uri"] + "\n" for row in rows))
    items = list(open_source(str(path), tower="img"))
    assert [item.uri for item in items] == [row["uri"] for row in rows]
