"""Text normalisation: an option of text sources, which a dataset records and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfleet.errors import DatasetError, DatasetMismatchError, UsageError
from clipfleet.items import TextNormalisation
from clipfleet.model_card import load_card
from clipfleet.settings import load_settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.base import Source
from clipfleet.tasks.submit.inputs import open_inputs
from clipfleet.tasks.submit.submit import create_planned
from clipfleet.workers.engines.fake import write_fake_engine

TEXTS = [{"id": "1", "text": "“Red” CAR"}, {"id": "2", "text": "一只猫"}]


def opened(
    folder: Path, normalisation: TextNormalisation, *, source: object = TEXTS
) -> tuple[Source, Path]:
    return open_inputs(
        source,  # type: ignore[arg-type]
        write_fake_engine(folder, "txt"),
        find=lambda model, _: model,
        tower=None,
        options={"text_normalisation": normalisation},
    )


def create(folder: Path, normalisation: TextNormalisation) -> tuple[Dataset, Source]:
    source, card = opened(folder, normalisation)
    made = create_planned(str(folder / "out"), load_card(card)[0], load_settings(), source)
    return made, source


def test_the_plan_has_the_changed_texts_of_a_table(tmp_path: Path) -> None:
    lines = [json.dumps(item) for item in TEXTS]
    table = tmp_path / "texts.jsonl"
    table.write_text("\n".join(lines), encoding="utf-8")
    source, _ = opened(tmp_path, "evaluation", source=table)
    dataset, _ = create(tmp_path, "evaluation")

    job = plan_items(dataset, source, 10)

    assert job is not None
    [shard] = shards(job)
    assert [item.text for item in PlanReader(dataset).read(shard)] == ['"red" car', "一只猫"]
    assert source.location(2) == f"{table}, line 2"
    assert (source.folder, str(table) in source.description) == (str(tmp_path), True)


@pytest.mark.parametrize(("own", "other"), [("none", "evaluation"), ("evaluation", "none")])
def test_texts_of_two_kinds_do_not_mix(
    own: TextNormalisation, other: TextNormalisation, tmp_path: Path
) -> None:
    create(tmp_path, own)
    fields = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert fields.get("text_normalisation") == (None if own == "none" else own)
    assert create(tmp_path, own)[0].info.text_normalisation == own
    with pytest.raises(DatasetMismatchError, match=f"use --text-normalisation {own}, or choose"):
        create(tmp_path, other)


def test_an_unknown_normalisation_is_of_a_newer_version(tmp_path: Path) -> None:
    dataset, _ = create(tmp_path, "evaluation")
    path = tmp_path / "out" / "dataset.json"
    path.write_text(path.read_text().replace('"evaluation"', '"stemmed"'))
    with pytest.raises(DatasetError, match="text_normalisation 'stemmed'"):
        Dataset.open(dataset.root)


def test_images_have_no_text_normalisation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is read for the img tower: leave it out"):
        open_inputs(
            [{"id": "1", "uri": "/a.jpg"}],
            write_fake_engine(tmp_path, "img"),
            find=lambda model, _: model,
            tower=None,
            options={"text_normalisation": "evaluation"},
        )
