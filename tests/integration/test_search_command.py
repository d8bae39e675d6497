"""`clipfleet search` and `similarity`: pictures and captions of the demo, from vectors to hits."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import clipfleet
from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.model_card import load_card
from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.workers.engines.fake import write_fake_engine
from examples.demo.scenes import captions, jpeg, pictures
from tests.integration.support import run_command
from tests.page_blocks import run_block

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples/demo/model"
COUNT, K = 24, 5


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Files, an index of the pictures, and the vectors that it should have."""

    folder: Path
    ids: list[str]
    images: NDArray[np.float32]  # (n, D), as the index stores them
    texts: list[dict[str, str]]  # captions
    captions: NDArray[np.float32]  # (m, D)

    def nearest(self, query: NDArray[np.float32]) -> list[str]:
        return [self.ids[row] for row in np.argsort(-(self.images @ query), kind="stable")[:K]]

    def run(self, *arguments: object, exit_code: int = 0) -> dict[str, Any]:
        """Run a command with --json in the folder."""
        done = run_command(*map(str, arguments), "--json", cwd=self.folder)
        assert done.returncode == exit_code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def refusal(self, *arguments: object) -> str:
        done = run_command(*map(str, arguments), cwd=self.folder)
        assert (done.returncode, done.stdout) == (2, ""), done.stdout
        return done.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    drawn = pictures(count=COUNT, seed=3)
    for picture in drawn:
        (folder / f"{picture.id}.jpg").write_bytes(jpeg(picture))
    items = [Item(id=f"{one.id}.jpg", uri=str(folder / f"{one.id}.jpg")) for one in drawn]
    texts = [
        {"id": caption["id"], "text": caption["text"]}
        for picture in drawn
        for caption in captions(picture)
    ]
    with clipfleet.load_model(MODEL, settings=Settings(provider="cpu")) as model:
        images = model.encode_images([folder / item.id for item in items])
        of_texts = model.encode_texts([text["text"] for text in texts])
    vectors = {"img": images, "txt": of_texts}
    named: dict[Tower, list[Item]] = {"img": items, "txt": [Item(**text) for text in texts]}
    for tower, of_tower in named.items():
        card, _ = load_card(MODEL / f"demo.{tower}.fp32.onnx")
        dataset = Dataset.create(
            str(folder / f"vectors-{tower}"), card, kind="planned", embedding_dtype="float16"
        )
        sizes = [(96, 96)] * len(of_tower) if tower == "img" else None
        rows = Embedded(items=of_tower, vectors=vectors[tower], sizes=sizes, failures=[])
        commit(dataset, "00001-0000000", rows, card=card, worker="w")
    clipfleet.build_index(folder / "vectors-img", folder / "index")
    return Demo(
        folder=folder,
        ids=[item.id for item in items],
        images=images.astype(np.float16).astype(np.float32),
        texts=texts,
        captions=of_texts,
    )


def test_texts_and_images_find_what_numpy_finds(demo: Demo) -> None:
    asked = [demo.texts[0]["text"], demo.texts[7]["text"]]
    found = demo.run(
        *("search", "index", *asked, "--image", demo.ids[3], "--image", "absent.jpg"),
        *("-k", K, "--model", MODEL, "--html", "sheet.html"),
        exit_code=1,
    )
    assert (found["queries"], found["failed"], found["rows"]) == (4, 1, COUNT)
    vectors = [demo.captions[0], demo.captions[7], demo.images[3]]
    for answer, vector in zip(found["answers"], vectors, strict=False):
        assert [hit["id"] for hit in answer["hits"]] == demo.nearest(vector)
        assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4, 5]
        cosines = [demo.images[demo.ids.index(hit["id"])] @ vector for hit in answer["hits"]]
        np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], cosines, atol=1e-4)
    assert found["answers"][2]["hits"][0]["id"] == demo.ids[3]
    failed = found["answers"][3]
    assert (failed["id"], failed["hits"], failed["error"]) == ("absent.jpg", [], "missing")
    page = (demo.folder / found["html"]).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3 * K + 1
    assert asked[0] in page


def test_a_file_of_queries_and_ready_vectors_have_the_same_answers(demo: Demo) -> None:
    lines = [*demo.texts, {"id": "blank", "text": " "}]
    (demo.folder / "queries.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    common = ("search", "index", "-k", K, "--out")
    found = demo.run(
        *(*common, "a.parquet", "--queries", "queries.jsonl", "--model", MODEL), exit_code=1
    )
    assert (found["queries"], found["failed"], found["answers"]) == (2 * COUNT + 1, 1, [])
    found = demo.run(*common, "b.parquet", "--queries", "vectors-txt")
    assert (found["queries"], found["failed"]) == (2 * COUNT, 0)
    rows = pq.read_table(demo.folder / "a.parquet").to_pylist()
    assert [row["error"] for row in rows if row["query_id"] == "blank"] == ["empty_text"]
    of_texts = [row["id"] for row in rows if row["error"] is None]
    assert of_texts == [id_ for vector in demo.captions for id_ in demo.nearest(vector)]
    of_vectors = pq.read_table(demo.folder / "b.parquet").to_pylist()
    assert [row["id"] for row in of_vectors] == of_texts


def test_queries_of_another_model_are_refused_with_both_names(demo: Demo, tmp_path: Path) -> None:
    other = write_fake_engine(tmp_path, "txt", dim=128)
    told = demo.refusal("search", "index", "a", "--model", other)
    assert "index of" in told
    assert "demo" in told
    assert "fake" in told
    told = demo.refusal("search", "index", "a", "--model", MODEL / "demo.img.fp32.onnx")
    assert "demo.img.fp32.onnx is the img tower, and these queries need the txt tower" in told


def test_a_wrong_call_says_the_way_out(demo: Demo) -> None:
    search = ("search", "index")
    assert "`clipfleet index vectors-img OUT` makes one" in demo.refusal(
        "search", "vectors-img", "a", "--model", MODEL
    )
    assert "no index at" in demo.refusal("search", "absent", "a", "--model", MODEL)
    assert "texts and images need --model" in demo.refusal(*search, "a")
    assert "nothing to search for" in demo.refusal(*search, "--model", MODEL)
    assert "--out FILE.parquet" in demo.refusal(*search, "--queries", "vectors-txt")
    assert "ends with .parquet" in demo.refusal(*search, "a", "--out", "a.csv")
    assert "there is no folder absent" in demo.refusal(*search, "a", "--html", "absent/a.html")
    assert "--queries stands alone" in demo.refusal(*search, "a", "--queries", "vectors-txt")


def test_the_commands_and_the_python_of_the_guide_run(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("vectors", "models", "indexes"):
        (tmp_path / folder).mkdir()
    Path("vectors/photos").symlink_to(demo.folder / "vectors-img")
    Path("vectors/queries").symlink_to(demo.folder / "vectors-txt")
    Path("models/vit-b-16").symlink_to(MODEL)
    Path("query.jpg").symlink_to(demo.folder / demo.ids[0])
    Path("queries.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in demo.texts))
    guide = (ROOT / "docs/how-to/search.md").read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL):
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "clipfleet"
            if arguments[0] == "serve":
                continue  # it runs until a signal: test_serve.py starts it
            done = run_command(*arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    [block] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    rows = run_block(block)["rows"]
    assert [row["id"] for row in rows] == [demo.nearest(vector)[0] for vector in demo.captions]
    assert Path("search.html").read_text(encoding="utf-8").count("<h2") == 2


def test_similarity_gives_each_image_probabilities_of_sum_1(demo: Demo) -> None:
    own, other = demo.texts[0]["text"], demo.texts[20]["text"]
    arguments = ("similarity", "--model", MODEL, "--text", other, "--text", own, "--image")
    [image] = demo.run(*arguments, demo.ids[0])["images"]
    assert image["image"] == demo.ids[0]
    assert [text["text"] for text in image["texts"]] == [other, own]
    probabilities = [text["probability"] for text in image["texts"]]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities[1] > 0.9
    cosine = float(demo.images[0] @ demo.captions[0])
    assert image["texts"][1]["cosine"] == pytest.approx(cosine, abs=1e-3)
    done = run_command(*map(str, arguments), demo.ids[0], cwd=demo.folder)
    head, _, *lines = done.stdout.splitlines()
    assert head == demo.ids[0]
    assert [line.split()[0] for line in lines] == [f"{one:.4f}" for one in probabilities]
    assert "images[0]" in demo.refusal(*arguments, "absent.jpg")
