"""The guide's extraction with TensorRT: its two files of features, beside the vectors of `embed`.

    TRT_PYTHON -m pytest -s -v -c /dev/null --rootdir . --import-mode=importlib \
        -p no:cacheprovider tests/gpu/test_tensorrt_extract.py

TEST_MODEL and TEST_ENGINES are as in test_tensorrt_run.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt")

from examples.demo.muge import write
from examples.demo.scenes import close_pictures
from tests.gpu.support import ROOT, clipfleet, vectors
from tests.gpu.test_tensorrt_run import Engines, engine_of

__all__ = ["engine_of"]  # a fixture

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

PICTURES = 200
RUN_S = 240.0


def test_the_features_are_the_vectors_of_embed(engine_of: Engines, tmp_path: Path) -> None:
    pictures, texts = tmp_path / "valid_imgs.tsv", tmp_path / "valid_texts.jsonl"
    write(tmp_path, close_pictures(count=PICTURES, seed=3))
    quoted = {"text_id": 9999, "text": "A “LARGE” Red Circle", "image_ids": [1]}
    with texts.open("a", encoding="utf-8") as file:
        file.write(json.dumps(quoted, ensure_ascii=False) + "\n")
    engines = {tower: engine_of(tower)[1] for tower in ("img", "txt")}
    command = [sys.executable, "-m", "clipfleet.convert.extract_features_tensorrt"]
    command += ["--extract-image-feats", "--extract-text-feats"]
    command += ["--image-data", str(pictures), "--text-data", str(texts)]
    command += ["--tensorrt-image-model", str(engines["img"])]
    command += ["--tensorrt-text-model", str(engines["txt"])]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=RUN_S
    )
    assert run.returncode == 0, run.stderr
    assert f"{PICTURES} image features are stored in" in run.stdout
    assert f"{2 * PICTURES + 1} text features are stored in" in run.stdout
    assert not list(tmp_path.glob("*.partial"))

    # The names that the guide's own scripts write and read.
    files = {"img": "valid_imgs.img_feat.jsonl", "txt": "valid_texts.txt_feat.jsonl"}
    id_names = {"img": "image_id", "txt": "text_id"}
    own: dict[str, tuple[str, ...]] = {"img": (), "txt": ("--text-normalisation", "evaluation")}
    for tower, source in (("img", pictures), ("txt", texts)):
        lines = [json.loads(line) for line in (tmp_path / files[tower]).read_text().splitlines()]
        assert all(list(line) == [id_names[tower], "feature"] for line in lines)
        features = {str(line[id_names[tower]]): line["feature"] for line in lines}
        assert len(features) == len(lines)
        out = tmp_path / tower
        options = ("--tower", tower, "--dtype", "float32", *own[tower])
        model = engines[tower]
        assert clipfleet("embed", source, out, "--model", model, *options, timeout_s=RUN_S)["ok"]
        ids, expected = vectors(out)
        found = np.array([features[id_] for id_ in ids], np.float32)
        assert len(features) == len(ids)
        assert np.array_equal(found, expected), np.abs(found - expected).max()
