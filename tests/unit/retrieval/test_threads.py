"""Products take the threads of the settings, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import clipfleet
from clipfleet.retrieval.evaluation import compare
from clipfleet.retrieval.exact import exact_top_k
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.neighbours import Neighbours
from clipfleet.retrieval.threads import limited_threads, threads_of
from clipfleet.settings import cores, load_settings
from tests.datasets import DIM, add_rows, fake_dataset


def counts() -> set[int]:
    """Return the threads of each library that computes products here, and can with several."""
    return {
        library["num_threads"]
        for library in threadpool_info()
        if library.get("threading_layer") != "disabled"  # OpenBLAS of faiss-gpu
    }


@pytest.mark.parametrize(("engine_threads", "expected"), [(1, 1), (3, 3), (0, cores())])
def test_numpy_and_faiss_take_the_threads_of_the_settings_and_give_them_back(
    engine_threads: int, expected: int
) -> None:
    faiss = load_faiss()
    with threadpool_limits(limits=2):
        with threads_of(load_settings(engine_threads=engine_threads)):
            assert counts() == {expected}
            assert faiss.omp_get_max_threads() == expected
            with limited_threads(1):
                assert counts() == {1}
            assert counts() == {expected}
        assert counts() == {2}


def test_a_comparison_of_datasets_obeys_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = fake_dataset(tmp_path / "texts")
    add_rows(dataset, np.eye(DIM, dtype=np.float32))
    seen: list[set[int]] = []

    def search(*arguments: Any) -> Neighbours:
        seen.append(counts())
        return exact_top_k(*arguments)

    monkeypatch.setattr(compare, "exact_top_k", search)
    with threadpool_limits(limits=2):
        clipfleet.compare(dataset.root, dataset.root, settings=load_settings(engine_threads=1))
    assert seen == [{1}, {1}]
