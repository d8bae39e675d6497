"""`clipfleet embed` as a process: its rates, its CPU time and its memory."""

from __future__ import annotations

import bisect
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from bench.overhead.family import Family
from bench.soak.count import rate, read_commits


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the command.

    `items_s` and `cpu_s` (CPU seconds an item, of all processes) are of the steady span: from the
    end of the first shard to the end of the last. `peaks_mib` is by role.
    """

    items: int
    seconds: float
    items_s: float | None
    cpu_s: float | None
    peaks_mib: dict[str, float]

    @property
    def whole_items_s(self) -> float:
        return self.items / self.seconds


def run_embed(source: Path, out: Path, model: Path, *options: str) -> Run:
    """Embed a source into a new dataset, which is removed afterwards.

    Raises:
        SystemExit: The command failed, or an item has no vector.
    """
    command = [sys.executable, "-m", "clipfleet", "embed", str(source), str(out)]
    command += ["--model", str(model), *options, "--json"]
    began_s = time.monotonic()
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        Family(process.pid) as family,
    ):
        stdout, _ = process.communicate()
    seconds = time.monotonic() - began_s
    if process.returncode:
        raise SystemExit(f"clipfleet embed: exit code {process.returncode}: {stdout.decode()}")
    summary = json.loads(stdout)
    commits = read_commits(out)
    shutil.rmtree(out)
    first_s, last_s = commits[0][0], commits[-1][0]
    later = sum(items for _, items in commits[1:])
    return Run(
        items=summary["embedded_items"],
        seconds=seconds,
        items_s=rate(commits, first_s, last_s),
        cpu_s=cpu_between(family.cpu, first_s, last_s) / later if later else None,
        peaks_mib=family.peaks,
    )


def cpu_between(samples: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """Return the CPU seconds between two times, of samples (time, CPU seconds until then)."""
    return _cpu_at(samples, end_s) - _cpu_at(samples, begin_s)


def _cpu_at(samples: Sequence[tuple[float, float]], at_s: float) -> float:
    """Return the CPU seconds until a time, on the line between the samples around it."""
    after = bisect.bisect_right(samples, (at_s, float("inf")))
    if after in {0, len(samples)}:
        return samples[min(after, len(samples) - 1)][1]
    (first_s, first), (second_s, second) = samples[after - 1], samples[after]
    return first + (second - first) * (at_s - first_s) / (second_s - first_s)
