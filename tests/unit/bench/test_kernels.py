"""Kernels of a profile, by kind; and the program that is profiled."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import kernels, profiled_calls
from bench.gpu.kernels import main
from clipfleet.model_card import BatchProfile, write_card
from clipfleet.workers.engines.fake import fake_card

HEAD = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
CALL = (
    ("sm80_xmma_gemm_f16f16_tilesize128x64x64_kernel_trt", "10,000"),
    ("sm90_xmma_gemm_f16f16_tilesize64x64x64_cgasize2x2x1_kernel_trt", "5,000"),
    ("__myl_bb0_1_SliResTraResMov", "3,000"),
    ("__myl_bb0_2_ResTraConAddCasMeaSubMul", "1,000"),
    ("mha0", "1,000"),
)


def profile(path: Path, *, calls: int = 3, metric: str = "gpu__time_duration.sum") -> Path:
    rows = [
        f'"{number}","{name}","{metric}","ns","{ns}"'
        for number, (name, ns) in enumerate(CALL * calls)
    ]
    text = "\n".join(["==PROF== Connected to process 1", HEAD, *rows])
    path.write_text(text, encoding="utf-8")
    return path


def test_a_profile_becomes_a_table_of_one_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.json"
    assert main([f"mine={profile(tmp_path / 'p.csv')}", "--json", str(kept)]) == 0
    printed = capsys.readouterr().out
    lines = dict(line.strip("| ").split(" | ") for line in printed.splitlines()[2:])
    assert lines["matrix products of single blocks"] == "1, 10, 50.0 %"
    assert lines["matrix products of blocks in clusters"] == "1, 5, 25.0 %"
    assert lines["slicing and transposing query, key and value"] == "1, 3, 15.0 %"
    assert lines["LayerNorm, and the sums before it"] == "1, 1, 5.0 %"
    assert lines["GELU by itself"] == "–"
    assert lines["all"] == "5, 20, 100.0 %"
    assert main([f"mine={kept}"]) == 0
    assert capsys.readouterr().out == printed
    kept_json = json.loads(kept.read_text())
    assert (kept_json["calls"], kept_json["kernels"]["mha0"]) == (3, {"count": 3, "ns": 3000})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "==PROF== No kernels were profiled.", "has no kernels: write it with ncu --csv"),
        ("p.csv", '"ID","Name"\n"0","x"', "has no column 'Kernel Name': write it with ncu --csv"),
        ("p.csv", f'{HEAD}\n"0","k","cycles","ns","1"', "cycles in ns: give gpu__time_duration"),
        ("p.csv", f'{HEAD}\n"0","k","gpu__time_duration.sum","ns","x"', "invalid literal"),
        ("p.json", "[]", "is no profile that --json wrote"),
        ("p.json", '{"calls": 3, "kernels": {"k": 1}}', "is no profile that --json wrote"),
    ],
)
def test_what_is_no_profile_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    assert main([f"mine={tmp_path / name}"]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert str(tmp_path / name) in errors


def test_a_kernel_that_is_no_part_of_a_call_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = profile(tmp_path / "p.csv")
    with path.open("a") as file:
        file.write('\n"99","loads_once","gpu__time_duration.sum","ns","5"')
    assert main([f"mine={path}"]) == 2
    assert "loads_once ran 1 times, in 3 like calls" in capsys.readouterr().err


def test_several_profiles_have_names_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = profile(tmp_path / "p.csv")
    for wrong in (["a=1", "a=2"], [str(path)], [f"a={path}", f"b={path}", "--json", "x.json"]):
        with pytest.raises(SystemExit):
            main(wrong)
    errors = capsys.readouterr().err
    assert "each name stands for one path: a, a" in errors
    assert "is not NAME=PATH" in errors
    assert "--json keeps one file's kernels: 2 files are given" in errors


def test_the_table_of_the_documentation_is_of_the_kept_profiles() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    folder = root / "bench/gpu/results/kernels"
    profiles = {
        name: kernels.read(folder / f"{name.replace(', batch ', '-b')}.json")
        for name in ("three", "two", "one", "three, batch 32")
    }
    assert kernels.SECTION.insert(page, kernels.table(profiles)) == page


def test_profiled_calls_have_no_graph_and_one_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Engine:
        def __init__(self, *_: Any, **options: Any) -> None:
            seen.update(options)

        def __enter__(self) -> "Engine":
            return self

        def __exit__(self, *_: object) -> None:
            seen["closed"] = True

        def __call__(self, inputs: np.ndarray[Any, Any]) -> None:
            seen["shape"] = inputs.shape

    monkeypatch.setattr(profiled_calls, "TensorRTEngine", Engine)
    card = replace(
        fake_card("txt"),
        architecture="ViT-B-16",
        engine="e.trt",
        profile=BatchProfile(smallest=32, optimum=32, largest=32),
    )
    (tmp_path / "e.trt").write_bytes(b"engine")
    write_card(card, tmp_path / "e.trt.card.json")
    profiled_calls.main([str(tmp_path / "e.trt")])
    shape = (64, card.context_length)
    assert seen == {"contexts": 1, "cuda_graphs": False, "shape": shape, "closed": True}
