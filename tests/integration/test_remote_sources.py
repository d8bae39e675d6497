"""Sources and their images in stores, on the hub and on web servers, as on disks."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipfleet
from clipfleet.architectures import Tower
from clipfleet.cli.output import ITEMS_FAILED
from clipfleet.errors import DependencyError, ItemError, SourceError, UsageError
from clipfleet.items import Item
from clipfleet.messages import EmbedTask
from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.remove import remove_missing
from clipfleet.storage.format.dataset import FILE_COLUMNS, Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.refresh import Refresh, refresh_items
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.sources.options import SourceOptions
from clipfleet.storage.sources.tower import tower_of
from clipfleet.tasks.embed_shard import embed_shard
from clipfleet.tasks.submit.inputs import open_inputs
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import write_fake_engine
from clipfleet.workers.http.remote_fetcher import RemoteFetcher
from clipfleet.workers.preflight import preflight
from tests.file_server import RESOLVE, Files, serve_files
from tests.integration.support import forget_settings, run_command, wait_until
from tests.s3 import CUT_DOWNLOAD, REFUSE_403, REFUSE_503, S3, Stored

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 9, 200)).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(n) for n in range(4)]


def tar(*, captions: bool = True) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for n, data in enumerate(PICTURES):
            members = {f"{n}.png": data, **({f"{n}.txt": b"words"} if captions else {})}
            for name, content in members.items():
                found = tarfile.TarInfo(name)
                found.size = len(content)
                archive.addfile(found, io.BytesIO(content))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for n, data in enumerate(PICTURES):
            archive.writestr(f"in/{n}.png", data)
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    rows = {
        "id": ["a", "b", "c", "d"],
        "image": [{"bytes": data, "path": None} for data in PICTURES],
        "text": ["one", "two", "three", "four"],
    }
    pq.write_table(pa.table(rows), file, row_group_size=2)
    return file.getvalue()


FILES = {
    "photos/一 #1?%.png": PICTURES[0],
    "photos/b/1.png": PICTURES[1],
    "photos/b/2.PNG": PICTURES[2],
    "photos/b-c/3.png": PICTURES[3],
    "photos/b/.hidden/4.png": b"",
    "photos/b/.hidden/5.png": b"",
    "photos/notes.txt": b"",
    "tables/a.csv.gz": gzip.compress(b"id,path\n1,../photos/b/1.png\n"),
    "tables/texts.jsonl": b'{"id": 1, "text": "words"}\n',
    "shards/00000.tar": tar(),
    "shards/00001.tar": tar(),
    "zips/all.zip": zipped(),
    "rows/train-0.parquet": parquet(),
    "rows/README.md": b"",
}


@pytest.fixture
def stored(s3: S3) -> S3:
    s3.objects.update({f"bucket/{key}": Stored(data, {}) for key, data in FILES.items()})
    return s3


def items_of(location: str) -> list[Item]:
    return list(open_source(location, tower="img"))


def bytes_of(items: list[Item], settings: Settings | None = None) -> list[bytes]:
    fetcher = RemoteFetcher.from_settings(settings or Settings())
    return [fetcher.fetch(item.uri or "") for item in items]


def refusal(uri: str, settings: Settings | None = None) -> ItemError:
    fetcher = RemoteFetcher.from_settings(settings or Settings())
    with ThreadPoolExecutor(1) as fresh:  # it has read no Parquet file
        error = fresh.submit(fetcher.fetch, uri).exception()
    assert isinstance(error, ItemError)
    return error


@pytest.mark.usefixtures("stored")
def test_a_prefix_is_a_folder_with_its_subfolders() -> None:
    source = open_source("S3://bucket/photos/", tower="img")
    items = {item.id: item.uri for item in source}
    assert items == {
        "b-c/3.png": "s3://bucket/photos/b-c/3.png",
        "b/1.png": "s3://bucket/photos/b/1.png",
        "b/2.PNG": "s3://bucket/photos/b/2.PNG",
        "一 #1?%.png": "s3://bucket/photos/一 #1?%.png",
    }
    assert source.skipped == {".txt": 1, "hidden or system": 1}
    assert sorted(bytes_of(list(source))) == sorted(PICTURES)
    chosen = open_source("s3://bucket/photos", tower="img", exclude=["b/*"])
    assert [item.id for item in chosen] == ["b-c/3.png", "一 #1?%.png"]


def test_a_prefix_is_listed_in_pages_while_its_items_are_read(stored: S3) -> None:
    many = {f"bucket/many/{n:05}.jpg": Stored(b"x", {}) for n in range(2500)}
    stored.objects.update(many)
    items = iter(open_source("s3://bucket/many", tower="img"))
    assert next(items).id == "00000.jpg"
    before = len(stored.requests)
    assert [item.id for item in items] == [f"{n:05}.jpg" for n in range(1, 2500)]
    assert len(stored.requests) > before


@pytest.mark.usefixtures("stored")
def test_tables_and_texts_are_streamed_and_their_paths_are_relative() -> None:
    (item,) = items_of("s3://bucket/tables/a.csv.gz")
    assert (item.id, item.uri) == ("1", "s3://bucket/photos/b/1.png")
    texts = list(open_source("s3://bucket/tables/texts.jsonl", tower="txt"))
    assert [(text.id, text.text) for text in texts] == [("1", "words")]
    assert tower_of("s3://bucket/photos") == "img"
    assert tower_of("s3://bucket/tables/texts.jsonl") == "txt"


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("location", "first", "count"),
    [
        ("s3://bucket/shards", "00000/0", 8),
        ("s3://bucket/shards/{00000..00001}.tar", "00000/0", 8),
        ("s3://bucket/*/*1.tar", "shards/00001/0", 4),
        ("s3://bucket/zips/all.zip", "all/in/0.png", 4),
        ("s3://bucket/rows", "a", 4),
    ],
)
def test_pictures_in_files_are_read_by_their_ranges(location: str, first: str, count: int) -> None:
    items = items_of(location)
    assert (items[0].id, len(items)) == (first, count)
    assert bytes_of(items) == PICTURES * (count // 4)


@pytest.mark.usefixtures("stored")
def test_captions_and_texts_of_such_files_are_read() -> None:
    captions = list(open_source("s3://bucket/shards/00000.tar", tower="txt"))
    assert [one.text for one in captions] == ["words"] * 4
    texts = list(open_source("s3://bucket/rows", tower="txt"))
    assert [one.text for one in texts] == ["one", "two", "three", "four"]


def test_an_archive_that_was_written_anew_gives_no_other_picture(stored: S3) -> None:
    tars, rows = items_of("s3://bucket/shards/00000.tar"), items_of("s3://bucket/rows")
    stored.objects["bucket/shards/00000.tar"] = Stored(tar(captions=False), {})
    stored.objects["bucket/rows/train-0.parquet"] = Stored(parquet()[:-40], {})
    for item in (tars[1], rows[1]):
        error = refusal(item.uri or "")
        assert error.code == "read_failed"
        assert "--refresh" in str(error)


def test_a_compressed_tar_is_read_from_its_start_to_its_end_once(stored: S3) -> None:
    location, other = "s3://bucket/z/0.tar.gz", Stored(gzip.compress(tar(captions=False)), {})
    stored.objects["bucket/z/0.tar.gz"] = Stored(gzip.compress(tar()), {})
    items = items_of(location)
    assert [item.id for item in items] == ["0/0", "0/1", "0/2", "0/3"]
    assert len(list(open_source(location, tower="txt"))) == 4
    stored.requests.clear()
    assert bytes_of(items) == PICTURES
    assert stored.requests == ["HEAD z/0.tar.gz", "GET z/0.tar.gz"]
    stored.objects["bucket/z/0.tar.gz"] = other
    error = refusal(items[1].uri or "")
    assert error.code == "read_failed"
    assert "--refresh" in str(error)


def test_a_prefix_is_listed_once_before_its_plan(stored: S3, tmp_path: Path) -> None:
    card = write_fake_engine(tmp_path, "img")
    stored.requests.clear()
    open_inputs(
        "s3://bucket/photos", tmp_path, find=lambda *_: card, tower=None, options=SourceOptions()
    )
    assert [request for request in stored.requests if request.startswith("GET")] == ["GET photos/"]


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_an_lmdb_in_a_store_is_refused_with_the_way_out(stored: S3, tower: Tower) -> None:
    for inner in ("imgs", "pairs"):
        stored.objects[f"bucket/lmdb/valid/{inner}/data.mdb"] = Stored(b"", {})
        stored.objects[f"bucket/lmdb/valid/{inner}/lock.mdb"] = Stored(b"", {})
    own = {"img": "imgs", "txt": "pairs"}[tower]
    for location in ("s3://bucket/lmdb/valid", f"s3://bucket/lmdb/valid/{own}"):
        with pytest.raises(
            SourceError, match=r"is an LMDB.*: copy it to a disk, or name the files"
        ):
            open_source(location, tower=tower)


def test_replaced_and_deleted_objects_are_found_by_size_and_time(
    stored: S3, tmp_path: Path
) -> None:
    source = open_source("s3://bucket/photos", tower="img")
    objects = stored.objects
    settings = Settings(
        tower="img", model=str(write_fake_engine(tmp_path, "img")), output=str(tmp_path), decoders=1
    )
    with Embedder.from_settings(settings) as embedder:
        dataset = Dataset.create(
            str(tmp_path / "d"),
            embedder.card,
            kind="planned",
            embedding_dtype="float16",
            columns=FILE_COLUMNS,
        )

        def embed() -> None:
            for shard in list(missing_shards(dataset)):
                task = EmbedTask(
                    dataset=dataset.root, tower="img", model=embedder.card.identity, shard=shard
                )
                embed_shard(task, embedder, worker="w")

        def refresh() -> Refresh:
            return refresh_items(dataset, source, 10, on_conflict="keep")

        plan_items(dataset, source, 10)
        embed()
        (rows,) = clipfleet.Dataset(dataset.root).tables(["size_bytes", "mtime_ns"])
        assert sorted(rows["size_bytes"].to_pylist()) == sorted(map(len, PICTURES))
        times = {int(one.modified_s) * 10**9 for one in objects.values()}
        assert set(rows["mtime_ns"].to_pylist()) <= times
        assert refresh() == Refresh()
        first = objects["bucket/photos/b/1.png"]
        objects["bucket/photos/b/1.png"] = replace(first, modified_s=first.modified_s + 5)
        del objects["bucket/photos/b/2.PNG"]
        found = refresh()
        assert (found.overwritten, found.gone) == (1, 1)
        embed()
        assert (refresh().overwritten, remove_missing(dataset, shard_size=10).removed) == (0, 1)
        stored.break_(REFUSE_403)
        with pytest.raises(UsageError, match=r"cannot be looked at.*AWS_ACCESS_KEY_ID"):
            remove_missing(dataset, shard_size=10)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("s3://bucket/none", "no source at s3://bucket/none: nothing is there"),
        ("s3://no-bucket/a.csv", "cannot read s3://no-bucket/a.csv: 404: NoSuchBucket"),
    ],
)
def test_a_source_that_is_missing_is_refused(location: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        items_of(location)
    assert str(caught.value).startswith(reason)


def test_a_source_that_may_not_be_read_is_refused_with_the_remedy(stored: S3) -> None:
    stored.break_(REFUSE_403)
    for location in ("s3://bucket/photos", "s3://bucket/tables/a.csv.gz", "s3://bucket/shards"):
        with pytest.raises(SourceError, match=r"AccessDenied.*give AWS_ACCESS_KEY_ID the right"):
            items_of(location)


def test_a_store_that_is_busy_for_a_moment_ends_no_list_and_no_read(stored: S3) -> None:
    faults = [stored.break_(REFUSE_503, key=key, times=4) for key in ("photos", "00000.tar")]
    faults.append(stored.break_(CUT_DOWNLOAD, method="GET", key="a.csv.gz", times=1))
    assert len(items_of("s3://bucket/photos")) == 4
    assert len(items_of("s3://bucket/shards/00000.tar")) == 4
    assert len(items_of("s3://bucket/tables/a.csv.gz")) == 1
    assert all(fault.met for fault in faults)


def test_the_errors_of_images_have_classes(stored: S3) -> None:
    uri = "s3://bucket/photos/b/1.png"
    assert refusal("s3://bucket/photos/b/none.png").code == "missing"
    assert refusal("s3://no-bucket/1.png").code == "missing"
    assert refusal("s3://bucket/photos/../1.png").code == "read_failed"
    assert refusal(uri, Settings(max_image_bytes=10)).code == "too_large"
    assert "more than the 10 allowed by max_image_bytes" in str(
        refusal(uri, Settings(max_image_bytes=10))
    )
    row = items_of("s3://bucket/rows")[0].uri or ""
    for fault, code in (
        (REFUSE_403, "permission_denied"),
        (REFUSE_503, "server_busy"),
        (CUT_DOWNLOAD, "fetch_failed"),
    ):
        stored.break_(fault)
        error = refusal(uri)
        assert error.code == code
        stored.heal()
    stored.break_(REFUSE_403)
    assert refusal(row).code == "permission_denied"


@pytest.mark.usefixtures("stored")
def test_a_worker_with_input_roots_reads_only_below_them(tmp_path: Path) -> None:
    settings = Settings(input_roots=(str(tmp_path), "s3://bucket/photos/b/", "s3://bucket/rows"))
    assert bytes_of([Item(id="1", uri="s3://bucket/photos/b/1.png")], settings) == [PICTURES[1]]
    assert bytes_of(items_of("s3://bucket/rows"), settings) == PICTURES
    (shard, *_) = items_of("s3://bucket/shards")
    for uri in ("s3://bucket/photos/b-c/3.png", "s3://bucket/photos/b/../b-c/3.png", shard.uri):
        assert refusal(uri or "", settings).code in ("not_allowed", "read_failed")
    only_paths = Settings(input_roots=(str(tmp_path),))
    assert refusal("s3://bucket/photos/b/1.png", only_paths).code == "not_allowed"


def test_a_dataset_of_the_hub_is_listed_in_pages_and_read_with_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = Files({f"{RESOLVE}/{key}": data for key, data in FILES.items()}, token="hf_x")
    with serve_files(served):
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        root = "hf://datasets/owner/name"
        assert len(items_of(f"{root}/photos")) == 4
        assert bytes_of(items_of(f"{root}@main/rows")) == PICTURES
        assert bytes_of(items_of(f"{root}/shards/00001.tar")) == PICTURES
        assert sorted(bytes_of(items_of(f"{root}/photos"))) == sorted(PICTURES)
        monkeypatch.setenv("HF_TOKEN", "hf_other")
        with pytest.raises(SourceError, match="HF_TOKEN"):
            items_of(f"{root}/photos")
        assert refusal(f"{root}/photos/b/1.png").code == "permission_denied"


def test_files_of_a_web_server_are_read_and_their_images_from_allowed_hosts() -> None:
    files = {f"/{key}": data for key, data in FILES.items()}
    files["/z/0.tar.gz"] = gzip.compress(tar())
    files["/tables/b.csv"] = b"id,path\n1,../photos/b/1.png\n2,\xe4\xb8\x80 1.png\n"
    with serve_files(Files(files)) as served:
        root = served.endpoint
        allowed = Settings(url_private_hosts=(root.removeprefix("http://"),), url_schemes=("http",))
        table = items_of(f"{root}/tables/b.csv")
        assert [item.uri for item in table] == [
            f"{root}/photos/b/1.png",
            f"{root}/tables/%E4%B8%80%201.png",
        ]
        for path in ("rows/train-0.parquet", "z/0.tar.gz", "shards/00000.tar", "zips/all.zip"):
            items = items_of(f"{root}/{path}")
            assert bytes_of(items, allowed) == PICTURES
            assert refusal(items[0].uri or "").code == "not_allowed"
        with pytest.raises(SourceError, match="no source at"):
            items_of(f"{root}/photos")
        with pytest.raises(UsageError, match="has a query or a fragment"):
            items_of(f"{root}/tables/b.csv?signature=1")
        served.has_ranges = False
        assert "it has no ranges" in str(refusal(items[0].uri or "", allowed))
        with pytest.raises(SourceError, match="gives no ranges of a file: download it"):
            items_of(f"{root}/tables/b.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of web servers."""
    for key, data in FILES.items():
        path = tmp_path / "web" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "web/photos/empty").mkdir()
    return tmp_path / "web"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serve_python(folder: Path) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve_nginx(folder: Path) -> Iterator[str]:
    """Serve a folder with nginx and its index; that of /off is off."""
    if (nginx := shutil.which("nginx") or shutil.which("/usr/sbin/nginx")) is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = folder.parent / "nginx"
    home.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {home}/temp; " for kind in kinds)
    (home / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {home}/pid; events {{}} http {{ access_log off; "
        f"{paths} server {{ listen 127.0.0.1:{port}; root {folder}; autoindex on; "
        f"location /off/ {{ autoindex off; alias {folder}/; }} }} }}"
    )
    error_log = str(home / "error.log")
    process = subprocess.Popen([nginx, "-p", home, "-c", home / "nginx.conf", "-e", error_log])
    try:
        wait_until(lambda: answers(port), what="nginx")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.mark.parametrize("serve", [serve_python, serve_nginx])
def test_a_folder_of_a_web_server_is_read_by_its_index(
    serve: Callable[[Path], AbstractContextManager[str]], folder: Path
) -> None:
    with serve(folder) as root:
        allowed = Settings(url_private_hosts=(root.removeprefix("http://"),), url_schemes=("http",))
        source = open_source(f"{root}/photos/", tower="img")
        items = list(source)
        assert {item.id: item.uri for item in items} == {
            "b-c/3.png": f"{root}/photos/b-c/3.png",
            "b/1.png": f"{root}/photos/b/1.png",
            "b/2.PNG": f"{root}/photos/b/2.PNG",
            "一 #1?%.png": f"{root}/photos/%E4%B8%80%20%231%3F%25.png",
        }
        assert source.skipped[".txt"] == 1
        assert sorted(bytes_of(items, allowed)) == sorted(PICTURES)
        assert tower_of(f"{root}/photos") == "img"
        with pytest.raises(SourceError, match="photos/empty holds no image"):
            items_of(f"{root}/photos/empty")
        if serve is serve_nginx:  # Python's server has no ranges
            for path, count in (("shards", 8), ("zips", 4), ("rows", 4)):
                found = items_of(f"{root}/{path}")
                assert len(found) == count
                assert bytes_of(found[-4:], allowed) == PICTURES
            with pytest.raises(SourceError, match="its index of this folder is off"):
                items_of(f"{root}/off/photos")


def test_a_page_that_is_no_index_is_refused(folder: Path) -> None:
    (folder / "photos/b/index.html").write_text("<title>Us</title><a href='/'>home</a>")
    with serve_python(folder) as root:
        with pytest.raises(SourceError, match="photos/b: its page is no index of its files: turn"):
            items_of(f"{root}/photos")
        (folder / "loop").mkdir()
        (folder / "loop/again").symlink_to(folder / "loop")
        with pytest.raises(SourceError, match="32 folders in one another: is one a link"):
            items_of(f"{root}/loop")
        with pytest.raises(SourceError, match=r"photos/b is no source .* its page is no index"):
            items_of(f"{root}/photos/b")


def test_without_the_library_a_folder_of_a_web_server_names_its_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[s3\]'"):
        items_of("https://127.0.0.1:1/photos")


@pytest.mark.usefixtures("stored")
def test_google_cloud_storage_is_read(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{s3.port}")
    items = items_of("gs://bucket/photos")
    assert [item.id for item in items] == ["b-c/3.png", "b/1.png", "b/2.PNG", "一 #1?%.png"]
    assert sorted(bytes_of(items)) == sorted(PICTURES)
    assert bytes_of(items_of("gs://bucket/shards/00000.tar")) == PICTURES


def page_command(number: int, model: Path) -> list[str]:
    """Return the arguments of a command of docs/how-to/sources.md."""
    page = (ROOT / "docs/how-to/sources.md").read_text(encoding="utf-8")
    section = page.partition("## Stores, the hub and web servers")[2]
    commands = re.findall(r"^clipfleet (.*)$", section, re.MULTILINE)
    return str(commands[number]).replace("models/vit-b-16", str(model)).split()


def test_the_pages_command_embeds_a_table_in_a_store_with_images_of_all_kinds(
    stored: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    local = tmp_path / "local.png"
    local.write_bytes(PICTURES[0])
    uris = {
        "store": "s3://bucket/photos/b/1.png",
        "relative": "photos/b-c/3.png",
        "tar": items_of("s3://bucket/shards/00000.tar")[2].uri,
        "zip": items_of("s3://bucket/zips/all.zip")[2].uri,
        "row": items_of("s3://bucket/rows")[3].uri,
        "local": str(local),
        "missing": "s3://bucket/photos/none.png",
    }
    rows = [json.dumps({"id": id_, "uri": uri}) for id_, uri in uris.items()]
    stored.objects["bucket/photos.jsonl"] = Stored("\n".join(rows).encode(), {})
    done = run_command(*page_command(0, write_fake_engine(tmp_path, "img")))
    assert done.returncode == ITEMS_FAILED, done.stderr
    dataset = clipfleet.Dataset("vectors/photos")
    assert set(dataset.ids) == set(uris) - {"missing"}
    assert [(row.id, row.error) for row in dataset.errors()] == [("missing", "missing")]


def test_the_pages_command_embeds_the_pictures_of_a_dataset_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with serve_files(Files({f"{RESOLVE}/rows/0.parquet": parquet()})) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        done = run_command(*page_command(1, write_fake_engine(tmp_path, "img")))
    assert done.returncode == 0, done.stderr
    assert set(clipfleet.Dataset("vectors/rows").ids) == {"a", "b", "c", "d"}


@pytest.mark.usefixtures("stored")
def test_a_worker_starts_only_if_its_input_roots_in_stores_are_there(tmp_path: Path) -> None:
    model = write_fake_engine(tmp_path, "img")
    settings = Settings(tower="img", model=str(model), output=str(tmp_path / "out"))

    def check(root: str) -> None:
        preflight(settings.model_copy(update={"input_roots": (root,)}))

    check("s3://bucket/photos")
    with pytest.raises(UsageError, match="the input root s3://bucket/none is no folder"):
        check("s3://bucket/none")
    with pytest.raises(UsageError, match=r"cannot read the input root .*NoSuchBucket"):
        check("s3://no-bucket/photos")


@pytest.mark.parametrize("name", ["img2dataset", "webdataset"])
@pytest.mark.parametrize("tower", ["img", "txt"])
def test_a_store_holds_the_items_that_a_disk_holds(s3: S3, name: str, tower: Tower) -> None:
    folder = ROOT / "tests/archive_files"
    for path in folder.rglob("*"):
        if path.is_file():
            s3.objects[f"bucket/in/{path.relative_to(folder)}"] = Stored(path.read_bytes(), {})

    def read(location: str) -> tuple[list[str], dict[str, int]]:
        source = open_source(location, tower=tower)
        return [item.id for item in source], dict(source.skipped)

    assert read(f"s3://bucket/in/{name}") == read(str(folder / name))


def test_a_key_that_the_library_cannot_name_is_refused(stored: S3) -> None:
    stored.objects["bucket/odd//1.png"] = Stored(PICTURES[0], {})
    with pytest.raises(SourceError, match=r"a key with '//'.* cannot be listed: rename it"):
        items_of("s3://bucket/odd")
