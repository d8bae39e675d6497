"""Engines built on this GPU through the command line: verified, cached, and never partial.

TEST_MODEL is the prefix of the ONNX engines to build (default: the demo's), TEST_MODEL_DYNAMIC
one of engines for any batch size (default: none, and those tests are skipped).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipfleet.engine_files import sha256_of
from clipfleet.model_card import ModelCard, card_path, load_card, write_card
from tests.gpu.support import clipfleet, draw

trt = pytest.importorskip("tensorrt")

ROOT = Path(__file__).parents[2]
PREFIX = Path(os.environ.get("TEST_MODEL", ROOT / "examples/demo/model/demo"))
DYNAMIC = os.environ.get("TEST_MODEL_DYNAMIC")
STRONG = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
COMMAND = [sys.executable, "-m", "clipfleet"]

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


def onnx(tower: str, precision: str) -> Path:
    path = Path(f"{PREFIX}.{tower}.{precision}.onnx")
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def build(*arguments: object) -> ModelCard:
    """Build one engine and return its card."""
    done = run("build", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    (path,) = json.loads(done.stdout)["cards"]
    card, engine = load_card(path)
    assert card.parity is not None
    assert card.build is not None
    print(
        f"\n{engine.name}: {card.build.seconds} s, {engine.stat().st_size / 1e6:.1f} MB, worst "
        f"cosine {card.parity.cosine_min:.7f}, largest difference {card.parity.max_abs_diff:.2g}"
    )
    return card


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("tower", ["img", "txt"])
def test_an_engine_is_built_proved_and_described(
    tmp_path: Path, tower: str, precision: str
) -> None:
    card = build(onnx(tower, precision), "--out", tmp_path / "m")
    source, _ = load_card(onnx(tower, precision))
    assert card.identity == source.identity
    assert (card.runtime, card.runtime_version) == ("tensorrt", trt.__version__)
    assert card.parity is not None
    assert card.parity.passed
    assert card.parity.measured_on is not None
    assert card.parity.measured_on.gpu == card.gpu
    assert card.parity.measured_on.engine_sha256 == sha256_of(tmp_path / card.engine)
    assert card.compute_capability is not None
    assert card.profile is not None
    assert card.build is not None
    assert card.build.timing_cache is not None
    assert card.build.typing == ("strong" if STRONG else "weak")
    left = sorted(path.name for path in tmp_path.iterdir())
    cache = card.build.timing_cache
    assert left == sorted([f".{cache}.lock", card.engine, f"{card.engine}.card.json", cache])


def test_a_second_build_goes_on_with_the_timing_cache(tmp_path: Path) -> None:
    first = build(onnx("img", "fp16"), "--out", tmp_path / "m")
    assert first.build is not None
    cache = tmp_path / (first.build.timing_cache or "")
    size = cache.stat().st_size
    second = build(onnx("img", "fp16"), "--out", tmp_path / "m")
    assert second.build is not None
    assert size > 0
    assert second.build.seconds < first.build.seconds


def test_a_damaged_timing_cache_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"damaged" * 100)
    done = run(
        "build",
        onnx("txt", "fp16"),
        "--out",
        tmp_path / "m",
        "--timing-cache",
        tmp_path / "cache",
    )
    assert done.returncode == 0, done.stderr
    assert "is damaged, unreadable, or of another version or GPU" in done.stderr
    assert (tmp_path / "cache").read_bytes() == b"damaged" * 100, "it may be another machine's"
    (own,) = tmp_path.glob("tensorrt-*.timing.cache")
    assert own.stat().st_size > 0


def test_an_engine_that_strays_from_its_reference_is_not_kept(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.img.fp32.onnx"
    _write_perturbed(onnx("img", "fp32"), wrong)
    done = run(
        "build", onnx("img", "fp16"), "--out", tmp_path / "m", "--reference", wrong,
        "--no-timing-cache",
    )  # fmt: skip
    assert done.returncode == 2
    assert "strays from" in done.stderr
    assert not list(tmp_path.glob("m.*"))
    assert not list(tmp_path.glob(".*"))


def _write_perturbed(source: Path, target: Path) -> None:
    """Another model under the same card: every weight is up to a tenth off."""
    card, _ = load_card(source)
    extra = source.parent / (card.extra_file or "")
    values = np.fromfile(extra, np.float32)
    weights = (np.abs(values) > 1e-6) & (np.abs(values) < 1e3)  # not integers seen as floats
    noise = np.random.default_rng(0).uniform(0.9, 1.1, values.shape).astype(np.float32)
    # The graph names its extra file, and must find it under that name.
    values[weights] *= noise[weights]
    values.tofile(target.with_name(extra.name))
    target.write_bytes(source.read_bytes())
    changed = replace(
        card, engine=target.name, extra_file_sha256=sha256_of(target.with_name(extra.name))
    )
    write_card(changed, card_path(target))


@pytest.mark.skipif(STRONG, reason="the ONNX file decides each layer's precision here")
def test_banned_operators_build_from_the_float32_onnx(tmp_path: Path) -> None:
    operators = "Softmax,LayerNormalization"
    options = ["--fp16", "--fp16-banned-ops", operators]
    card = build(onnx("img", "fp32"), "--out", tmp_path / "m", *options)
    assert card.precision == "fp16"
    assert card.build is not None
    assert card.build.fp32_ops == tuple(operators.split(","))
    done = run("build", onnx("img", "fp32"), "--fp16", "--fp16-banned-ops", "NoSuchOp",
               "--out", tmp_path / "n")  # fmt: skip
    assert done.returncode == 2
    assert "no operator NoSuchOp" in done.stderr


@pytest.mark.skipif(STRONG, reason="the ONNX file decides each layer's precision here")
def test_the_guides_command_builds_float16_from_the_float32_onnx(tmp_path: Path) -> None:
    card, path = load_card(onnx("txt", "fp32"))
    command = [
        sys.executable,
        "-m",
        "clipfleet.convert.onnx_to_tensorrt",
        "--model-arch",
        card.architecture,
    ]
    command += ["--convert-text", "--text-onnx-path", str(path), "--fp16"]
    command += ["--save-tensorrt-path", str(tmp_path / "m")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = f">>> The text FP16 TensorRT model is saved at {tmp_path}/m.txt.fp16.trt"
    assert done.stdout.splitlines()[-1] == last


@pytest.mark.parametrize("tower", ["img", "txt"])
@pytest.mark.parametrize("options", [["--batch-size", "8"], ["--max-batch", "32"]])
def test_a_dynamic_onnx_becomes_a_larger_static_or_a_ranged_engine(
    tmp_path: Path, tower: str, options: list[str]
) -> None:
    if DYNAMIC is None:
        pytest.skip("TEST_MODEL_DYNAMIC names no ONNX engines for any batch size")
    card = build(f"{DYNAMIC}.{tower}.fp16.onnx", "--out", tmp_path / "m", *options)
    profile = card.profile
    assert profile is not None
    ranged = options[0] == "--max-batch"
    assert (profile.smallest, profile.largest) == ((1, 32) if ranged else (8, 8))
    assert card.batch_size == (None if ranged else 8)


def test_a_prepared_folder_has_two_engines_and_is_embedded_with_the_batch_engine(
    tmp_path: Path,
) -> None:
    if DYNAMIC is None:
        pytest.skip("TEST_MODEL_DYNAMIC names no ONNX engines for any batch size")
    folder = tmp_path / "model"
    folder.mkdir()
    dynamic = Path(DYNAMIC)
    for path in dynamic.parent.glob(f"{dynamic.name}.img.*.onnx*"):
        shutil.copy(path, folder)
    source, _ = load_card(f"{DYNAMIC}.img.fp16.onnx")
    command = ("prepare", source.architecture, folder, "--tower", "img", "--json")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stderr}")
    cards = [load_card(path)[0] for path in json.loads(done.stdout)["cards"]]
    batches = sorted(card.profile.largest for card in cards if card.profile)
    assert batches[0] == 1
    assert batches[1] in (32, 64, 128)
    assert len(batches) == 2
    assert {card.identity for card in cards if card.precision == "fp16"} == {source.identity}

    again = run(*command)
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert "building" not in again.stderr

    pictures = draw(tmp_path / "corpus", 200) / "images"
    run_s = 240.0
    summary = clipfleet("embed", pictures, tmp_path / "out", "--model", folder, timeout_s=run_s)
    assert summary["ok"]
    checks = json.loads(run("doctor", "--model", folder, "--json").stdout)["checks"]
    (taken,) = [check for check in checks if check["name"] == f"model {folder} img"]
    assert "-batch.img.fp16.trt is taken here" in taken["detail"]


def test_an_engine_without_a_card_is_adopted(tmp_path: Path) -> None:
    card = build(onnx("txt", "fp16"), "--out", tmp_path / "m")
    engine = tmp_path / card.engine
    card_path(engine).unlink()
    done = run("adopt", engine, "--reference", onnx("txt", "fp32"), "--json")
    assert done.returncode == 0, done.stderr
    adopted, _ = load_card(engine)
    assert adopted.identity == card.identity
    assert adopted.engine_sha256 == card.engine_sha256
    assert adopted.parity is not None
    assert adopted.parity.passed


def test_a_cut_off_engine_is_not_adopted(tmp_path: Path) -> None:
    card = build(onnx("txt", "fp16"), "--out", tmp_path / "m")
    engine = tmp_path / card.engine
    card_path(engine).unlink()
    engine.write_bytes(engine.read_bytes()[: engine.stat().st_size // 2])
    done = run("adopt", engine, "--reference", onnx("txt", "fp32"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not card_path(engine).exists()


def test_a_build_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    done = run("build", onnx("img", "fp16"), "--out", tmp_path / "m", "--limit-s", "1",
               "--no-timing-cache")  # fmt: skip
    assert done.returncode == 2
    assert "was not built within 1 s" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "build", str(onnx("img", "fp16")), "--out", str(tmp_path / "m")]
    process = subprocess.Popen(
        [*command, "--no-timing-cache"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("building with"):
            break
    time.sleep(1)  # the builder is deep in its one call
    children = _children(process.pid)
    assert children
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
