"""An index of real codes ends with a certificate, or fails and names the way out."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import clipfleet
from clipfleet.errors import DatasetMismatchError, RecallError, UsageError
from clipfleet.retrieval.certificate.certificate import Certificate
from clipfleet.retrieval.certificate.certified import certificate_of
from clipfleet.settings import Settings, load_settings
from tests.datasets import dataset_of

WIDTH, ROWS, TEXTS, LISTS = 32, 500, 200, 8

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the datasets `photos` and `captions`, of one checkpoint."""
    folder = tmp_path_factory.mktemp("vectors")
    dataset_of(folder / "photos", unit(ROWS, seed=0))
    dataset_of(folder / "captions", unit(TEXTS, seed=1), tower="txt")
    return folder


@pytest.fixture
def settings() -> Settings:
    return load_settings(engine_threads=1)


def unit(rows: int, *, seed: int, width: int = WIDTH) -> NDArray[np.float32]:
    """Return random directions: their neighbours lie in many lists, so few probes find few."""
    drawn = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    found: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return found


def test_probes_are_raised_until_texts_are_certified(
    vectors: Path, tmp_path: Path, settings: Settings
) -> None:
    out = tmp_path / "index"
    card = clipfleet.build_index(vectors / "photos", out, lists=LISTS, settings=settings)

    certificate = made(card)
    assert [(one.kind, one.queries) for one in certificate.recalls] == [
        ("held-out", ROWS),
        ("txt", TEXTS),
    ]
    assert certificate.queries == str(vectors / "captions")
    assert certificate.hardest.deciding.low >= 0.95
    assert certificate.steps[0].recall.low < 0.95
    assert certificate.itself.found == certificate.itself.rows == ROWS
    assert 1 < card.parameters.probes == certificate.parameters.probes <= LISTS
    assert f"Index of {vectors / 'photos'}" in (out / "report.html").read_text()
    with clipfleet.Index.open(out) as index:
        assert recall_at_10(index, unit(200, seed=2)) >= 0.95


def test_an_index_whose_probes_take_too_long_is_not_left_as_if_whole(
    vectors: Path, tmp_path: Path, settings: Settings
) -> None:
    out = tmp_path / "index"
    build = partial(clipfleet.build_index, vectors / "photos", out, lists=LISTS, settings=settings)

    with pytest.raises(RecallError, match=r"What would do: --max-latency-ms [\d.]+"):
        build(min_recall=0.5, max_latency_ms=1e-6)
    with pytest.raises(UsageError, match="no index at"):
        clipfleet.Index.open(out)
    copied = {path: path.stat().st_mtime_ns for path in out.rglob("vectors.f16")}

    card = build(min_recall=0.5)

    assert made(card).target.min_recall == 0.5
    higher = build(min_recall=0.9)
    assert higher.parameters.probes > card.parameters.probes
    assert json.loads((out / "index.json").read_text())["certificate"] == higher.certificate
    assert {path: path.stat().st_mtime_ns for path in out.rglob("vectors.f16")} == copied


def test_queries_of_another_model_are_refused(
    vectors: Path, tmp_path: Path, settings: Settings
) -> None:
    dataset_of(tmp_path / "other", unit(100, seed=3, width=16), tower="txt")

    with pytest.raises(DatasetMismatchError, match="width"):
        clipfleet.build_index(
            vectors / "photos", tmp_path / "index", queries=tmp_path / "other", settings=settings
        )


def made(card: clipfleet.IndexCard) -> Certificate:
    certificate = certificate_of(card)
    assert certificate is not None
    return certificate


def recall_at_10(index: clipfleet.Index, queries: NDArray[np.float32]) -> float:
    """Return recall@10 as NumPy has it."""
    stored = np.concatenate(list(index.blocks())).astype(np.float32)
    nearest = np.argsort(-(queries @ stored.T), axis=1)[:, :10]
    found = index.search(queries, 10).rows
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, nearest, strict=True)]))
