"""An index of real codes ends with a certificate, or fails and names the way out."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import clipfleet
from clipfleet.cli.main import app
from clipfleet.errors import DatasetError, DatasetMismatchError, RecallError, UsageError
from clipfleet.retrieval.certificate.certificate import Certificate, Interval
from clipfleet.retrieval.certificate.certified import certificate_of
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.results import Embedded
from tests.datasets import dataset_of, images

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
    card = clipfleet.build_index(vectors / "photos", out, lists=LISTS, bits=2, settings=settings)

    assert card.pilot is None  # nothing was left to choose
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
    assert clipfleet.verify_index(out, settings=settings).ok


def test_verify_names_changed_files_and_measures_a_changed_index_again(
    vectors: Path, tmp_path: Path, settings: Settings
) -> None:
    out = tmp_path / "index"
    card = clipfleet.build_index(
        vectors / "photos", out, lists=LISTS, bits=2, min_recall=0.5, settings=settings
    )
    fewer = replace(card, parameters=SearchParameters(probes=1, rerank=1))
    (out / "index.json").write_text(promising(fewer, 0.99).to_json())
    (contradicted,) = clipfleet.verify_index(out, settings=settings).problems[:1]
    assert contradicted.startswith("recall@10 of 200 held-out queries is 0.")

    (shard,) = (out / "shards").iterdir()
    flip_a_byte(shard / "vectors.f16")
    flip_a_byte(out / str(card.codes))
    done = CliRunner().invoke(app, ["verify", str(out), "--json"])

    assert done.exit_code == 1
    first, second = json.loads(done.stdout)["problems"]
    assert first.startswith(f"{shard / 'vectors.f16'} is not as it was written")
    assert second.startswith(f"{out / str(card.codes)} is not as it was written")


def test_an_id_that_is_twice_in_a_dataset_gets_no_index(tmp_path: Path, settings: Settings) -> None:
    dataset = dataset_of(tmp_path / "photos", unit(20, seed=4), part_rows=10)
    again = unit(1, seed=5)
    rows = Embedded(items=images("i0-3"), vectors=again, sizes=[(640, 480)], failures=[])
    commit(dataset, "00001-0000007", rows, card=dataset.info.card, worker="w")

    with pytest.raises(DatasetError, match=r"1 ids are in .*photos twice \(i0-3\)"):
        clipfleet.build_index(tmp_path / "photos", tmp_path / "index", settings=settings)


def test_an_index_whose_probes_take_too_long_is_not_left_as_if_whole(
    vectors: Path, tmp_path: Path, settings: Settings
) -> None:
    out = tmp_path / "index"
    build = partial(clipfleet.build_index, vectors / "photos", out, lists=LISTS, settings=settings)

    way_out = r"What would do: --max-latency-ms [\d.]+"
    seen = r"The pilot, of 450 vectors, had measured a recall@10 of: 2 bits, 8 lists: [\d.]+"
    with pytest.raises(RecallError, match=f"{way_out}.*{seen}"):
        build(min_recall=0.5, max_latency_ms=1e-6)
    with pytest.raises(UsageError, match="no index at"):
        clipfleet.Index.open(out)
    copied = {path: path.stat().st_mtime_ns for path in out.rglob("vectors.f16")}

    card = build(min_recall=0.5)

    assert made(card).target.min_recall == 0.5
    assert card.pilot is not None
    assert [(one.bits, one.lists) for one in card.pilot.trials] == [(2, 8), (1, 8)]
    assert "bits and lists: the fastest of 2" in (out / "report.html").read_text()
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


def promising(card: clipfleet.IndexCard, recall: float) -> clipfleet.IndexCard:
    """Return the card with a certificate of its parameters that promises more than is there."""
    certificate = made(card)
    promised = Interval(mean=recall, low=recall, high=recall)
    recalls = tuple(replace(one, at=(promised,) * 3) for one in certificate.recalls)
    changed = replace(certificate, recalls=recalls, parameters=card.parameters)
    return replace(card, certificate=changed.to_json())


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def recall_at_10(index: clipfleet.Index, queries: NDArray[np.float32]) -> float:
    """Return recall@10 as NumPy has it."""
    stored = np.concatenate(list(index.blocks())).astype(np.float32)
    nearest = np.argsort(-(queries @ stored.T), axis=1)[:, :10]
    found = index.search(queries, 10).rows
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, nearest, strict=True)]))
