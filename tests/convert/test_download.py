"""Downloads from a stand-in hub."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from clipfleet.architectures import Architecture, PublishedCheckpoint, load_architecture
from clipfleet.convert.checkpoints.download import published_checkpoint
from clipfleet.errors import ArchitectureError, StorageError
from tests.hub import Hub, resolve_path, serve

MIB = 1 << 20
CONTENT = os.urandom(25 * MIB)  # the client writes to the file every 10 MiB
PUBLISHED = PublishedCheckpoint(repository="someone/clip-small", file="clip_small.pt")
RESOLVE = resolve_path(PUBLISHED)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits before it tries again
    with serve(Hub(path=RESOLVE, content=CONTENT)) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
        yield found


@pytest.fixture
def architecture(vit: Architecture) -> Architecture:
    return replace(vit, published=PUBLISHED)


def test_the_published_file_is_downloaded_from_the_endpoint(
    tmp_path: Path,
    hub: Hub,
    architecture: Architecture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # a progress bar, though this is no terminal
    path = published_checkpoint(architecture, tmp_path / "new" / "root")
    assert path == tmp_path / "new" / "root" / "clip_small.pt"
    assert path.read_bytes() == CONTENT
    assert hub.requests == [("HEAD", None), ("GET", None)]
    assert os.listdir(path.parent) == ["clip_small.pt"]
    assert "clip_small.pt: 100%" in capsys.readouterr().err


def test_a_file_that_is_there_is_not_asked_for(
    tmp_path: Path, hub: Hub, architecture: Architecture
) -> None:
    (tmp_path / "clip_small.pt").write_bytes(b"mine")
    assert published_checkpoint(architecture, tmp_path).read_bytes() == b"mine"
    assert hub.requests == []


def test_a_cut_connection_goes_on_in_the_same_download(
    tmp_path: Path, hub: Hub, architecture: Architecture
) -> None:
    hub.fail_after = 11 * MIB
    assert published_checkpoint(architecture, tmp_path).read_bytes() == CONTENT
    ranges = [asked for method, asked in hub.requests if method == "GET"]
    assert ranges == [None, f"bytes={10 * MIB}-", f"bytes={20 * MIB}-"]


def test_a_killed_download_goes_on_in_another_process(
    tmp_path: Path, hub: Hub, architecture: Architecture
) -> None:
    hub.fail_after, hub.stall = 21 * MIB, True
    script = (
        "import sys; from dataclasses import replace;"
        "from clipfleet.convert.checkpoints.download import *;"
        "from clipfleet.architectures import PublishedCheckpoint, load_architecture;"
        "a = replace(load_architecture('RN50'), published=PublishedCheckpoint("
        f"repository={PUBLISHED.repository!r}, file={PUBLISHED.file!r}));"
        "published_checkpoint(a, sys.argv[1])"
    )
    part = tmp_path / f".clip_small.pt.{hub.etag}.part"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path]) as child:
        assert hub.stalled.wait(timeout=60)
        deadline = monotonic() + 60
        while not (part.is_file() and part.stat().st_size >= 20 * MIB):
            assert monotonic() < deadline
            Event().wait(0.01)
        child.kill()
    hub.released.set()
    hub.fail_after, hub.stall = None, False
    assert os.listdir(tmp_path) == [part.name]
    size = part.stat().st_size
    assert published_checkpoint(architecture, tmp_path).read_bytes() == CONTENT
    assert hub.requests[-1] == ("GET", f"bytes={size}-")
    assert os.listdir(tmp_path) == ["clip_small.pt"]


def test_a_file_that_the_hub_keeps_elsewhere_goes_on_there(
    tmp_path: Path, hub: Hub, architecture: Architecture
) -> None:
    hub.redirects = True
    (tmp_path / f".clip_small.pt.{hub.etag}.part").write_bytes(CONTENT[: 5 * MIB])
    assert published_checkpoint(architecture, tmp_path).read_bytes() == CONTENT
    assert hub.requests == [
        ("HEAD", None),  # is answered by the hub alone
        ("GET", f"bytes={5 * MIB}-"),
        ("GET", f"bytes={5 * MIB}-"),
    ]


def test_what_was_fetched_before_a_failure_is_kept(
    tmp_path: Path, hub: Hub, architecture: Architecture
) -> None:
    hub.fail_after = 0
    part = tmp_path / f".clip_small.pt.{hub.etag}.part"
    part.write_bytes(CONTENT[:300_000])
    with pytest.raises(StorageError, match="goes on where it stopped"):
        published_checkpoint(architecture, tmp_path)
    assert part.read_bytes() == CONTENT[:300_000]
    hub.fail_after = None
    assert published_checkpoint(architecture, tmp_path).read_bytes() == CONTENT


def test_other_bytes_than_the_hubs_are_an_error_and_are_not_kept(
    tmp_path: Path, hub: Hub, architecture: Architecture
) -> None:
    hub.content = CONTENT[:-1] + b"!" if CONTENT[-1:] != b"!" else CONTENT[:-1] + b"?"
    with pytest.raises(StorageError, match="not the hub's file of 26214400 bytes"):
        published_checkpoint(architecture, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_hub_without_the_file_and_no_hub_at_all_are_errors_that_name_the_url(
    tmp_path: Path, hub: Hub, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = replace(architecture, published=replace(PUBLISHED, file="other.pt"))
    with pytest.raises(StorageError, match=f"{hub.endpoint}/someone/clip-small/resolve/main/other"):
        published_checkpoint(unknown, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9/someone.*set HF_ENDPOINT"):
        published_checkpoint(architecture, tmp_path)
    assert not (tmp_path / "clip_small.pt").exists()


def test_an_architecture_without_a_published_checkpoint_asks_for_a_file(vit: Architecture) -> None:
    with pytest.raises(ArchitectureError, match="small-vit has no published checkpoint: name a"):
        published_checkpoint(vit, None)


@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [
        ("RN50", "OFA-Sys/chinese-clip-rn50", "clip_cn_rn50.pt"),
        ("ViT-B-16", "OFA-Sys/chinese-clip-vit-base-patch16", "clip_cn_vit-b-16.pt"),
        ("ViT-L-14", "OFA-Sys/chinese-clip-vit-large-patch14", "clip_cn_vit-l-14.pt"),
        (
            "ViT-L-14-336",
            "OFA-Sys/chinese-clip-vit-large-patch14-336px",
            "clip_cn_vit-l-14-336.pt",
        ),
        ("ViT-H-14", "OFA-Sys/chinese-clip-vit-huge-patch14", "clip_cn_vit-h-14.pt"),
    ],
)
def test_the_published_architectures_name_their_checkpoints(
    name: str, repository: str, file: str
) -> None:
    published = load_architecture(name).published
    assert published == PublishedCheckpoint(repository=repository, file=file)
