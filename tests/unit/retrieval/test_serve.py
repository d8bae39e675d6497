"""The page's server: who may ask it, what it answers, and which files it never sends."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient
from threadpoolctl import threadpool_limits

from clipfleet.errors import DatasetMismatchError, UsageError
from clipfleet.items import Item
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.neighbours import Neighbours
from clipfleet.retrieval.serve import app as app_module
from clipfleet.retrieval.serve.access import HEADERS, Access
from clipfleet.retrieval.serve.app import create_app
from clipfleet.retrieval.serve.finder import Encoder, Finder
from clipfleet.retrieval.serve.pictures import Pictures
from clipfleet.retrieval.serve.server import listen
from clipfleet.workers.images.decode import ImageLimits, decode
from clipfleet.workers.picture_files import PictureFiles
from tests.datasets import make_card
from tests.stand_in_index import StandInIndex, stand_in_index

HERE = "http://127.0.0.1:8765"
TOKEN = "the-token"
DELETED = 3
COLOURS = ("red", "green", "blue", "white")


class StandInModel:
    """Each text is (1, 0), and each picture (0, 1)."""

    card = make_card("txt", dim=2)

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        return np.array([[1, 0]], np.float32)

    def encode_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        return np.array([[0, 1]], np.float32)


MODEL = StandInModel()


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    """Four pictures, and a page under the name of one; DELETED is no row any more."""
    uris = [str(tmp_path / f"{name}.png") for name in (*COLOURS, "page")]
    for uri, name in zip(uris, COLOURS, strict=False):
        Image.new("RGB", (800, 400), name).save(uri)
    Path(uris[-1]).write_text("<script>alert(1)</script>")
    return uris


def decode_here(data: bytes, name: str) -> Image.Image:
    """Decode in this process, which a unit test must."""
    return decode(data, name, ImageLimits().max_pixels)[0]


def client_of(
    uris: list[str],
    *,
    model: Encoder | None = MODEL,
    token: str | None = None,
    limits: ImageLimits | None = None,
    threads: int = 1,
) -> TestClient:
    items = [Item(id=f"id-{n}", uri=uri) for n, uri in enumerate(uris)]
    finder = Finder(
        stand_in_index(items, vectors_of(uris), hidden=[DELETED]), model, threads=threads
    )
    pictures = Pictures(PictureFiles(limits or ImageLimits()))
    app = Access(
        app=create_app(finder, pictures, decode_here, {"name": "x"}),
        names=frozenset({"photos.lan"}),
        token=token,
    )
    return TestClient(app, base_url=HERE, follow_redirects=False)


def vectors_of(uris: list[str]) -> NDArray[np.float32]:
    """Return a vector for each row: from that of each text to half way to that of a picture."""
    angles = np.linspace(0, 1, len(uris))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rows_of(client: TestClient, url: str) -> list[int]:
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    return [hit["row"] for hit in answer.json()["hits"]]


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG file of some hundred bytes that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def test_a_text_a_picture_and_a_row_find_their_neighbours_and_no_deleted_row(
    uris: list[str],
) -> None:
    client = client_of(uris)
    assert rows_of(client, "/search?text=红色的圆&k=9") == [0, 1, 2, 4]
    assert rows_of(client, "/search?row=0&k=2") == [1, 2]  # not itself
    assert rows_of(client, "/sample?k=2") == [0, 4]
    picture = Path(uris[0]).read_bytes()
    answer = client.post("/search?k=2", content=picture).json()
    assert [hit["row"] for hit in answer["hits"]] == [4, 2]
    scores = vectors_of(uris)[[4, 2], 1]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx(scores)


def test_a_search_obeys_the_threads_of_the_page_in_each_request(
    uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss, seen = load_faiss(), []

    def search(self: StandInIndex, queries: NDArray[np.float32], k: int) -> Neighbours:
        seen.append(faiss.omp_get_max_threads())
        return found(self, queries, k)

    found = StandInIndex.search
    monkeypatch.setattr(StandInIndex, "search", search)
    with threadpool_limits(limits=1):  # of this thread
        assert rows_of(client_of(uris, threads=3), "/search?text=a&k=1") == [0]
    assert seen == [3]


def test_a_page_without_a_model_still_finds_more_like_a_row(uris: list[str]) -> None:
    client = client_of(uris, model=None)
    assert client.get("/about").json()["has_model"] is False
    picture = Path(uris[0]).read_bytes()
    refused = [client.get("/search?text=cat&k=3"), client.post("/search?k=3", content=picture)]
    assert [answer.status_code for answer in refused] == [400, 400]
    assert all("--model" in answer.json()["error"] for answer in refused)
    assert rows_of(client, "/search?row=2&k=1") == [1]


@pytest.mark.parametrize(
    "query", ["text=a&k=0", "text=a&k=201", "text=a&k=x", "text=a", "row=-1&k=1", "row=²&k=1"]
)
def test_a_number_out_of_range_is_refused_with_its_value(uris: list[str], query: str) -> None:
    answer = client_of(uris).get(f"/search?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_thumbnail_is_small_and_a_file_is_sent_as_it_is(uris: list[str]) -> None:
    client = client_of(uris)
    thumbnail = client.get("/picture/1")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(thumbnail.content)) as image:
        assert image.size == (320, 160)
    file = client.get("/file/1")
    assert file.headers["content-type"] == "image/png"
    assert file.content == Path(uris[1]).read_bytes()


@pytest.mark.parametrize("kind", ["picture", "file"])
def test_only_pictures_of_rows_are_sent(uris: list[str], kind: str, tmp_path: Path) -> None:
    client = client_of(uris)
    (tmp_path / "other.png").write_bytes(Path(uris[0]).read_bytes())
    for row in (DELETED, len(uris), 10**17):
        assert client.get(f"/{kind}/{row}").status_code == 404
    for path in (f"{kind}/-1", f"{kind}/../{kind}/0x0", f"{kind}/{tmp_path}/other.png"):
        assert client.get(f"/{path}").status_code == 404
    answer = client.get(f"/{kind}/4")  # a row whose file became a page
    assert answer.status_code == 422
    assert "is no image" in answer.json()["error"]
    outside = client_of(uris, limits=ImageLimits(input_roots=("/nowhere",)))
    assert outside.get(f"/{kind}/0").status_code == 422


def test_an_index_of_texts_has_no_picture() -> None:
    items = [Item(id="a", text="一只猫"), Item(id="b", text="一只狗")]
    index = stand_in_index(items, np.eye(2, dtype=np.float32))
    app = create_app(
        Finder(index, MODEL, threads=1), Pictures(PictureFiles(ImageLimits())), decode_here, {}
    )
    client = TestClient(app, base_url=HERE)
    hit = client.get("/search?text=猫&k=1").json()["hits"][0]
    assert (hit["text"], hit["uri"], hit["score"]) == ("一只猫", None, 1.0)
    assert client.get("/picture/0").status_code == 404


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd"])
def test_no_file_beside_the_page_is_sent(uris: list[str], path: str) -> None:
    assert client_of(uris).get(path).status_code == 404


def test_an_upload_is_bounded_and_must_be_a_picture(
    uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(uris)
    damaged = client.post("/search?k=1", content=b"\xff\xd8\xff\xe0 no picture")
    assert damaged.status_code == 422
    assert "the picture" in damaged.json()["error"]
    bomb = client.post("/search?k=1", content=png_of_size(60_000, 60_000))
    assert bomb.status_code == 422
    assert "pixels" in bomb.json()["error"]
    monkeypatch.setattr(app_module, "MAX_UPLOAD_BYTES", 1 << 20)
    assert client.post("/search?k=1", content=bytes(1 << 20)).status_code == 422
    assert client.post("/search?k=1", content=bytes((1 << 20) + 1)).status_code == 413


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("[::1]:8765", 200),
        ("localhost:9000", 200),  # a tunnel
        ("PHOTOS.lan", 200),
        ("evil.example:8765", 400),
        ("photos.lan.evil.example", 400),
        ("2130706433:8765", 400),
        ("", 400),
    ],
)
def test_a_name_that_a_site_may_claim_is_refused(uris: list[str], host: str, status: int) -> None:
    assert client_of(uris).get("/about", headers={"Host": host}).status_code == status


def test_another_site_cannot_post_or_embed(uris: list[str]) -> None:
    client = client_of(uris)
    own, other = {"Origin": HERE}, {"Origin": "https://evil.example"}
    data = Path(uris[0]).read_bytes()
    assert client.post("/search?k=1", content=data, headers=own).status_code == 200
    assert client.post("/search?k=1", content=data, headers=other).status_code == 403
    assert client.post("/search?k=1", content=data, headers={"Origin": "null"}).status_code == 403


@pytest.mark.parametrize("path", ["/", "/page.js", "/about", "/picture/0", "/picture/99", "/none"])
def test_every_answer_has_the_headers(uris: list[str], path: str) -> None:
    for client in (client_of(uris), client_of(uris, token=TOKEN)):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_with_a_token_nothing_is_answered_without_it(uris: list[str]) -> None:
    client = client_of(uris, token=TOKEN)
    for path in ("/", "/page.js", "/about", "/picture/0", "/?token=", "/?token=the-tokem"):
        assert client.get(path).status_code == 401
    assert client.get("/", headers={"Cookie": "clipfleet-token-8765=wrong"}).status_code == 401
    opened = client.get(f"/?token={TOKEN}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")  # out of the address bar
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert client.get("/about").status_code == 200  # the client kept the cookie


def test_only_loopback_needs_no_token() -> None:
    local, everywhere, again = (listen(host, 0) for host in ("127.0.0.1", "0.0.0.0", "0.0.0.0"))
    for listener in (local, everywhere, again):
        listener.socket.close()
    assert local.token is None
    assert local.url == f"http://127.0.0.1:{local.url.split(':')[2]}"
    assert everywhere.url.endswith(f"/?token={everywhere.token}")
    assert len(everywhere.token or "") >= 32
    assert everywhere.token != again.token


def test_a_port_in_use_is_an_error_with_a_way_out() -> None:
    with listen("127.0.0.1", 0).socket as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port}.*--port"):
            listen("127.0.0.1", port)


def test_a_model_of_another_checkpoint_is_refused(uris: list[str]) -> None:
    other = StandInModel()
    other.card = make_card("txt", dim=2, checkpoint="d")
    with pytest.raises(DatasetMismatchError, match="checkpoint"):
        client_of(uris, model=other)
