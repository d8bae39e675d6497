"""Both towers of a source: what each run gets, and what is refused before the first one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import clipfleet
from clipfleet.architectures import TOWERS
from clipfleet.errors import CardError, SourceError, UsageError
from clipfleet.model_card import card_path, load_card, write_card
from clipfleet.settings import Settings
from clipfleet.tasks.submit.submit import Submission
from clipfleet.workers.engines.fake import write_fake_engine


def submission(dataset: str) -> Submission:
    return Submission(dataset=dataset, job=None, planned_items=0, planned_shards=0, queued_shards=0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for tower in TOWERS:
        write_fake_engine(folder, tower)
    return folder


def test_each_tower_gets_its_own_options_and_a_dataset_of_its_own(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "a.csv").write_text("sku,photo,title\n1,a.jpg,a cat\n")
    calls: list[dict[str, Any]] = []

    def run(source: str, out: str, **options: Any) -> Submission:
        calls.append(options)
        return submission(out)

    both = clipfleet.both_towers(
        run,
        str(tmp_path / "a.csv"),
        "vectors",
        model=model,
        id_column="sku",
        uri_column="photo",
        text_column="title",
        text_normalisation="evaluation",
        moved_from="/old",
        refresh=True,
        settings=Settings(decode="gpu"),
    )
    assert both.lines()[0].startswith("vectors/img: ")
    assert [both.img.dataset, both.txt.dataset] == ["vectors/img", "vectors/txt"]
    assert both.to_json()["txt"]["dataset"] == "vectors/txt"
    images, texts = calls
    assert [images.pop("settings").decode, texts.pop("settings").decode] == ["gpu", "exact"]
    shared = {"model": model, "id_column": "sku", "refresh": True}
    assert images == {**shared, "tower": "img", "uri_column": "photo", "moved_from": "/old"}
    assert texts == {
        **shared,
        "tower": "txt",
        "text_column": "title",
        "text_normalisation": "evaluation",
    }


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "id,text\n1,a cat\n", "no column 'uri'"),
        ("a.csv", "id,uri\n1,a.jpg\n", "no column 'text'"),
        ("a.csv", "uri,text\na.jpg,a cat\n", "no column 'id'"),
        ("a.txt", "a.jpg\n", "one a line: both towers need a table"),
    ],
)
def test_a_source_of_one_tower_is_refused_before_anything_is_embedded(
    tmp_path: Path, model: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=reason):
        clipfleet.both_towers(clipfleet.submit, tmp_path / name, tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def test_a_model_without_both_towers_of_one_checkpoint_is_refused(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "a.csv").write_text("id,uri,text\n1,a.jpg,a cat\n")
    given = clipfleet.submit, tmp_path / "a.csv", tmp_path / "out"
    card, engine = load_card(next(model.glob("*txt*.card.json")))
    with pytest.raises(UsageError, match="both towers need a model folder"):
        clipfleet.both_towers(*given, model=engine)
    write_card(replace(card, checkpoint_sha256="d" * 64), card_path(engine))
    with pytest.raises(CardError, match="2 checkpoints for 2 towers: expected both towers of one"):
        clipfleet.both_towers(*given, model=model)


def test_a_dataset_is_no_place_for_two(tmp_path: Path, model: Path) -> None:
    (tmp_path / "a.csv").write_text("id,uri,text\n1,a.jpg,a cat\n")
    (tmp_path / "dataset.json").touch()
    with pytest.raises(UsageError, match="is a dataset of one tower"):
        clipfleet.both_towers(clipfleet.submit, tmp_path / "a.csv", tmp_path, model=model)
