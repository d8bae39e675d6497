"""The demonstration's search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import Embedded, part_of, part_path
from clipfleet.workers.engines.fake import fake_card
from examples.demo.nearest import embed_query, print_nearest, read

COUNT, DIM = 8, 16
MODEL = Path(__file__).parents[2] / "examples/demo/model/demo.txt.fp32.onnx"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    items = [Item(id=f"{n:06d}.jpg", uri=f"/pictures/{n:06d}.jpg") for n in range(COUNT)]
    return _dataset(tmp_path / "images", "img", items, np.eye(COUNT, DIM, dtype=np.float32))


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Captions beside their pictures' vectors: picture n is at n in every dimension but noise."""
    vectors = np.eye(COUNT, DIM, dtype=np.float32) + np.float32(0.1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [Item(id=f"{n:06d}.zh", text=f"第{n}张") for n in range(COUNT)]
    return _dataset(tmp_path / "captions", "txt", items, vectors)


def test_vectors_are_read_with_their_ids_whatever_the_parts(images: Path) -> None:
    vectors = read(images, "uri")
    ids = [f"{n:06d}.jpg" for n in range(COUNT)]
    assert sorted(vectors.ids) == ids
    assert vectors.values == [f"/pictures/{id_}" for id_ in vectors.ids]
    np.testing.assert_allclose(vectors.rows(ids).embeddings, np.eye(COUNT, DIM), atol=1e-3)


def test_the_nearest_pictures_are_printed_and_the_gold_one_marked(
    images: Path, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_nearest(read(captions, "text").rows(["000005.zh"]), read(images, "uri"))
    head, first, *others = capsys.readouterr().out.strip().splitlines()
    assert head == "第5张  [000005.zh]"
    assert first.split()[:3] == ["1", "0.943", "/pictures/000005.jpg"]  # 1.1 / (1.1² + 15 × 0.1²)½
    assert first.endswith("<- its own")
    assert len(others) == 4
    assert not any("its own" in line for line in others)


def test_an_unknown_caption_is_named(captions: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"no caption has the id 'nope': an example is '000004.zh'"
    ):
        read(captions, "text").rows(["nope"])


def test_a_text_of_ones_own_is_embedded() -> None:
    query = embed_query("两个大的红色圆形", MODEL)
    assert (query.ids, query.embeddings.shape) == (["query"], (1, 128))
    with pytest.raises(SystemExit, match=r"'\?\?' has no vector|' ' has no vector: .*no word"):
        embed_query(" ", MODEL)


def _dataset(root: Path, tower: Tower, items: list[Item], vectors: NDArray[np.float32]) -> Path:
    """Write a dataset of two parts, the later items in the first."""
    card = fake_card(tower, dim=DIM)
    dataset = Dataset.create(str(root), card, kind="planned", embedding_dtype="float16")
    half = len(items) // 2
    for name, rows in (("00001-0000000", slice(half, None)), ("00001-0000001", slice(half))):
        embedded = Embedded(
            items=items[rows],
            vectors=vectors[rows],
            sizes=[(1, 1)] * half if tower == "img" else None,
            failures=[],
        )
        data, _ = part_of(embedded, dataset.info, card, name)
        dataset.fs.create(part_path(name), bytes(data))
    return root
