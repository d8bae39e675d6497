"""Fuzz for a bounded time, guided by the branches that inputs reach.

    python -m tests.fuzz --seconds 60                  every target
    python -m tests.fuzz --seconds 600 parquet plan    these
    python -m tests.fuzz --inputs FOLDER               keep the inputs found, and begin with them

Prints a table, and exits with 1 if an input ended a target: it is in the folder, as TARGET/crash-….
Put it into tests/fuzz/found/TARGET/, where a test runs it from then on, and fix the cause.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clipfleet"]):
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.watch import Watch

from clipfleet.errors import ClipfleetError

_INPUT_S = 10  # an input that takes longer is a crash
_MEMORY_MB = 2048  # and one that takes more than this
_INPUT_BYTES = 16_384
_CURRENT = "current"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a target; `edges` are the branches of our own code that inputs reached."""

    name: str
    inputs: int
    edges: int
    seconds: float
    crash: Path | None  # the input that ended it
    log: Path


def fuzz(name: str, seconds: int, runs: int, folder: Path) -> Result:
    """Fuzz a target in a process of its own, which a bad input may end."""
    place = folder / name
    (place / "corpus").mkdir(parents=True, exist_ok=True)
    log = place / "log"
    started_s = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _fuzz_here(name, [f"-max_total_time={seconds}", f"-runs={runs}"], place, log)
        except BaseException:
            traceback.print_exc()  # into the log
            raise
        finally:  # the child must never run the parent's code
            os._exit(1)
    _, status = os.waitpid(child, 0)
    output = log.read_text(errors="replace")
    return Result(
        name=name,
        inputs=_last(r"stat::number_of_executed_units:\s*(\d+)|^#(\d+)", output),
        edges=_last(r"cov: (\d+)", output),
        seconds=time.monotonic() - started_s,
        crash=_kept(place / _CURRENT) if status else None,
        log=log,
    )


def _kept(current: Path) -> Path:
    """Give an input a name of its own."""
    name = hashlib.sha256(current.read_bytes()).hexdigest()[:12]
    return current.rename(current.with_name(f"crash-{name}"))


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    last = found[-1] if found else "0"
    return int(last if isinstance(last, str) else "".join(last))


def _fuzz_here(name: str, limits: Sequence[str], place: Path, log: Path) -> None:
    """Run libFuzzer, which ends this process."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    work = Path(tempfile.mkdtemp(dir=place))
    tempfile.tempdir = str(work)
    os.chdir(work)
    os.fsync = lambda fd: None  # lost writes are not the subject, and fsync is slow
    target = TARGETS[name](work)
    for number, seed in enumerate(target.seeds):
        (place / "corpus" / f"seed{number}").write_bytes(seed)
    watch = Watch(work)
    # Kept before it runs: a process that is killed, or that C ends, says nothing any more.
    current = os.open(place / _CURRENT, os.O_WRONLY | os.O_CREAT)

    def run(data: bytes) -> None:
        os.pwrite(current, data, 0)
        os.ftruncate(current, len(data))
        with watch.watching(reads_anything=target.reads_anything):
            try:
                target.run(data)
            except ClipfleetError as error:
                str(error)

    limits = [*limits, f"-timeout={_INPUT_S}", f"-max_len={_INPUT_BYTES}"]
    limits += [f"-rss_limit_mb={_MEMORY_MB}", "-print_final_stats=1", f"-artifact_prefix={work}/"]
    atheris.Setup([sys.argv[0], *limits, str(place / "corpus")], run)
    atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="default: all")
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--runs", type=int, default=-1, help="for each target; default: no limit")
    parser.add_argument("--inputs", type=Path, help="where inputs are kept; default: nowhere")
    given = parser.parse_args(arguments)
    folder = (given.inputs or Path(tempfile.mkdtemp(prefix="clipfleet-fuzz-"))).resolve()
    print(f"{'target':14}{'inputs':>10}{'edges':>8}{'seconds':>9}  crashes")
    results = [
        _shown(fuzz(name, given.seconds, given.runs, folder)) for name in given.targets or TARGETS
    ]
    inputs, seconds = sum(r.inputs for r in results), sum(r.seconds for r in results)
    crashes = sum(result.crash is not None for result in results)
    print(f"{'all':14}{inputs:10,}{'':8}{seconds:9.1f}  {crashes}")
    return 1 if crashes else 0


def _shown(result: Result) -> Result:
    found = f"{result.crash}, see {result.log}" if result.crash else "0"
    print(
        f"{result.name:14}{result.inputs:10,}{result.edges:8,}{result.seconds:9.1f}  {found}",
        flush=True,
    )
    return result


if __name__ == "__main__":
    sys.exit(main())
