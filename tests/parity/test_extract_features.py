"""The guide's extraction and its LMDB: the original's own scripts, and ours, on the same data."""

from __future__ import annotations

import base64
import importlib
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lmdb")

from clipfleet.convert import extract_features_onnx
from clipfleet.items import Item
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.images.read import read_uri
from examples.demo.muge import write
from examples.demo.scenes import close_pictures
from tests.original import torchvision_stand_in

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo" / "model"
COUNT = 12
RESOLUTION = 96


def run_original(module: str, *arguments: str | Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        runpy.run_module(module, run_name="__main__", alter_sys=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's pictures as MUGE, with a text that the evaluation normalises; and their LMDB."""
    root = tmp_path_factory.mktemp("muge")
    folder = root / "datasets" / "MUGE"
    write(folder, close_pictures(count=COUNT, seed=2))
    with (folder / "valid_texts.jsonl").open("a", encoding="utf-8") as file:
        quoted = {"text_id": 99, "text": "A “LARGE” Red Circle", "image_ids": [1]}
        file.write(json.dumps(quoted, ensure_ascii=False) + "\n")
    script = "cn_clip.preprocess.build_lmdb_dataset"
    run_original(script, "--data_dir", folder, "--splits", "valid")
    models = root / "models" / "vit-b-16"
    models.mkdir(parents=True)
    for path in DEMO.glob("demo.*.fp32.onnx*"):
        for name in (path.name, path.name.replace("demo", "vit-b-16")):
            (models / name).symlink_to(path)
    return root


def pictures(location: Path) -> dict[str, bytes]:
    items: list[Item] = list(open_source(str(location), tower="img"))
    return {item.id: read_uri(item.uri or "", 1 << 20).data for item in items}


def test_the_originals_lmdb_has_the_pictures_and_texts_of_the_files(data: Path) -> None:
    folder = data / "datasets" / "MUGE"
    of_tsv, of_lmdb = pictures(folder / "valid_imgs.tsv"), pictures(folder / "lmdb" / "valid")
    assert len(of_lmdb) == COUNT
    assert of_lmdb == of_tsv
    first = (folder / "valid_imgs.tsv").read_text().splitlines()[0].split("\t")[1]
    assert of_tsv["1"] == base64.urlsafe_b64decode(first)
    places = (folder / "valid_texts.jsonl", folder / "lmdb" / "valid")
    of_jsonl, of_pairs = (list(open_source(str(place), tower="txt")) for place in places)
    assert of_pairs == of_jsonl
    assert len(of_pairs) == 2 * COUNT + 1


def features(path: Path) -> dict[int, Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    [name] = {key for line in lines for key in line} - {"feature"}
    return {line[name]: np.array(line["feature"], np.float32) for line in lines}


def test_features_are_the_originals(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torchvision_stand_in():
        original_data = importlib.import_module("cn_clip.eval.data")
    # The original knows the resolutions of its own architectures.
    monkeypatch.setattr(original_data, "fetch_resolution", lambda _: RESOLUTION)
    page = (ROOT / "docs" / "how-to" / "muge.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```sh\n(python -m .*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    flags = shlex.split(block.replace("\\\n", ""))[3:]
    outputs = Path("img_feat.jsonl"), Path("txt_feat.jsonl")

    monkeypatch.chdir(data)
    assert extract_features_onnx.main(flags) == 0
    ours = [features(path) for path in outputs]
    assert not list(Path().glob("*.partial"))
    run_original("cn_clip.eval.extract_features_onnx", *flags)
    for found, path in zip(ours, outputs, strict=True):
        expected = features(path)
        assert list(found) == list(expected)  # ties keep this order
        for id_, feature in expected.items():
            np.testing.assert_allclose(found[id_], feature, atol=2e-5)
