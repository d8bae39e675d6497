"""A sample of a dataset's vectors is computed again: wrong rows differ, with right checksums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import clipfleet
from clipfleet.errors import DatasetMismatchError, UsageError
from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verification import Verification
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import FakeEngine, fake_card, write_fake_engine
from clipfleet.workers.recompute import recompute
from tests.datasets import numbered_texts

CARD = fake_card("txt", dim=16)


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    with Embedder(FakeEngine(CARD), Settings(decoders=2)) as made:
        yield made


def fill(root: Path, embedder: Embedder, wrong: object = None) -> Dataset:
    """Embed 40 texts in four shards; `wrong` changes the vectors before they are committed."""
    dataset = Dataset.create(str(root), CARD, kind="planned", embedding_dtype="float16")
    job = plan_items(dataset, ListSource(numbered_texts(40)), 10)
    assert job is not None
    with PlanReader(dataset) as plan:
        for shard in shards(job):
            rows = embedder.embed(plan.read(shard))
            if callable(wrong):
                rows = replace(rows, vectors=wrong(rows))
            commit(dataset, shard.name, rows, card=CARD, worker="w")
    return dataset


def recomputed(dataset: Dataset, embedder: Embedder, fraction: float) -> Verification:
    verification = verify_dataset(dataset)
    assert verification.ok  # the checksums are those of the wrong rows
    recompute(dataset, embedder, fraction, verification)
    return verification


def test_right_vectors_have_the_same_bits(tmp_path: Path, embedder: Embedder) -> None:
    found = recomputed(fill(tmp_path, embedder), embedder, 1.0)
    assert (found.ok, found.recomputed, found.bit_equal) == (True, 40, 40)
    assert "40 vectors recomputed: 40 have the same bits, 0 do not" in "\n".join(found.lines())


def test_a_vector_that_was_written_wrong_differs(tmp_path: Path, embedder: Embedder) -> None:
    def negate(rows: Embedded) -> np.ndarray:
        signs = [-1.0 if item.id == "t17" else 1.0 for item in rows.items]
        return rows.vectors * np.array(signs, np.float32)[:, None]

    found = recomputed(fill(tmp_path, embedder, negate), embedder, 1.0)
    (problem,) = found.problems
    assert problem.startswith("1 vectors differ from those that the model computes now")
    assert "'t17' (cosine -1.0000, in 00001-0000001)" in problem
    assert found.bit_equal == 39


def test_swapped_vectors_differ(tmp_path: Path, embedder: Embedder) -> None:
    found = recomputed(fill(tmp_path, embedder, lambda r: r.vectors[::-1]), embedder, 1.0)
    assert found.problems[0].startswith("40 vectors differ")


def test_other_bits_are_told_apart_from_other_vectors(tmp_path: Path, embedder: Embedder) -> None:
    def blur(rows: Embedded) -> np.ndarray:
        blurred: np.ndarray = rows.vectors * np.float32(1.0005)
        return blurred

    found = recomputed(fill(tmp_path, embedder, blur), embedder, 1.0)
    assert found.ok
    assert found.bit_equal < found.recomputed == 40


def test_the_sample_is_the_same_each_time_and_never_empty(
    tmp_path: Path, embedder: Embedder
) -> None:
    dataset = fill(tmp_path, embedder, lambda rows: -rows.vectors)
    assert recomputed(dataset, embedder, 1e-9).recomputed == 1
    some = [recomputed(dataset, embedder, 0.3).problems for _ in range(2)]
    assert some[0] == some[1]
    assert 1 < recomputed(dataset, embedder, 0.3).recomputed < 40


def test_an_item_that_has_no_vector_now_is_counted(tmp_path: Path) -> None:
    class Blind(FakeEngine):
        def __call__(self, inputs: np.ndarray) -> np.ndarray:
            return np.zeros((len(inputs), self.card.dim), np.float32)

    with Embedder(FakeEngine(CARD), Settings(decoders=2)) as embedder:
        dataset = fill(tmp_path, embedder)
    with Embedder(Blind(CARD), Settings(decoders=2)) as embedder:
        found = recomputed(dataset, embedder, 1.0)
    assert (found.recomputed, found.not_recomputed, found.ok) == (0, 40, True)


def test_a_model_is_loaded_from_its_card(tmp_path: Path) -> None:
    model = write_fake_engine(tmp_path, "txt", dim=16)
    settings = Settings(model=str(model), decoders=2)
    with Embedder.from_settings(settings) as embedder:
        dataset = fill(tmp_path / "dataset", embedder)
    found = clipfleet.verify(dataset.root, recompute=1.0, model=model, settings=settings)
    assert found.bit_equal == 40
    (tmp_path / "other").mkdir()
    other = write_fake_engine(tmp_path / "other", "txt", dim=8)
    with pytest.raises(DatasetMismatchError, match="holds vectors of"):
        clipfleet.verify(dataset.root, recompute=1.0, model=other, settings=settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"recompute": 0.1},
        {"model": "model.onnx"},
        {"recompute": 2.0, "model": "model.onnx"},
        {"recompute": 0.1, "model": "model.onnx", "quick": True},
    ],
)
def test_a_wrong_call_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="recompute"):
        clipfleet.verify("nowhere", **wrong)  # type: ignore[arg-type]
