"""Every command of docs/how-to/evaluate.md, on pictures and captions of the demo."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import clipfleet
from clipfleet.cli.main import app
from clipfleet.items import Item
from clipfleet.model_card import load_card
from clipfleet.retrieval.evaluation.comparison import MIN_COSINE, MIN_OVERLAP, MIN_SHARE
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from examples.demo.scenes import pictures, render
from tests.integration.support import forget_settings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "how-to" / "evaluate.md").read_text(encoding="utf-8")
MODEL = ROOT / "examples" / "demo" / "model"
COUNT = 24


def embed_pictures(root: Path, precision: str, *, exchanged: bool = False) -> None:
    """Write the pictures' vectors to a dataset, without workers; or each the next one's vector."""
    card_path = MODEL / f"demo.img.{precision}.onnx.card.json"
    card, _ = load_card(card_path)
    drawn = [render(picture) for picture in pictures(count=COUNT, seed=3)]
    with clipfleet.load_model(card_path) as model:
        vectors = np.roll(model.encode_images(drawn), int(exchanged), axis=0)
    dataset = Dataset.create(str(root), card, kind="planned", embedding_dtype="float16")
    items = [Item(id=str(n), uri=f"/drawn/{n}.jpg") for n in range(COUNT)]
    job = plan_items(dataset, ListSource(items), COUNT)
    assert job is not None
    [shard] = shards(job)
    sizes = [image.size for image in drawn]
    embedded = Embedded(items=items, vectors=vectors, sizes=sizes, failures=[])
    commit(dataset, shard.name, embedded, card=card, worker="w")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, the pictures' datasets and the captions with their gold pairs."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "models").mkdir()
    (folder / "models" / "vit-b-16").symlink_to(MODEL)
    lines = [
        {"text_id": 100 * language + n, "text": text, "image_ids": [n]}
        for n, picture in enumerate(pictures(count=COUNT, seed=3))
        for language, text in enumerate((picture.chinese, f"“{picture.english.upper()}”"))
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "test_texts.jsonl").write_text(text, encoding="utf-8")
    embed_pictures(folder / "vectors" / "images", "fp32")
    embed_pictures(folder / "vectors" / "images-fp16", "fp16")
    embed_pictures(folder / "vectors" / "exchanged", "fp32", exchanged=True)
    return folder


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_every_command_of_the_guide_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)
    monkeypatch.chdir(folder)
    printed: list[dict[str, object]] = []
    for command in commands():
        result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
        printed.append(json.loads(result.stdout))

    embedded, *evaluations, compared, with_recall = printed
    plain = Dataset.open("vectors/texts")
    assert plain.info.text_normalisation == "evaluation"
    texts = clipfleet.Dataset("vectors/texts").to_arrow()["text"].to_pylist()
    assert texts == [text.lower() for text in texts]
    assert any(text.startswith('"') for text in texts)
    # The texts of the dataset and those that a model embeds for the evaluation are the same.
    of_dataset, of_file, with_files = evaluations
    assert of_dataset["text_to_image"] == of_file["text_to_image"] == with_files["text_to_image"]
    assert of_dataset["image_to_text"] == of_file["image_to_text"]
    assert with_files["notes"] == []
    lines = Path("predictions/tr_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == list(range(COUNT))
    assert compared["verdict"] == "same space"
    assert with_recall["recall_a"] is not None
    assert embedded


def test_the_guide_has_the_rule_of_the_verdict() -> None:
    plain = " ".join(GUIDE.split())
    assert f"if {MIN_SHARE:.0%} of the shared ids".replace("%", " %") in plain
    assert f"a cosine of {MIN_COSINE} or more" in plain
    assert f"nearest neighbours overlap by {MIN_OVERLAP} or more" in plain


def test_a_miss_and_another_space_are_exit_code_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs after the commands."""
    forget_settings(monkeypatch)
    monkeypatch.chdir(folder)
    more = Path("more.jsonl")
    more.write_text(
        Path("test_texts.jsonl").read_text(encoding="utf-8")
        + '{"text_id": 999, "text": " ", "image_ids": [0]}\n',
        encoding="utf-8",
    )
    options = ["--images", "vectors/images", "--texts", "more.jsonl", "--model", "models/vit-b-16"]
    missed = CliRunner().invoke(app, ["evaluate", *options], catch_exceptions=False)
    assert missed.exit_code == 1
    assert "gold texts without a vector, counted as misses: 1 failed, 0 are not" in missed.stdout
    other = ["compare", "vectors/images", "vectors/exchanged"]
    compared = CliRunner().invoke(app, other, catch_exceptions=False)
    assert compared.exit_code == 1
    assert compared.stdout.startswith("different space: ")
