"""Count the modules that a run enters, from the command to the Parquet part.

    python -m bench.trips OUT.json [--root CHECKOUT]

Three trips on the demo's model: one picture through `clipfleet embed`, in all processes; one
shard, from its task to its part; one single item, from its task to its part. CHECKOUT may be an
older one, to compare with. Prints a line a trip.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("clipfleet", "storage", "workers", "tasks", "convert")


def modules_of(root: Path) -> int:
    """Return how many modules a checkout's packages have."""
    files = {path.resolve() for package in PACKAGES for path in (root / package).rglob("*.py")}
    return len(files)


def entered(root: Path, script: list[str], *, inside: str = "") -> list[str]:
    """Return the modules that a command's processes enter, relative to `root`, sorted."""
    with tempfile.TemporaryDirectory() as out:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(root)]),
            "TRIPS_ROOT": str(root.resolve()),
            "TRIPS_OUT": out,
            "TRIPS_INSIDE": inside,
        }
        subprocess.run(
            [sys.executable, *script], env=environment, check=True, cwd=root, stdout=sys.stderr
        )
        lines = {line for path in Path(out).iterdir() for line in path.read_text().splitlines()}
    return sorted(lines)


def _first(root: Path, *paths: str) -> str:
    """Return the first of some paths that a checkout has: modules moved between versions."""
    return next(path for path in paths if (root / path).exists())


def main() -> None:
    """Trace the trips, write them, and print how many modules each enters."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, default=HERE.parents[1])
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    model = root / "examples/demo/model/demo.img.fp32.onnx"
    shard_task = _first(root, "tasks/embed_shard.py", "tasks/embed.py")
    item_task = _first(root, "tasks/items/task.py", "tasks/embed_items.py")
    command = _first(root, "clipfleet/cli/main.py", "clipfleet/cli.py")
    program = ["-m", command.removesuffix(".py").replace("/", ".")]
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch, "pictures")
        pictures.mkdir()
        _draw(pictures / "one.jpg")
        embed = [*program, "embed", str(pictures), "--model", str(model)]
        one = str(pictures / "one.jpg")
        single = [str(HERE / "single_item.py"), *program[1:], one, str(model), f"{scratch}/items"]
        trips = {
            "a picture, from `embed` to its part": entered(root, [*embed, f"{scratch}/a"]),
            "a shard, from its task to its part": entered(
                root, [*embed, f"{scratch}/b"], inside=f"{shard_task}:embed"
            ),
            "a single item, from its task to its part": entered(
                root, single, inside=f"{item_task}:embed_items"
            ),
        }
    total = modules_of(root)
    arguments.out.write_text(json.dumps({"modules": total, "trips": trips}, indent=1) + "\n")
    for name, modules in trips.items():
        print(f"{name}: {len(modules)} of {total} modules")


def _draw(path: Path) -> None:
    from PIL import Image

    Image.effect_noise((64, 48), 64).convert("RGB").save(path)


if __name__ == "__main__":
    main()
