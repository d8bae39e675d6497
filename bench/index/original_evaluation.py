"""Chinese-CLIP's own evaluation, which needs a GPU, on the CPU: `cuda()` changes nothing here.

    python -m bench.index.original_evaluation IMAGES.jsonl TEXTS.jsonl GOLD.jsonl OUT

The files are in the guide's format. OUT gets the predictions of both directions and their scores:
`predictions.jsonl`, `tr_predictions.jsonl`, `score.json` and `tr_score.json`.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from unittest import mock

import torch


def main() -> None:
    images, texts, gold, out = map(Path, sys.argv[1:])
    features = ("--image-feats", images, "--text-feats", texts, "--output")
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):
        _run("make_topk_predictions", *features, out / "predictions.jsonl")
        _run("make_topk_predictions_tr", *features, out / "tr_predictions.jsonl")
    _run("transform_ir_annotation_to_tr", "--input", gold)
    mirrored = gold.with_name(f"{gold.stem}.tr.jsonl")
    _run("evaluation", gold, out / "predictions.jsonl", out / "score.json")
    _run("evaluation_tr", mirrored, out / "tr_predictions.jsonl", out / "tr_score.json")


def _run(name: str, *arguments: object) -> None:
    spec = importlib.util.find_spec("cn_clip")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("cn_clip is not installed: pip install --no-deps cn_clip")
    script = Path(spec.submodule_search_locations[0]) / "eval" / f"{name}.py"
    with mock.patch.object(sys, "argv", [str(script), *map(str, arguments)]):
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
