"""L2 normalisation, and what has no direction."""

from __future__ import annotations

import numpy as np
import pytest

from clipfleet.workers.engines.base import l2_normalise


def test_rows_have_norm_one_and_keep_their_direction() -> None:
    features = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32) * 30
    vectors = l2_normalise(features)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose((vectors * features).sum(1), np.linalg.norm(features, axis=1), 1e-5)


def test_the_features_are_left_alone() -> None:
    features = np.full((1, 2), 3, dtype=np.float32)
    l2_normalise(features)
    assert (features == 3).all()


@pytest.mark.parametrize("scale", [1e-38, 5e37])
def test_features_whose_squares_leave_float32_are_normalised(scale: float) -> None:
    vectors = l2_normalise(np.array([[3, 4]], dtype=np.float32) * np.float32(scale))
    np.testing.assert_allclose(vectors, [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("bad", [[0, 0], [np.nan, 1], [np.inf, 1], [-np.inf, np.inf]])
def test_a_row_without_direction_is_nan_and_its_neighbours_are_not(bad: list[float]) -> None:
    vectors = l2_normalise(np.array([[1, 0], bad, [0, 2]], dtype=np.float32))
    assert np.isnan(vectors[1]).all()
    np.testing.assert_array_equal(vectors[[0, 2]], [[1, 0], [0, 1]])


def test_no_rows_give_no_rows() -> None:
    assert l2_normalise(np.empty((0, 5), dtype=np.float32)).shape == (0, 5)
