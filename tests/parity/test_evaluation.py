"""Recall and prediction files are those of the original's four scripts, on the same features."""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clipfleet.retrieval.evaluation.evaluate import evaluate
from clipfleet.retrieval.evaluation.gold import read_gold
from clipfleet.storage.sources.normalisation import normalise_text
from tests.vector_sets import HeldVectors, flipped, sign_vectors

IMAGES, TEXTS = 260, 400
FIRST_TEXT = 8000  # ids of texts and images differ

Pairs = tuple[NDArray[np.float16], NDArray[np.float16]]


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts call `.cuda()` on every tensor."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)


def script_of(name: str) -> Path:
    spec = importlib.util.find_spec("cn_clip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "eval" / f"{name}.py"


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    script = script_of(name)
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def features(path: Path, ids: range, vectors: NDArray[np.float16], *, kind: str) -> Path:
    rows = vectors.astype(np.float32).tolist()
    lines = [{f"{kind}_id": id_, "feature": row} for id_, row in zip(ids, rows, strict=True)]
    return write_lines(path, lines)


def exact_pairs() -> Pairs:
    """Vectors of which many have equal cosines: the order of ties decides."""
    images = sign_vectors(IMAGES, seed=0)
    return images, flipped(images[np.arange(TEXTS) % IMAGES], 0.36, seed=1)


def random_pairs() -> Pairs:
    generator = np.random.default_rng(2)
    images = generator.standard_normal((IMAGES, 96))
    texts = images[np.arange(TEXTS) % IMAGES] + 3.2 * generator.standard_normal((TEXTS, 96))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts)]
    return unit[0].astype(np.float16), unit[1].astype(np.float16)


def scores(path: Path) -> dict[str, float]:
    result = json.loads(path.read_text())
    assert result["success"], result
    found: dict[str, float] = result["scoreJson"]
    return found


@pytest.mark.parametrize("pairs", [exact_pairs, random_pairs])
def test_recalls_and_predictions_are_those_of_the_original(
    pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, texts = pairs()
    image_ids, text_ids = range(IMAGES), range(FIRST_TEXT, FIRST_TEXT + TEXTS)
    lines = [
        {"text_id": t, "text": "t", "image_ids": [n % IMAGES, (n * 7) % IMAGES]}
        for n, t in enumerate(text_ids)
        if n % 11
    ]  # some texts and images are not scored
    gold = write_lines(tmp_path / "test_texts.jsonl", lines)
    of_images = features(tmp_path / "imgs.jsonl", image_ids, images, kind="image")
    of_texts = features(tmp_path / "txts.jsonl", text_ids, texts, kind="text")
    theirs, theirs_tr = tmp_path / "theirs.jsonl", tmp_path / "theirs_tr.jsonl"
    both = ("--image-feats", of_images, "--text-feats", of_texts, "--eval-batch-size", 100)
    run_script(monkeypatch, "make_topk_predictions", *both, "--output", theirs)
    run_script(monkeypatch, "make_topk_predictions_tr", *both, "--output", theirs_tr)
    run_script(monkeypatch, "transform_ir_annotation_to_tr", "--input", gold)
    gold_tr, score, score_tr = (tmp_path / f"{n}" for n in ("test_texts.tr.jsonl", "s", "s_tr"))
    run_script(monkeypatch, "evaluation", gold, theirs, score)
    run_script(monkeypatch, "evaluation_tr", gold_tr, theirs_tr, score_tr)

    found = evaluate(
        HeldVectors(image_ids, images),
        HeldVectors(text_ids, texts, tower="txt"),
        read_gold(gold),
        predictions=tmp_path / "ours",
    )

    for ours, original in ((found.text_to_image, score), (found.image_to_text, score_tr)):
        figures = {**ours.to_json(), "score": ours.mean_recall}
        assert {name: figures[name] for name in scores(original)} == scores(original)
        assert 10 < ours.r1 < ours.r5 < ours.r10 < 99, "the figures would be equal by chance"
    if pairs is exact_pairs:  # otherwise two products of libraries round differently
        assert [Path(path).read_text() for path in found.predictions] == [
            theirs.read_text(),
            theirs_tr.read_text(),
        ]
    # The original's evaluation takes our files.
    run_script(monkeypatch, "evaluation", gold, found.predictions[0], score)
    run_script(monkeypatch, "evaluation_tr", gold_tr, found.predictions[1], score_tr)
    assert scores(score)["r10"] == found.text_to_image.r10
    assert scores(score_tr)["r10"] == found.image_to_text.r10
    assert found.notes == ()


def test_texts_are_normalised_as_the_original_does() -> None:
    """The function is taken out of its module, which needs lmdb and torchvision."""
    tree = ast.parse(script_of("data").read_text(encoding="utf-8"))
    [function] = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "_preprocess_text"
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), "data.py", "exec"), names)  # noqa: S102
    for text in ("“红色”的ＣＡＲ", "ÀÉİ ß", "‘a’ „b“ «C»", "plain", ""):
        assert normalise_text(text) == names["_preprocess_text"](text)
