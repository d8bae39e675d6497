"""Write the figures of runs into a page, as tables and a plot.

    python -m bench.gpu.pipeline.report bench/gpu/results/pipeline/*.json \\
        --into docs/explanation/performance.md

Runs on one machine since its start, with the same versions, make one table; every other run has a
table of its own, since ratios hold within a run. The plot is of the first table, beside the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.gpu.pipeline.figures import Session, read_session
from bench.gpu.pipeline.plot import picture
from bench.gpu.pipeline.table import table
from bench.pages import Section
from clipfleet.atomic_write import atomic_write

SECTION = Section("pipeline", "bench.gpu.pipeline.report")
PLOT = "pipeline.svg"


def merge(sessions: Sequence[Session]) -> list[Session]:
    """Return one session for each machine and versions; a measured step replaces a missing one.

    Raises:
        ValueError: A step was measured twice on one machine.
    """
    merged: list[Session] = []
    for session in sessions:
        same = next((one for one in merged if session.is_comparable(one)), None)
        if same is None:
            copy = replace(session, steps=dict(session.steps), sources=list(session.sources))
            merged.append(copy)
            continue
        same.sources.extend(name for name in session.sources if name not in same.sources)
        for name, figures in session.steps.items():
            if same.has(name) and session.has(name):
                raise ValueError(
                    f"the step {name!r} was measured twice on one machine: leave a file out"
                )
            if not same.has(name):
                same.steps[name] = figures
    return merged


def report(sessions: Sequence[Session]) -> str:
    """Return the tables of merged sessions, and the plot's link."""
    parts = []
    for number, session in enumerate(sessions):
        parts += [session.head, table(session.figures)]
        if number == 0:
            parts.append(f"![Items a second of the whole way and of its parts]({PLOT})")
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="figures.json of bench.gpu.pipeline")
    add("--into", type=Path, help=f"a page with {SECTION.begin}; {PLOT} goes beside it")
    args = parser.parse_args(arguments)
    try:
        sessions = merge([read_session(path) for path in args.files])
        text = report(sessions)
        if args.into:
            SECTION.write(args.into, text)
            with atomic_write(args.into.with_name(PLOT)) as part:
                part.write_text(picture(sessions[0]), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    if not args.into:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
