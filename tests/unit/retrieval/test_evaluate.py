"""`evaluate`: every gold query is scored once, and what has no vector is a miss that is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.error_codes import EMPTY_TEXT
from clipfleet.errors import ClipfleetError, DuplicateIdError, ItemError, SourceError, UsageError
from clipfleet.items import Item
from clipfleet.retrieval.evaluation import recall as recall_module
from clipfleet.retrieval.evaluation.evaluate import evaluate
from clipfleet.retrieval.evaluation.gold import GoldPairs, read_gold
from clipfleet.retrieval.evaluation.vector_set import EmbeddedTexts
from clipfleet.storage.sources.base import ListSource
from tests.datasets import make_card
from tests.vector_sets import HeldVectors

CORNERS = np.eye(12, dtype=np.float32)  # an image each; a text equals one of them


def gold_of(folder: Path, *pairs: tuple[object, Sequence[object]]) -> GoldPairs:
    rows = [{"text_id": text, "text": "t", "image_ids": list(ids)} for text, ids in pairs]
    path = folder / "gold.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return read_gold(path)


def images(*ids: object, failed: tuple[str, ...] = ()) -> HeldVectors:
    return HeldVectors(ids, CORNERS[: len(ids)], failed=failed)


def texts(*rows: int, ids: tuple[object, ...], failed: tuple[str, ...] = ()) -> HeldVectors:
    return HeldVectors(ids, CORNERS[list(rows)], tower="txt", failed=failed)


def test_a_query_without_a_vector_is_a_miss_and_is_counted(tmp_path: Path) -> None:
    gold = gold_of(tmp_path, (1, [100]), (2, [101]), (3, [102]), (4, [103]), (5, [777]), (6, []))

    found = evaluate(
        images(100, 101, 102, failed=("103", "900")),
        texts(0, 1, 3, 4, ids=(1, 2, 5, 9), failed=("3", "8")),
        gold,
    )

    one = found.text_to_image  # texts 1 and 2 are right; 5 and 6 have no image that is there
    assert (one.queries, one.failed, one.absent, one.hits) == (6, 1, 2, (2, 2, 2))
    assert one.r1 == 2 / 6 * 100
    other = found.image_to_text  # images 100 and 101 are right, 102 has no text that is there
    assert (other.queries, other.failed, other.absent) == (5, 1, 1)
    assert other.hits[0] == 2
    assert found.unscored_texts == 1
    assert found.missing == 5
    told = "\n".join(found.lines())
    assert "gold texts without a vector, counted as misses: 1 failed, 2 are not in" in told
    assert "1 texts are not in the gold file" in told


def test_the_first_ten_places_are_ranked_across_chunks_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text n lies between the images, nearer to image 0 than to 1, and so on."""
    monkeypatch.setattr(recall_module, "BATCH_ROWS", 3)
    near = np.linspace(1, 0.1, 12, dtype=np.float32)
    same = HeldVectors(range(8), np.tile(near, (8, 1)), tower="txt", batch=5)
    gold = gold_of(tmp_path, *((n, [place]) for n, place in enumerate((0, 1, 4, 5, 9, 10, 11, 0))))

    one = evaluate(HeldVectors(range(12), CORNERS, batch=5), same, gold).text_to_image

    assert one.hits == (2, 4, 6)
    assert one.mean_recall == pytest.approx((25 + 50 + 75) / 3)


def test_ids_that_are_no_whole_numbers_stay_strings_and_the_refusal_is_told(tmp_path: Path) -> None:
    gold = gold_of(tmp_path, ("a", ["000001.jpg"]))

    found = evaluate(
        images("000001.jpg"), texts(0, 0, ids=("a", "07")), gold, predictions=tmp_path / "out"
    )

    first = Path(found.predictions[0]).read_text(encoding="utf-8").splitlines()
    assert json.loads(first[1]) == {"text_id": "07", "image_ids": ["000001.jpg"]}
    assert "ids are whole numbers" in found.notes[0]
    assert "there are 1 images" in found.notes[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": HeldVectors([100], CORNERS[:1], tower="txt")}, "vectors of the txt tower"),
        ({"images": HeldVectors([100], CORNERS[:1], checkpoint="d")}, "differ in checkpoint"),
        ({"images": HeldVectors([100], CORNERS[:1, :5])}, "differ in width"),
        ({"images": HeldVectors(["100.jpg"], CORNERS[:1])}, "ids such as '100'.* '100.jpg'"),
        (
            {"texts": HeldVectors([], CORNERS[:0], tower="txt")},
            "no text of .* and the dataset none",
        ),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    gold = gold_of(tmp_path, (1, [100]))
    with pytest.raises(UsageError, match=message):
        evaluate(**{"images": images(100), "texts": texts(0, ids=(1,)), "gold": gold, **given})


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ('{"text_id": 1}', SourceError, "no field 'image_ids'"),
        ('{"text_id": 1, "image_ids": 5}', SourceError, "image_ids is 5, expected a list"),
        ('{"text_id": 1, "image_ids": [1.5]}', SourceError, "the id is 1.5"),
        ('{"text_id": 0, "image_ids": [7]}', DuplicateIdError, "line 2: text_id '0' has a line"),
        ('{"text_id": 1, "image_ids": []}', SourceError, "all 2 texts are empty"),
    ],
)
def test_a_gold_file_that_would_score_wrongly_is_refused(
    line: str, error: type[ClipfleetError], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text('{"text_id": 0, "image_ids": []}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(error, match=message):
        read_gold(path)


def test_texts_that_are_embedded_for_the_evaluation_keep_their_order_and_failures() -> None:
    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        if "" in texts:
            raise ItemError(EMPTY_TEXT, "texts holds no word")
        return CORNERS[[int(text) for text in texts]]

    source = ListSource([Item(id=f"i{n}", text="" if n in (1, 4) else str(n)) for n in range(7)])
    held = EmbeddedTexts(source, path="p", model=make_card(dim=12), encode=encode)

    batches = list(held.batches(3))
    assert [ids for ids, _ in batches] == [["i0", "i2", "i3"], ["i5", "i6"]]
    np.testing.assert_array_equal(
        np.concatenate([vectors for _, vectors in batches]), CORNERS[[0, 2, 3, 5, 6]]
    )
    assert [(row.id, row.error) for row in held.errors()] == [
        ("i1", EMPTY_TEXT),
        ("i4", EMPTY_TEXT),
    ]


def test_the_progress_ends_when_all_pairs_are_compared(tmp_path: Path) -> None:
    gold = gold_of(tmp_path, (1, [100]), (2, [101]))
    shown: list[tuple[str, int, int]] = []

    evaluate(
        HeldVectors((100, 101, 102), CORNERS[:3], batch=2),
        texts(0, 1, 2, ids=(1, 2, 9)),
        gold,
        show=lambda *told: shown.append(told),
    )

    assert shown == [("text to image", 4, 6), ("text to image", 6, 6), ("image to text", 6, 6)]
