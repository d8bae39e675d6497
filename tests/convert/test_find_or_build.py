"""This machine's engine is found, or built once, also beside other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipfleet.convert.tensorrt.find_or_build import _builder, folder_name, machine_engine
from clipfleet.engine_files import sha256_of
from clipfleet.errors import CardError, UsageError
from clipfleet.model_card import MeasuredOn, ModelCard, Parity, card_path, load_card, write_card
from clipfleet.workers.engines.fake import fake_card
from clipfleet.workers.engines.tensorrt.place import Place

ROOT = Path(__file__).parents[2]
PLACE = Place(gpu="NVIDIA H100 80GB HBM3", runtime_version="8.6.0")


def write_onnx(folder: Path) -> Path:
    """Write a file that has the card of an ONNX engine."""
    onnx = folder / "m.txt.fp16.onnx"
    onnx.write_text("graph")
    onnx.with_name(f"{onnx.name}.extra_file").write_text("weights")
    card = replace(
        fake_card("txt"),
        runtime="onnxruntime",
        engine=onnx.name,
        engine_sha256=sha256_of(onnx),
        extra_file=f"{onnx.name}.extra_file",
        extra_file_sha256=sha256_of(f"{onnx}.extra_file"),
    )
    write_card(card, card_path(onnx))
    return onnx


def write_engine(
    onnx: ModelCard, engine: Path, *, place: Place = PLACE, cosine: float = 0.99999
) -> None:
    """Write the files of a build: an engine, and a card that is verified for `place`."""
    engine.write_text("plan")
    measured = MeasuredOn(
        engine_sha256=sha256_of(engine), runtime_version=place.runtime_version, gpu=place.gpu
    )
    parity = Parity(
        reference="fp32",
        items=2,
        cosine_min=cosine,
        cosine_mean=cosine,
        max_abs_diff=0.0,
        threshold=0.9999,
        measured_on=measured,
    )
    card = replace(
        onnx,
        runtime="tensorrt",
        engine=engine.name,
        engine_sha256=sha256_of(engine),
        extra_file=None,
        extra_file_sha256=None,
        runtime_version=place.runtime_version,
        gpu=place.gpu,
        parity=parity,
    )
    write_card(card, card_path(engine))


class Builds:
    """A build that writes an engine, and remembers that it was asked."""

    def __init__(self) -> None:
        self.engines: list[Path] = []

    def __call__(self, card: ModelCard, onnx: Path, engine: Path) -> None:
        assert onnx.is_file()
        self.engines.append(engine)
        write_engine(card, engine)


Find = Callable[..., Path]


@pytest.fixture
def builds() -> Builds:
    return Builds()


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def find(tmp_path: Path, builds: Builds, messages: list[str]) -> Find:
    """Find the engine of a model, in a cache that lies beside it."""

    def call(model: Path, place: Place = PLACE) -> Path:
        cache = tmp_path / "cache"
        return machine_engine(model, cache, place=place, build=builds, progress=messages.append)

    return call


def test_an_engine_is_built_once_and_found_from_then_on(
    tmp_path: Path, find: Find, builds: Builds
) -> None:
    onnx = write_onnx(tmp_path)
    card = find(onnx)
    assert load_card(card)[0].runtime == "tensorrt"
    names = (
        onnx,
        card_path(onnx),
        tmp_path / "m.txt.fp16.trt",
        tmp_path / "m.txt.fp16.trt.card.json",
    )
    assert [find(name) for name in names] == [card] * 4
    assert len(builds.engines) == 1


def test_each_gpu_and_version_has_an_engine_of_its_own(
    tmp_path: Path, find: Find, builds: Builds
) -> None:
    onnx = write_onnx(tmp_path)
    places = [PLACE, replace(PLACE, gpu="Tesla T4"), replace(PLACE, runtime_version="10.1.0")]
    card, _ = load_card(onnx)
    names = {folder_name(card, place) for place in places}
    names.add(folder_name(replace(card, extra_file_sha256="1" * 64), PLACE))  # other weights
    assert len(names) == 4
    assert any(name.endswith("-nvidia-h100-80gb-hbm3-tensorrt-8.6.0-batch-1") for name in names)
    find(onnx)
    (engine,) = builds.engines
    assert engine == tmp_path / "cache" / folder_name(card, PLACE) / "m.txt.fp16.trt"


def test_the_engine_beside_the_onnx_is_taken_if_it_fits(
    tmp_path: Path, find: Find, builds: Builds, messages: list[str]
) -> None:
    onnx = write_onnx(tmp_path)
    own = tmp_path / "m.txt.fp16.trt"
    write_engine(load_card(onnx)[0], own)
    assert find(onnx) == card_path(own)
    assert builds.engines == []

    write_engine(load_card(onnx)[0], own, place=replace(PLACE, gpu="Tesla T4"))
    assert find(onnx) != card_path(own)
    assert "m.txt.fp16.trt was built for Tesla T4 and this is NVIDIA H100 80GB HBM3" in messages[0]
    other = replace(load_card(onnx)[0], checkpoint_sha256="1" * 64)
    write_engine(other, own)
    assert find(onnx) != card_path(own)  # the ONNX was converted anew since
    assert "of another model" in messages[-1]


def test_an_engine_without_its_onnx_serves_if_it_fits(tmp_path: Path, find: Find) -> None:
    onnx = write_onnx(tmp_path)
    own = tmp_path / "m.txt.fp16.trt"
    write_engine(load_card(onnx)[0], own)
    card_path(onnx).unlink()
    onnx.unlink()
    assert find(own) == card_path(own)
    with pytest.raises(CardError, match=r"no model card at .*m\.txt\.fp16\.onnx"):
        find(own, replace(PLACE, gpu="Tesla T4"))


@pytest.mark.parametrize("harm", ["engine", "card", "parity"])
def test_a_kept_engine_that_no_longer_passes_is_built_again(
    tmp_path: Path, find: Find, builds: Builds, harm: str
) -> None:
    onnx = write_onnx(tmp_path)
    card = find(onnx)
    engine = builds.engines[0]
    if harm == "engine":
        engine.write_text("half a pl")
    elif harm == "card":
        card.write_text("{}")
    else:
        write_engine(load_card(onnx)[0], engine, cosine=0.91)
    assert find(onnx) == card
    assert len(builds.engines) == 2
    assert find(onnx) == card
    assert len(builds.engines) == 2


def test_a_model_that_is_neither_onnx_nor_tensorrt_is_refused(tmp_path: Path, find: Find) -> None:
    with pytest.raises(UsageError, match="names neither an ONNX file"):
        find(tmp_path / "model.pt")
    onnx = write_onnx(tmp_path)
    write_card(replace(load_card(onnx)[0], runtime="fake"), card_path(onnx))
    with pytest.raises(UsageError, match="is a fake engine: name the ONNX file"):
        find(onnx)


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(
    tmp_path: Path, find: Find
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UsageError, match="set CLIPFLEET_ENGINE_CACHE"):
        find(write_onnx(tmp_path))


def test_a_build_here_needs_the_float32_onnx_beside(tmp_path: Path, messages: list[str]) -> None:
    onnx = write_onnx(tmp_path)
    build = _builder(tmp_path, messages.append)
    with pytest.raises(UsageError, match=r"Put m\.txt\.fp32\.onnx, .*is verified against it"):
        build(replace(load_card(onnx)[0], precision="fp16"), onnx, tmp_path / "m.txt.fp16.trt")


# A process that needs the engine. Its build writes a line to BUILDS, and waits for the file GO.
PROCESS = """
import sys, time
from pathlib import Path
from clipfleet.convert.tensorrt.find_or_build import machine_engine
from tests.convert.test_find_or_build import PLACE, write_engine
model, folder = Path(sys.argv[1]), Path(sys.argv[2])
def say(line):
    sys.stderr.write(line + "\\n")
    sys.stderr.flush()
def build(card, onnx, engine):
    (engine.parent / f".{engine.name}.converting-x").mkdir()  # fails if one is left
    with open(folder / "builds", "a") as builds:
        builds.write("built\\n")
    while not (folder / "go").exists():
        time.sleep(0.01)
    (engine.parent / f".{engine.name}.converting-x").rmdir()
    write_engine(card, engine)
print(machine_engine(model, folder / "cache", place=PLACE, build=build, progress=say))
"""


def start(model: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(model), str(folder)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_line(process: subprocess.Popen[str], expected: str) -> str:
    """Return the first line of a process's standard error that has `expected` in it."""
    assert process.stderr is not None
    for line in process.stderr:
        if expected in line:
            return line
    raise AssertionError(f"the process ended without {expected!r}")


def test_of_four_processes_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    onnx = write_onnx(tmp_path)
    first = start(onnx, tmp_path)
    wait_for_line(first, "building m.txt.fp16.trt for NVIDIA H100 80GB HBM3, TensorRT 8.6.0")
    others = [start(onnx, tmp_path) for _ in range(3)]
    for other in others:
        line = wait_for_line(other, "waiting for m.txt.fp16.trt, which process")
        assert f"process {first.pid} is building" in line
    (tmp_path / "go").touch()
    cards = {process.communicate(timeout=120)[0].strip() for process in (first, *others)}
    assert len(cards) == 1
    assert load_card(cards.pop())[0].gpu == PLACE.gpu
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_build_that_dies_leaves_no_lock_and_the_next_one_builds(tmp_path: Path) -> None:
    onnx = write_onnx(tmp_path)
    first = start(onnx, tmp_path)
    wait_for_line(first, "building")
    while not (tmp_path / "builds").exists():
        assert first.poll() is None
    second = start(onnx, tmp_path)
    wait_for_line(second, "waiting for")
    os.kill(first.pid, signal.SIGKILL)
    wait_for_line(second, "building")  # at once
    (tmp_path / "go").touch()
    out, errors = second.communicate(timeout=120)
    assert load_card(out.strip())[0].runtime == "tensorrt", errors
    assert (tmp_path / "builds").read_text() == "built\n" * 2
    first.communicate()


def test_the_command_says_in_one_line_why_there_is_no_engine(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "clipfleet.convert.tensorrt.find_or_build",
            "model.pt",
            "--cache",
            "cache",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in {2, 3}  # a package or a GPU is missing here
    assert run.stdout == ""
    assert run.stderr.startswith("clipfleet: ")
    assert "Traceback" not in run.stderr
