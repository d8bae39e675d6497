"""Kernels of a profile, by kind; and the program that is profiled."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import kernels, one_call
from bench.gpu.kernels import main
from clipfleet.card import BatchProfile, write_card
from workers.engines.fake import fake_card

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
    assert main([str(profile(tmp_path / "p.csv")), "--json", str(kept)]) == 0
    printed = capsys.readouterr().out
    lines = dict(line.strip("| ").split(" | ") for line in printed.splitlines()[2:])
    assert lines["matrix products of single blocks"] == "1, 10, 50.0 %"
    assert lines["matrix products of blocks in clusters"] == "1, 5, 25.0 %"
    assert lines["slicing and transposing query, key and value"] == "1, 3, 15.0 %"
    assert lines["LayerNorm, and the sums before it"] == "1, 1, 5.0 %"
    assert lines["GELU"] == "–"
    assert lines["all"] == "5, 20, 100.0 %"
    assert main([str(kept)]) == 0
    assert capsys.readouterr().out == printed.replace("| p: ", "| kept: ")
    assert json.loads(kept.read_text())["mha0"] == {"count": 3, "ns": 3000}


def test_what_is_no_profile_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = profile(tmp_path / "other.csv", metric="sm__cycles_active.avg")
    assert main([str(other)]) == 2
    assert "has sm__cycles_active.avg in ns: give gpu__time_duration.sum" in capsys.readouterr().err
    empty = tmp_path / "empty.csv"
    empty.write_text("==PROF== No kernels were profiled.")
    assert main([str(empty)]) == 2
    assert "has no kernels: write it with ncu --csv" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(other), str(empty), "--json", str(tmp_path / "x.json")])


def test_the_table_of_the_documentation_is_of_the_kept_profiles() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "performance.md").read_text(encoding="utf-8")
    folder = root / "bench/gpu/results/kernels"
    profiles = {
        name: kernels.read(folder / f"{name}.json") for name in ("three", "two", "one", "three-b32")
    }
    assert kernels.SECTION.insert(page, kernels.table(profiles)) == page


def test_one_call_has_no_graph_and_one_context(
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

    monkeypatch.setattr(one_call, "TensorRTEngine", Engine)
    card = replace(
        fake_card("txt"),
        architecture="ViT-B-16",
        engine="e.trt",
        profile=BatchProfile(smallest=32, optimum=32, largest=32),
    )
    (tmp_path / "e.trt").write_bytes(b"engine")
    write_card(card, tmp_path / "e.trt.card.json")
    one_call.main([str(tmp_path / "e.trt")])
    shape = (64, card.context_length)
    assert seen == {"contexts": 1, "cuda_graphs": False, "shape": shape, "closed": True}
