"""Measurements become tables; measurements of several machines are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.gpu import engine_table
from bench.gpu.measurement import Cell, Measurement, read_measurements, write_measurement
from bench.gpu.merge import SECTION, main, merge
from bench.gpu.report.plot import picture
from bench.gpu.report.rows import MixedMachinesError, rows_of
from bench.gpu.report.tables import compared, contexts, limit, percentiles, report, table
from tests.unit.bench.support import MACHINE, TENSORRT, TORCH, latency, measurement


def test_two_files_of_a_row_make_one_line_of_the_table() -> None:
    assert table(rows_of([TENSORRT, TORCH])) == (
        "| architecture | tower | PyTorch eager | PyTorch CUDA graph | ONNX Runtime CUDA | "
        "TensorRT, batch 1 | TensorRT, batch 1, K contexts | TensorRT, batch 32 |\n"
        "|---|---|---|---|---|---|---|---|\n"
        "| ViT-B-16 | img | 4.000 ms, 250/s | 1.000 ms, 1,000/s | – (1) | 0.500 ms, 2,000/s | "
        "3,000/s (K=4) | 8,800/s (K=2) |\n\n"
        "Without a figure, or not whole: (1) no file ViT-B-16.img.fp16.onnx"
    )


def test_targets_are_met_or_missed_by_the_figures() -> None:
    assert compared(rows_of([TORCH, TENSORRT])).splitlines()[-1] == (
        "| ViT-B-16 | img | 8.00× (target 6.00×: met) | – (target 3.00×) | "
        "1.50× (target 1.90×: **missed**) | 1.55× | 3,000/s (target 3,000/s: met) | 3,100/s | "
        "8,800/s (target 8,700/s: met) | 2.93× |"
    )


def test_other_rows_have_no_targets() -> None:
    parts = [replace(part, tower="txt") for part in (TORCH, TENSORRT)]
    assert compared(rows_of(parts)).splitlines()[-1] == (
        "| ViT-B-16 | txt | 8.00× | – | 1.50× | 1.55× | 3,000/s | 3,100/s | 8,800/s | 2.93× |"
    )


def test_a_cell_that_is_not_whole_has_its_figure_and_its_reason() -> None:
    killed = replace(TENSORRT.cells["tensorrt-contexts"], missing="killed")
    part = replace(TENSORRT, cells={**TENSORRT.cells, "tensorrt-contexts": killed})
    text = table(rows_of([TORCH, part]))
    assert "| 3,000/s (K=4) (2) |" in text
    assert text.endswith("(2) killed")


def test_percentiles_contexts_and_the_limit_are_said() -> None:
    rows = rows_of([TORCH, TENSORRT])
    assert (
        "| ViT-B-16 | img | TensorRT, batch 32 | 32 | 100 | 4.000 | 4.100 | 4.200 | 8,000 |"
        in percentiles(rows)
    )
    assert "| TensorRT, batch 1, K contexts | K=1: 2,000, K=2: 3,100, K=4: 3,000 | 4 |" in contexts(
        rows
    )
    # 8,800 items/s · 35.127 GFLOP = 309.1 TFLOP/s of 800
    assert limit(rows).splitlines()[-1] == (
        "| ViT-B-16 | img | 35.13 | TensorRT, batch 32 | 8,800 | 309.1 | 800 | 38.6 % |"
    )


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("boot_id", {"machine": replace(MACHINE, boot_id="another")}),
        ("gpu_uuid", {"machine": replace(MACHINE, gpu_uuid="GPU-2")}),
        ("gpu", {"machine": replace(MACHINE, gpu="NVIDIA H200")}),
        ("host", {"machine": replace(MACHINE, host="another")}),
        ("driver", {"machine": replace(MACHINE, driver="570")}),
        ("session", {"session": "tuesday"}),
    ],
)
def test_a_row_of_two_machines_or_sessions_is_refused(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(MixedMachinesError, match=f"one file's {field} is"):
        rows_of([TORCH, replace(TENSORRT, **changes)])


def test_a_cell_measured_twice_is_refused() -> None:
    again = replace(TORCH, cells={"onnx": Cell(latency=latency(2.0))})
    with pytest.raises(MixedMachinesError, match="onnx is in two files"):
        rows_of([TORCH, TENSORRT, again])


def test_rows_of_different_models_of_gpu_are_refused() -> None:
    other = replace(TENSORRT, tower="txt", machine=replace(MACHINE, gpu="NVIDIA H200"))
    with pytest.raises(MixedMachinesError, match="NVIDIA H100 and NVIDIA H200"):
        rows_of([TORCH, other])


def test_rows_of_different_sessions_stand_in_the_published_order() -> None:
    parts = [
        measurement(architecture=name, tower=tower, session=f"{name} {tower}")
        for name in ("demo", "ViT-H-14", "RN50", "ViT-B-16")
        for tower in ("txt", "img")
    ]
    assert [(row.architecture, row.tower) for row in rows_of(parts)] == [
        (name, tower)
        for name in ("RN50", "ViT-B-16", "ViT-H-14", "demo")
        for tower in ("img", "txt")
    ]


def written(folder: Path, *parts: Measurement) -> list[str]:
    paths = []
    for number, part in enumerate(parts):
        path = folder / f"{number}.json"
        write_measurement(part, path)
        paths.append(str(path))
    return paths


def test_the_command_writes_tables_json_and_plot_and_into_a_page(tmp_path: Path) -> None:
    files = written(tmp_path, TORCH, TENSORRT)
    page, merged, plot = (tmp_path / name for name in ("page.md", "all.json", "plot.svg"))
    page.write_text(f"# Title\n\n{SECTION.begin}\nold figures\n{SECTION.end}\nmore\n")
    arguments = [*files, "--json", merged, "--svg", plot, "--into", page]
    assert main([str(argument) for argument in arguments]) == 0
    text = page.read_text()
    head = "Hardware: NVIDIA H100, driver 580, 16 CPU cores"
    assert text.startswith(f"# Title\n\n{SECTION.begin}\n\n{head}")
    assert text.endswith(f"{SECTION.end}\nmore\n")
    assert "old figures" not in text
    assert "](plot.svg)" in text
    assert "tensorrt 8.6.0, torch 2.11" in text
    assert read_measurements(merged) == [TORCH, TENSORRT]
    ElementTree.parse(plot)  # noqa: S314 - our own file
    assert ">8,800</text>" in plot.read_text()
    assert ">not measured</text>" in plot.read_text()
    assert main([str(merged), "--into", str(page)]) == 0  # a merged file is read again


def test_the_command_can_be_given_again_in_the_folder_that_it_wrote_to(tmp_path: Path) -> None:
    for name, part in (("torch", TORCH), ("tensorrt", TENSORRT)):
        write_measurement(part, tmp_path / f"ViT-B-16.img.{name}.json")
    for _ in range(2):
        files = sorted(tmp_path.glob("*.t*.json"))  # as in the module's first command
        arguments = [*files, "--markdown", tmp_path / "table.md", "--json", tmp_path / "all.json"]
        assert main([str(argument) for argument in arguments]) == 0
    assert len(read_measurements(tmp_path / "all.json")) == 2


def test_the_command_refuses_mixed_files_and_leaves_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path, TORCH, replace(TENSORRT, session="tuesday"))
    page = tmp_path / "page.md"
    page.write_text(f"{SECTION.begin}\nas it was\n{SECTION.end}\n")
    assert main([*files, "--into", str(page)]) == 2
    assert "one file's session is 'monday', another's 'tuesday'" in capsys.readouterr().err
    assert "as it was" in page.read_text()


def test_a_file_that_holds_something_else_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    assert main([str(tmp_path / "x.json")]) == 2
    assert "x.json holds no measurement" in capsys.readouterr().err


def test_the_figures_of_the_documentation_are_the_measured_ones() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    _, rows = merge(sorted((root / "bench/gpu/results").glob("*.t*.json")))
    assert rows
    assert SECTION.insert(page, report(rows, plot="performance.svg")) == page
    cards = sorted((root / "bench/gpu/results/engines").glob("*.card.json"))
    assert engine_table.SECTION.insert(page, engine_table.table(cards)) == page
    plot = root / "docs" / "explanation" / "performance.svg"
    assert plot.read_text(encoding="utf-8") == picture(rows)
