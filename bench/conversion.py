"""Convert random checkpoints of the published architectures: sizes, seconds, memory, parity.

    python bench/conversion.py --out conversion.md
    python bench/conversion.py ViT-H-14 --keep --folder models

Each conversion is the guide's command in a process of its own, and its files are deleted
before the next one starts, unless `--keep` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ("RN50", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14")
ENGINES = ("txt.fp32", "txt.fp16", "img.fp32", "img.fp16")
HEADER = """\
| architecture | seconds | peak memory, GiB | engine | graph, kB | extra file, MB | cosine, least \
| cosine, mean | largest difference | cosine between items |
|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The time and peak memory of a process."""

    seconds: float
    peak_bytes: int


def make_checkpoint(name: str, path: Path) -> None:
    """Save a model with random weights, in float16, whose features depend on the item.

    A fresh ResNet's blocks are identities (`bn3` starts at zero) and its pictures fade; a
    fresh model's norms and biases are ones and zeros, which would hide errors.
    """
    import torch
    from torch import nn

    from clipfleet.architectures import load_architecture
    from clipfleet.convert.checkpoints.load import save_checkpoint
    from clipfleet.convert.model.chinese_clip import ChineseClip

    torch.manual_seed(0)
    model = ChineseClip(load_architecture(name))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.8, 1.2)
                module.bias.uniform_(-0.1, 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.uniform_(-0.1, 0.1)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv2d):
                module.weight.mul_(6**0.5)  # He et al., arXiv:1502.01852
            elif isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.uniform_(-0.05, 0.05)
        for key, parameter in model.bert.encoder.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
                assert key.endswith("weight")
    save_checkpoint(model, path, half=True)


def measured(command: list[str]) -> Measured:
    """Run a command and return what it took; its output goes to the terminal.

    Raises:
        SystemExit: It failed.
    """
    started = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return Measured(
        seconds=time.perf_counter() - started,
        peak_bytes=usage.ru_maxrss * 1024,  # Linux counts KiB
    )


def convert(name: str, checkpoint: Path, prefix: Path) -> Measured:
    """Run the guide's command."""
    command = [sys.executable, "-m", "clipfleet.convert.pytorch_to_onnx", "--model-arch", name]
    command += ["--pytorch-ckpt-path", str(checkpoint), "--save-onnx-path", str(prefix)]
    return measured([*command, "--convert-text", "--convert-vision"])


def rows(name: str, prefix: Path, took: Measured) -> Iterator[str]:
    """Yield the table's rows, one an engine."""
    for number, engine in enumerate(ENGINES):
        path = Path(f"{prefix}.{engine}.onnx")
        parity = json.loads(Path(f"{path}.card.json").read_text())["parity"]
        first = (name, f"{took.seconds:.0f}", f"{took.peak_bytes / 2**30:.1f}")
        cells = (
            *(first if number == 0 else ("", "", "")),
            engine,
            f"{path.stat().st_size / 1e3:.0f}",
            f"{Path(f'{path}.extra_file').stat().st_size / 1e6:.1f}",
            f"{parity['cosine_min']:.9f}",
            f"{parity['cosine_mean']:.9f}",
            f"{parity['max_abs_diff']:.2g}",
            f"{parity['cosine_between_items']:.3f}",
        )
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES, metavar="ARCHITECTURE")
    parser.add_argument("--out", type=Path, help="also write the table there")
    parser.add_argument("--folder", type=Path, help="where to build (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the files in --folder")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_checkpoint(args.architectures[0], args.make)
        return
    if args.keep and not args.folder:
        parser.error("--keep needs --folder")
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    lines = [HEADER]
    for name in args.architectures:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=args.folder))
        try:
            checkpoint, prefix = folder / "random.pt", folder / name
            measured([sys.executable, __file__, name, "--make", str(checkpoint)])
            lines += rows(name, prefix, convert(name, checkpoint, prefix))
        finally:
            if not args.keep:
                shutil.rmtree(folder)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
