"""Sources and their images in stores, on the hub and on web servers, as on disks."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipfleet
from clipfleet.architectures import Tower
from clipfleet.cli.output import ITEMS_FAILED
from clipfleet.errors import ItemError, SourceError, UsageError
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.sources.tower import tower_of
from clipfleet.workers.engines.fake import write_fake_engine
from clipfleet.workers.http.remote_fetcher import RemoteFetcher
from clipfleet.workers.preflight import preflight
from tests.file_server import RESOLVE, Files, serve_files
from tests.integration.support import forget_settings, run_command
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


def test_pictures_in_a_compressed_tar_are_refused_and_its_captions_are_read(stored: S3) -> None:
    stored.objects["bucket/z/0.tar.gz"] = Stored(gzip.compress(tar()), {})
    with pytest.raises(SourceError, match="gunzip it in its store, or copy it to a disk"):
        items_of("s3://bucket/z")
    assert len(list(open_source("s3://bucket/z", tower="txt"))) == 4


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
    files["/tables/b.csv"] = b"id,path\n1,../photos/b/1.png\n2,\xe4\xb8\x80 1.png\n"
    with serve_files(Files(files)) as served:
        root = served.endpoint
        allowed = Settings(url_private_hosts=(root.removeprefix("http://"),), url_schemes=("http",))
        table = items_of(f"{root}/tables/b.csv")
        assert [item.uri for item in table] == [
            f"{root}/photos/b/1.png",
            f"{root}/tables/%E4%B8%80%201.png",
        ]
        for location in (f"{root}/shards/00000.tar", f"{root}/zips/all.zip"):
            items = items_of(location)
            assert bytes_of(items, allowed) == PICTURES
            assert refusal(items[0].uri or "").code == "not_allowed"
        with pytest.raises(SourceError, match="not read from a web server"):
            items_of(f"{root}/rows/train-0.parquet")
        with pytest.raises(SourceError, match="no source at"):
            items_of(f"{root}/photos")
        with pytest.raises(UsageError, match="has a query or a fragment"):
            items_of(f"{root}/tables/b.csv?signature=1")
        served.has_ranges = False
        assert "it has no ranges" in str(refusal(items[0].uri or "", allowed))
        with pytest.raises(SourceError, match="gives no ranges of a file: download it"):
            items_of(f"{root}/tables/b.csv")


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
