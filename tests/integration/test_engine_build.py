"""Asking for this machine's engine: a process of its own finds or builds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipfleet.errors import EngineError, GpuLostError
from clipfleet.model_card import write_card
from clipfleet.settings import Settings
from clipfleet.tasks.local.engine_build import cache_folder, engine_of_this_machine
from clipfleet.workers.engines.fake import fake_card
from tests.integration.support import PATIENCE_S, run_command

ROOT = Path(__file__).parents[2]
SetBuilder = Callable[[str], None]
PROBLEMS = [  # a tower, an output, and what is wrong with them
    ("img", "out", "is the txt tower's engine and this worker serves img"),
    ("txt", "m.onnx", "cannot write to the output folder"),
    ("txt", "out", "127.0.0.1:9"),
]


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetBuilder:
    """Make a script the program that finds or builds engines."""
    monkeypatch.setattr("clipfleet.tasks.local.engine_build.BUILDER", "fake_builder")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(script: str) -> None:
        (tmp_path / "fake_builder.py").write_text(script)

    return write


def test_the_card_is_the_last_line_whatever_a_library_prints(
    builder: SetBuilder, tmp_path: Path
) -> None:
    builder('import sys; print("noise"); print(\'{"card": "\' + "|".join(sys.argv[1:]) + \'"}\')')
    settings = Settings(engine_cache=str(tmp_path / "kept"))
    card = engine_of_this_machine(Path("/models/m.onnx"), settings)
    assert str(card) == f"/models/m.onnx|--cache|{tmp_path / 'kept'}"


def test_a_build_that_fails_says_so_after_its_own_words(
    builder: SetBuilder, capfd: pytest.CaptureFixture[str]
) -> None:
    builder('import sys; sys.exit(sys.stderr.write("clipfleet: no room\\n") and 2)')
    with pytest.raises(EngineError, match=r"no TensorRT engine of m\.onnx .* exit code 2"):
        engine_of_this_machine(Path("m.onnx"), Settings())
    assert capfd.readouterr().err == "clipfleet: no room\n"


def test_a_gpu_that_is_lost_while_it_builds_is_told_from_a_build_that_fails(
    builder: SetBuilder,
) -> None:
    builder("import sys; sys.exit(3)")
    with pytest.raises(GpuLostError):
        engine_of_this_machine(Path("m.onnx"), Settings())


def test_engines_are_kept_in_the_users_cache_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache_folder(Settings())) == "/home/somebody/.cache/clipfleet/engines"
    assert str(cache_folder(Settings(engine_cache="~/e"))) == "/home/somebody/e"


@pytest.mark.parametrize(
    ("named", "problems"),
    [
        ("m.onnx", PROBLEMS[:1]),
        ("m.onnx.card.json", PROBLEMS[1:2]),
        ("m.trt", PROBLEMS),
        ("m.trt.card.json", PROBLEMS[2:]),
    ],
)
def test_what_a_worker_lacks_is_told_before_anything_is_built(
    builder: SetBuilder, tmp_path: Path, named: str, problems: list[tuple[str, str, str]]
) -> None:
    """Of the engine there is only what it is built from; there is no Redis."""
    builder(f"open({str(tmp_path / 'built')!r}, 'w')")
    card = replace(fake_card("txt"), engine="m.onnx")
    (tmp_path / "m.onnx").write_text("an engine")
    write_card(card, tmp_path / "m.onnx.card.json")
    command = ["worker", "--build-if-missing", "--model", str(tmp_path / named)]
    command += ["--redis-url", "redis://127.0.0.1:9"]
    for tower, output, problem in problems:
        run = run_command(*command, "--tower", tower, "--output", str(tmp_path / output))
        assert run.returncode == 2
        assert problem in run.stderr
        assert not (tmp_path / "built").exists()


WORKER = """
import sys
from pathlib import Path
import clipfleet.tasks.local.engine_build as machine
from clipfleet.settings import Settings
machine.BUILDER = "fake_builder"
machine.engine_of_this_machine(Path("m.onnx"), Settings())
"""


def test_a_worker_that_is_stopped_while_its_engine_is_built_ends_the_build(
    builder: SetBuilder, tmp_path: Path
) -> None:
    builder(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"  # as in a call of a library
        "sys.stderr.write(f'{os.getpid()}\\n')\n"
        "sys.stderr.flush()\n"
        "time.sleep(60)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    pid = int(worker.stderr.readline())
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode != 0
    assert not Path(f"/proc/{pid}").exists()
