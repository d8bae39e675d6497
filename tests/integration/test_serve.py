"""`clipfleet serve` in a real browser: a text, a picture and a hit are searched by."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import clipfleet
from clipfleet.items import Item
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from examples.demo import scenes
from tests.browser import PATIENCE_S, Browser

MODEL = Path(__file__).parents[2] / "examples/demo/model/demo.img.fp32.onnx"
COUNT = 24
GONE = 3  # the row whose picture is deleted after its vector was made
HOSTILE_ID = "<img src=x onerror=alert(1)>"
QUERY = "红色的圆"
IDS = "[...document.querySelectorAll('#hits > li:not([hidden]) .id')].map(e => e.textContent)"
TITLE = "document.getElementById('title').textContent"
DONE = "document.getElementById('hits').ariaBusy === 'false'"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Pictures with their ids and vectors, float32 (n, D), and their index."""

    files: list[Path]
    ids: list[str]
    vectors: NDArray[np.float32]
    index: Path

    def ranked(self, query: NDArray[np.float32]) -> list[str]:
        """Return the ids, nearest first."""
        scores = self.vectors.astype(np.float16).astype(np.float32) @ query
        return [self.ids[n] for n in np.argsort(-scores, kind="stable")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("serve")
    files = [folder / f"{n}.jpg" for n in range(COUNT)]
    for file, picture in zip(files, scenes.pictures(count=COUNT, seed=5), strict=True):
        file.write_bytes(scenes.jpeg(picture))
    ids = [file.name for file in files]
    ids[0] = HOSTILE_ID
    with clipfleet.load_model(MODEL) as model:
        vectors = model.encode_images(files)
        card = model.card
    dataset = Dataset.create(
        str(folder / "vectors"), card, kind="planned", embedding_dtype="float16"
    )
    items = [Item(id=id_, uri=str(file)) for id_, file in zip(ids, files, strict=True)]
    rows = Embedded(items=items, vectors=vectors, sizes=[(1, 1)] * COUNT, failures=[])
    commit(dataset, "00001-0000000", rows, card=card, worker="w")
    clipfleet.build_index(folder / "vectors", folder / "index")
    files[GONE].unlink()
    return Corpus(files=files, ids=ids, vectors=vectors, index=folder / "index")


@pytest.fixture(scope="module")
def url(corpus: Corpus) -> Iterator[str]:
    """The URL that a real `clipfleet serve` prints; at the end, SIGTERM stops it."""
    command = [sys.executable, "-m", "clipfleet", "serve", str(corpus.index)]
    with subprocess.Popen(
        [*command, "--model", str(MODEL), "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def test_a_text_is_typed_and_its_pictures_are_seen(
    browser: Browser, url: str, corpus: Corpus
) -> None:
    browser.open(url)
    browser.wait_for(f"{DONE} && {IDS}.length === {COUNT}")  # a sample, here of all
    browser.press("Tab", code=9)
    browser.type(QUERY)
    browser.press("Enter", code=13, text="\r")
    browser.wait_for(f"{DONE} && {TITLE}.includes('{QUERY}')")
    with clipfleet.load_model(MODEL) as model:
        ranked = corpus.ranked(model.encode_texts([QUERY])[0])
    assert browser.value(IDS) == ranked  # HOSTILE_ID is a text, as all
    browser.value("document.querySelectorAll('#hits img').forEach(i => i.loading = 'eager')")
    pictures = "[...document.querySelectorAll('#hits img')]"
    browser.wait_for(f"{pictures}.length === {COUNT - 1}")  # one is gone
    browser.wait_for(f"{pictures}.every(image => image.naturalWidth > 0)")
    reason = browser.value("document.querySelector('#hits .text:not(:empty)').textContent")
    assert f"{corpus.files[GONE]}' cannot be read: there is no file" in reason
    # The browser reports the picture that is gone, and nothing that the page's policy refused.
    assert all("422" in problem for problem in browser.problems)


def test_a_picture_a_hit_and_the_filter_change_what_is_shown(
    browser: Browser, url: str, corpus: Corpus
) -> None:
    browser.open(url)
    browser.wait_for(DONE)
    browser.drop_file(corpus.files[7])
    browser.wait_for(f"{DONE} && {TITLE}.includes('7.jpg')")
    browser.wait_for("!document.getElementById('queried').hidden")  # the picture is shown
    ranked = corpus.ranked(corpus.vectors[7])
    assert browser.value(IDS) == ranked
    browser.value("document.querySelector('#hits .like').click()")
    browser.wait_for(f"{DONE} && {TITLE}.startsWith('More like 7.jpg')")
    assert browser.value(IDS) == ranked[1:]
    assert browser.value("document.activeElement.id") == "title"
    browser.value(
        "{const s = document.getElementById('least'); s.value = s.max - 0.001;"
        " s.dispatchEvent(new Event('input'))}"
    )
    assert browser.value(IDS) == ranked[1:2]
    browser.value("history.back()")
    browser.wait_for(f"{DONE} && {TITLE}.startsWith('A sample')")


@pytest.mark.parametrize("width", [420, 1280])
def test_the_page_fits_its_width_and_names_every_control(
    browser: Browser, url: str, width: int
) -> None:
    browser.open(f"{url}?text=red", width=width)
    browser.wait_for(f"{DONE} && {IDS}.length === {COUNT}")
    assert browser.value("document.documentElement.scrollWidth") <= width
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node["name"]["value"])
        for node in tree
        if not node["ignored"]
        and node["role"]["value"] in {"button", "combobox", "image", "link", "searchbox", "slider"}
    ]
    assert {role for role, _ in controls} >= {"button", "combobox", "link", "searchbox", "slider"}
    assert all(name for _, name in controls), controls
