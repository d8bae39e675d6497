"""`compare` and `top_k_overlap`: figures that can be computed by hand, and the verdict."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.errors import UsageError
from clipfleet.retrieval.evaluation import compare as compare_module
from clipfleet.retrieval.evaluation.compare import compare
from clipfleet.retrieval.evaluation.overlap import top_k_overlap
from tests.vector_sets import HeldVectors

N, D = 200, 32


def unit(rows: int = N, *, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, D))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def rotated(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    turn, _ = np.linalg.qr(np.random.default_rng(9).standard_normal((D, D)))
    turned: NDArray[np.float32] = (vectors @ turn).astype(np.float32)
    return turned


def test_the_order_of_the_rows_and_the_rounding_to_float16_leave_the_space_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare_module, "_PAIRS", 50)
    vectors, order = unit(), np.random.default_rng(1).permutation(N)
    a = HeldVectors(range(N), vectors, batch=64)
    b = HeldVectors(order.tolist(), vectors[order].astype(np.float16), batch=30)

    found = compare(a, b)

    assert found.verdict == "same space"
    assert (found.shared, found.only_a, found.only_b, found.queries) == (N, 0, 0, N)
    assert found.cosines is not None
    assert found.cosines.lowest > 0.99999
    assert found.overlap > 0.98
    assert json.loads(json.dumps(found.to_json()))["verdict"] == "same space"


def test_a_turned_space_is_different_although_its_neighbours_are_the_same() -> None:
    vectors = unit()
    found = compare(HeldVectors(range(N), vectors), HeldVectors(range(N), rotated(vectors)))

    assert found.overlap > 0.99
    assert found.verdict == "different space"


def test_near_vectors_with_other_neighbours_are_a_different_space() -> None:
    """All vectors are near one direction: cosines alone would pass any two models."""
    direction = unit(1, seed=5)
    narrow = [direction + 0.003 * unit(seed=seed) for seed in (0, 1)]
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in narrow)
    found = compare(HeldVectors(range(N), a), HeldVectors(range(N), b))

    assert found.cosines is not None
    assert found.cosines.share == 1
    assert found.overlap < 0.3
    assert not found.same_space


def test_ids_of_one_dataset_only_are_told_and_are_no_neighbours() -> None:
    vectors = unit(12)
    extra = np.repeat(vectors[:1], 30, axis=0)  # would push all others out of the ten nearest
    a = HeldVectors([*range(12), *(f"x{n}" for n in range(30))], np.concatenate([vectors, extra]))
    b = HeldVectors(["y", *range(12)], np.concatenate([vectors[:1], vectors]))
    bad = vectors.copy()
    bad[7] = -bad[7]

    found = compare(a, b)

    assert (found.shared, found.only_a, found.only_b) == (12, 30, 1)
    assert (found.overlap, found.first_only_b) == (1.0, ("y",))
    told = "\n".join(found.lines())
    assert "30 ids are only in /held/img, such as 'x0', 'x1', 'x10'" in told
    turned = compare(a, HeldVectors(range(12), bad)).cosines
    assert turned is not None
    assert turned.lowest_id == "7"
    assert turned.lowest == pytest.approx(-1)
    assert turned.share == pytest.approx(11 / 12)


def test_datasets_of_two_widths_are_compared_by_their_neighbours_only() -> None:
    vectors = unit()
    wider = np.concatenate([vectors, np.zeros((N, 4), np.float32)], axis=1)

    found = compare(HeldVectors(range(N), vectors), HeldVectors(range(N), wider))

    assert (found.cosines, found.overlap, found.same_space) == (None, 1.0, False)
    assert "different widths" in "\n".join(found.lines())


def test_datasets_without_common_ids_or_of_two_towers_are_refused() -> None:
    a = HeldVectors(range(N), unit())
    with pytest.raises(UsageError, match="0 ids in common"):
        compare(a, HeldVectors([f"x{n}" for n in range(N)], unit()))
    with pytest.raises(UsageError, match=r"of the img tower, and .* of the txt tower"):
        compare(a, HeldVectors(range(N), unit(), tower="txt"))


def test_the_overlap_counts_neighbours_but_not_the_item_itself() -> None:
    def circle(*degrees: float) -> NDArray[np.float64]:
        turns = np.radians(degrees)
        return np.stack([np.cos(turns), np.sin(turns)], axis=1)

    a, b = circle(0, 10, 30, 70, 180), circle(0, 10, 30, 70, 359)
    assert top_k_overlap(a, a, 2) == 1
    # In b, item 4 is beside item 0. Of the two nearest, a and b share: of item 0 {1} of {1, 2}, of
    # 1 {0, 2} or {0, 4}: {0}; of 2 {0, 1}; of 3 {2, 1}; of 4 in a {3, 2}, in b {0, 1}: none.
    assert top_k_overlap(a, b, 2) == pytest.approx((0.5 + 0.5 + 1 + 1 + 0) / 5)
    assert top_k_overlap(a, b, 9) == 1
    with pytest.raises(ValueError, match="5 and 4 vectors"):
        top_k_overlap(a, b[:4], 2)
