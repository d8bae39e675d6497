"""The pipeline's figures: shares, tables, merged runs, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.machine import Machine
from bench.gpu.pipeline.__main__ import begun
from bench.gpu.pipeline.figures import (
    CAPTIONS,
    EAGER,
    Figure,
    Kind,
    Session,
    add_figure,
    read_figures,
    read_session,
    write_session,
)
from bench.gpu.pipeline.plot import picture
from bench.gpu.pipeline.report import PLOT, SECTION, main, merge, report
from bench.gpu.pipeline.shares import Shares
from bench.gpu.pipeline.sources import Source
from bench.gpu.pipeline.table import table
from tests.unit.bench.support import MACHINE

B32 = "b32.img.fp16.trt"
SIZE = "500x375"


def figure(kind: Kind, items_s: float | None, **others: Any) -> Figure:
    return Figure(kind=kind, items_s=items_s, **others)


FIGURES = [
    figure("engine", 9000, engine=B32),
    figure("decoders", 10_000, inputs=SIZE),
    figure("decoders", 1000, inputs="1920x1080"),
    figure("embed", 8100, inputs=SIZE, engine=B32, whole_items_s=2105, details="40,000 items"),
    figure("embed", 950, inputs="1920x1080", engine=B32),
    figure("embed", 3000, inputs="1920x1080", engine=B32, decode="gpu"),
    figure("embed", 15_390, inputs=SIZE, engine=B32, gpus=2),
    figure("engine", 5000, engine=EAGER),
    figure("dataloader", 2700, inputs=SIZE, engine=EAGER),
    figure("dataloader", None, inputs="1920x1080", engine=EAGER, missing="no torch"),
]


def test_an_embed_is_compared_with_the_slower_of_its_engine_and_its_decoders() -> None:
    shares = Shares(FIGURES)
    assert [shares.of_slower_part(one) for one in FIGURES[3:7]] == pytest.approx(
        [8100 / 9000, 950 / 1000, 3000 / 9000, 15_390 / 10_000]
    )


def test_texts_are_compared_with_their_engine_and_an_unknown_part_gives_no_share() -> None:
    texts_embed = figure("embed", 24_000, inputs=CAPTIONS, engine="b32.txt")
    shares = Shares([figure("engine", 30_000, engine="b32.txt"), texts_embed])
    assert shares.of_slower_part(texts_embed) == pytest.approx(0.8)
    photos_embed = figure("embed", 24_000, inputs=SIZE, engine="b32.txt")
    assert shares.of_slower_part(photos_embed) is None
    assert Shares([]).idle(texts_embed) is None


def test_a_gpu_is_idle_while_its_engine_would_have_made_more() -> None:
    shares = Shares(FIGURES)
    idle = [shares.idle(one) for one in FIGURES]
    assert idle[3:7] == pytest.approx([0.1, 1 - 950 / 9000, 1 - 3000 / 9000, 1 - 15_390 / 18_000])
    assert idle[8] == pytest.approx(1 - 2700 / 5000)
    assert idle[0] is idle[1] is idle[9] is None
    assert shares.idle(figure("embed", 9900, inputs=SIZE, engine=B32)) == 0


def test_rates_are_compared_with_the_dataloader_on_the_same_photos_and_with_one_gpu() -> None:
    shares = Shares(FIGURES)
    assert [shares.of_dataloader(one) for one in FIGURES[3:5]] == [3.0, None]
    assert [shares.of_one_gpu(one) for one in (FIGURES[3], FIGURES[6])] == [None, 1.9]


def test_a_table_has_a_line_for_each_figure_and_the_reason_for_a_missing_one() -> None:
    lines = table(FIGURES).splitlines()
    assert len(lines) == 2 + len(FIGURES)
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| `clipfleet embed` | b32.img.fp16.trt | 500x375 | 40,000 items | 8,100 | 2,105 | 90% | "
        "3.00 | – | 10% |"
    ) in lines
    assert (
        "| PyTorch DataLoader | PyTorch eager | 1920x1080 | not measured: no torch | – | – | – | "
        "– | – | – |"
    ) in lines
    assert table(FIGURES[:1]).splitlines()[0].endswith("| items/s, steady | items/s, whole |")


def test_a_step_hands_its_figures_over_one_by_one(tmp_path: Path) -> None:
    for one in FIGURES[:2]:
        add_figure(one, tmp_path / "step.json")
    assert read_figures(tmp_path / "step.json") == FIGURES[:2]


def session(machine: Machine | None = MACHINE, **steps: list[Figure]) -> Session:
    return Session(
        date="2026-11-30", conditions="H200", machine=machine, sources=list(steps), steps=steps
    )


def test_a_run_goes_on_only_under_the_same_conditions(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    source = Source(name="500x375", path=tmp_path, count=9)
    first = begun(path, [source], MACHINE)
    first.steps["alone"] = FIGURES[:1]
    write_session(first, path)
    assert begun(path, [source], MACHINE) == first
    assert begun(path, [replace(source, count=10)], MACHINE).steps == {}
    assert begun(path, [source], replace(MACHINE, boot_id="another")).steps == {}


def test_runs_on_one_machine_make_one_table_and_a_failed_step_is_replaced() -> None:
    failed = [figure("embed", None, missing="killed")]
    other = session(replace(MACHINE, boot_id="another"), alone=FIGURES[:1])
    first, second = merge(
        [session(alone=FIGURES[:1], embed=failed), other, session(embed=FIGURES[3:4])]
    )
    assert first.figures == [FIGURES[0], FIGURES[3]]
    assert first.sources == ["alone", "embed"]
    assert second == other
    assert report([first, second]).count("| measured |") == 2
    assert len(merge(2 * [session(None, alone=FIGURES[:1])])) == 2


def test_a_step_that_was_measured_twice_on_one_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="'alone' was measured twice"):
        merge(2 * [session(alone=FIGURES[:1])])


def test_a_report_writes_tables_and_a_plot(tmp_path: Path) -> None:
    write_session(session(all=FIGURES), tmp_path / "figures.json")
    page, plot = tmp_path / "page.md", tmp_path / PLOT
    page.write_text(f"{SECTION.begin}\n{SECTION.end}\n")
    assert main([str(tmp_path / "figures.json"), "--into", str(page)]) == 0
    text = page.read_text()
    assert table(FIGURES) in text
    assert f"]({PLOT})" in text
    bars = plot.read_text().count("<rect") - 1  # and the background
    # 500x375: two embeds, DataLoader, two engines, decoders. 1920x1080: two, engine, PyTorch, one.
    assert bars == 6 + 5
    assert all(f">{words}<" in plot.read_text() for words in ("1920x1080", "8,100", "15,390"))


def test_the_documentation_has_the_kept_runs() -> None:
    root = Path(__file__).parents[3]
    files = sorted((root / "bench/gpu/results/pipeline").glob("*.json"))
    sessions = merge([read_session(path) for path in files])
    page = (root / "docs/explanation/performance.md").read_text(encoding="utf-8")
    assert SECTION.insert(page, report(sessions)) == page
    if sessions:
        plot = root / "docs/explanation" / PLOT
        assert plot.read_text(encoding="utf-8") == picture(sessions[0])
