"""`clipfleet muge` on the demo's pictures in the form of MUGE: the whole run of the guide."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

import clipfleet
from clipfleet.retrieval.evaluation.overlap import top_k_overlap
from examples.demo.muge import write
from examples.demo.scenes import close_pictures
from tests.integration.support import run_command

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to" / "muge.md"
DEMO = ROOT / "examples" / "demo" / "model"
COUNT = 30
ONE_THREAD = {"CLIPFLEET_ENGINE_THREADS": "1", "CLIPFLEET_DECODERS": "1"}  # others wait by spinning


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the data and a model, which has a checkpoint and float32 engines."""
    write(tmp_path / "datasets" / "MUGE", close_pictures(count=COUNT, seed=4))
    model = tmp_path / "models" / "vit-b-16"
    model.mkdir(parents=True)
    for path in (*DEMO.glob("demo.*.fp32.onnx*"), DEMO / "demo.pt"):
        (model / path.name).symlink_to(path)
    return tmp_path


def test_the_commands_of_the_guide_compare_what_each_environment_ran(folder: Path) -> None:
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    whole, onnx = (line.split()[1:] for line in lines if line.startswith("clipfleet muge"))
    run = partial(run_command, cwd=folder, environment=ONE_THREAD)
    first = run(*onnx, "--json")
    assert first.returncode == 0, first.stderr
    reasons = [row["not_run"] for row in json.loads(first.stdout)["rows"]]
    assert reasons[:2] == ["not in --runtime", ""]

    both = run(*whole, "--json")
    assert both.returncode == 0, both.stderr
    result = json.loads(both.stdout)
    assert result["reference"] == "PyTorch fp32"
    assert result["largest_difference"] <= result["tolerance"]
    figures = {row["runtime"]: row["figures"] for row in result["rows"] if not row["not_run"]}
    assert list(figures) == ["PyTorch fp32", "ONNX fp32"]
    found = figures["ONNX fp32"]["text_to_image"]
    assert found[0] > 50
    assert found[2] == 100  # of the ten nearest

    out = folder / "datasets" / "MUGE" / "clipfleet-valid"
    pytorch, engine = (clipfleet.Dataset(out / name / "img") for name in ("pytorch", "onnx-fp32"))
    assert (pytorch.model.runtime, engine.model.runtime) == ("torch", "onnxruntime")
    assert pytorch.ids == engine.ids == tuple(str(n) for n in range(1, COUNT + 1))
    assert top_k_overlap(pytorch.vectors(), engine.vectors(), 5) > 0.98
    assert clipfleet.verify(out / "pytorch" / "txt").ok
    predictions = (out / "pytorch" / "predictions.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["image_ids"]) for line in predictions] == [10] * (2 * COUNT)

    (folder / "datasets" / "MUGE" / "valid_texts.jsonl").write_text(
        '{"text_id": 2, "text": "another", "image_ids": [1]}\n'
    )
    other = run(*onnx)
    assert other.returncode == 2
    assert "name another --out" in other.stderr


def test_a_damaged_picture_is_a_miss_and_the_exit_code_says_so(folder: Path) -> None:
    data = folder / "datasets" / "MUGE"
    with (data / "valid_imgs.tsv").open("a") as file:
        file.write("900\tabcde\n")  # no base64
    with (data / "valid_texts.jsonl").open("a") as file:
        file.write('{"text_id": 900, "text": "a red ring", "image_ids": [900]}\n')
    command = ("muge", str(data), "--model", "models/vit-b-16", "--runtime", "pytorch", "--json")
    done = run_command(*command, cwd=folder, environment=ONE_THREAD)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert not result["ok"]
    assert result["rows"][0]["failed"] == 1
    assert result["rows"][0]["figures"]["text_to_image"][2] == 100 * 2 * COUNT / (2 * COUNT + 1)
    [row] = clipfleet.Dataset(data / "clipfleet-valid" / "pytorch" / "img").errors()
    assert (row.id, row.error) == ("900", "decode_failed")
