"""The guide's speed_benchmark: its lines, and that each runtime is loaded only when asked for."""

import json
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from clipfleet.architectures import load_architecture
from clipfleet.convert import speed_benchmark
from clipfleet.convert.benchmark.inputs import random_inputs
from clipfleet.convert.benchmark.latency import summarise, time_calls
from clipfleet.convert.benchmark.runtimes import Target, onnx_engine, pytorch_engine
from clipfleet.engine_files import sha256_of
from clipfleet.errors import DependencyError, UsageError

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "demo" / "model" / "demo"
LINE = re.compile(
    r"\[(Pytorch|ONNX|TensorRT) (image|text) inference speed \(batch-size: \d+\):\] "
    r"mean=\d+\.\d\dms, sd=\d+\.\d\dms, min=\d+\.\d\dms, max=\d+\.\d\dms, median=\d+\.\d\dms, "
    r"95p=\d+\.\d\dms, 99p=\d+\.\d\dms"
)


def benchmark(*flags: object) -> int:
    return speed_benchmark.main(["--model-arch", "demo", "--device", "cpu", *map(str, flags)])


def target(**changes: int) -> Target:
    sizes = {"batch_size": 1, "context_length": 52, **changes}
    return Target(architecture=load_architecture("demo"), tower="img", **sizes)


def test_both_towers_of_both_runtimes_print_the_guides_lines_a_table_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    code = benchmark(
        *("--pytorch-ckpt", f"{MODEL}.pt", "--pytorch-precision", "fp32"),
        *("--onnx-image-model", f"{MODEL}.img.fp32.onnx"),
        *("--onnx-text-model", f"{MODEL}.txt.fp16.onnx"),
        *("--n", 3, "--warmup", 1, "--json", out),
    )
    printed = capsys.readouterr().out.splitlines()
    assert code == 0
    named = [found.groups() for line in printed[:4] if (found := LINE.fullmatch(line))]
    images, texts = ([("Pytorch", word), ("ONNX", word)] for word in ("image", "text"))
    assert named == images + texts
    table = [line for line in printed if line.startswith("|")]
    assert "p50, ms" in table[0]
    assert "items/s" in table[0]
    assert len(table) == 2 + 4
    runs = json.loads(out.read_text())["runs"]
    assert [run["calls"] for run in runs] == [3] * 4
    for run, line in zip(runs, printed, strict=False):
        assert f"median={run['p50_ms']:.2f}ms" in line
        assert run["items_s"] == pytest.approx(1000 / run["mean_ms"])


def test_half_precision_runs_on_the_cpu_too() -> None:
    inputs = random_inputs(load_architecture("demo"), "img", count=2)
    half, full = (
        pytorch_engine(target(batch_size=2), Path(f"{MODEL}.pt"), precision, "cpu")(inputs)
        for precision in ("fp16", "fp32")
    )
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, atol=0.05)


def test_statistics_are_those_of_the_calls() -> None:
    found = summarise([0.001 * ms for ms in range(1, 102)], batch_size=2)
    assert (found.calls, found.mean_ms, found.min_ms, found.max_ms) == pytest.approx(
        (101, 51, 1, 101)
    )
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == pytest.approx((51, 96, 100))
    assert found.sd_ms == pytest.approx(((101**2 - 1) / 12) ** 0.5)
    assert found.items_s == pytest.approx(2 / 0.051)


def test_the_line_is_the_guides() -> None:
    found = summarise([0.00358], batch_size=1)
    assert found.line("TensorRT image") == (
        "[TensorRT image inference speed (batch-size: 1):] mean=3.58ms, sd=0.00ms, min=3.58ms, "
        "max=3.58ms, median=3.58ms, 95p=3.58ms, 99p=3.58ms"
    )


def test_warm_up_calls_are_not_counted_and_calls_take_turns() -> None:
    made: list[str] = []
    calls = [lambda: made.append("a"), lambda: made.append("b")]
    seconds = time_calls(calls, n=5, warmup=3, clock=count().__next__)
    assert made == ["a", "b", "a", *"ababa"]
    assert seconds == [1] * 5


def test_timing_stops_when_its_time_is_up() -> None:
    seconds = time_calls([lambda: None], n=100, warmup=0, limit_s=6, clock=count().__next__)
    assert len(seconds) == 3  # two readings of the clock a call


def test_inputs_are_neither_constant_nor_all_of_one_length() -> None:
    architecture = load_architecture("demo")
    pixels = random_inputs(architecture, "img", count=4)
    ids = random_inputs(architecture, "txt", count=50, context_length=20)
    assert pixels.shape == (4, 3, 96, 96)
    assert pixels.dtype == np.float32
    assert len(np.unique(pixels, axis=0)) == 4
    assert ids.shape == (50, 20)
    assert ids.dtype == np.int64
    lengths = (ids != 0).sum(axis=1)
    assert lengths.min() >= 3
    assert len(set(lengths)) > 5
    for row, length in zip(ids, lengths, strict=True):
        assert (row[0], row[length - 1]) == (101, 102)
        assert row[length:].sum() == 0
        assert (row[1 : length - 1] >= 672).all()


def test_nothing_to_time_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark() == 2
    assert "give --pytorch-ckpt, --onnx-image-model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--onnx-image-model", f"{MODEL}.txt.fp32.onnx"), "expected onnxruntime demo img"),
        (
            ("--tensorrt-text-model", f"{MODEL}.txt.fp32.onnx"),
            "txt.fp32.onnx is onnxruntime demo txt",
        ),
        (("--onnx-image-model", "no.onnx"), "no model card at no.onnx"),
    ],
)
def test_another_engine_than_the_flag_names_is_refused(
    flags: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(*flags) == 2
    assert message in capsys.readouterr().err


def test_a_runtime_that_fails_takes_no_other_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(speed_benchmark, "pytorch_engine", fail)
    code = benchmark(
        *("--pytorch-ckpt", f"{MODEL}.pt"),
        *("--onnx-image-model", f"{MODEL}.img.fp32.onnx", "--onnx-text-model", "no.onnx"),
        *("--n", 2, "--json", tmp_path / "speed.json"),
    )
    captured = capsys.readouterr()
    assert code == 2
    assert "speed_benchmark: Pytorch image: RuntimeError: CUDA out of memory" in captured.err
    assert "speed_benchmark: ONNX text: no model card at no.onnx" in captured.err
    assert captured.out.count("\n| ONNX | image |") == 1
    [run] = json.loads((tmp_path / "speed.json").read_text())["runs"]
    assert (run["runtime"], run["tower"]) == ("ONNX", "img")


def test_a_batch_that_the_engine_does_not_take_is_refused(tmp_path: Path) -> None:
    card = json.loads(Path(f"{MODEL}.img.fp32.onnx.card.json").read_text())
    card["input"]["shape"][0] = card["output"]["shape"][0] = 1
    (tmp_path / "one.onnx").write_bytes(b"")
    card["engine"] = "one.onnx"
    (tmp_path / "one.onnx.card.json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match="takes 1 items a call, and --batch-size is 4"):
        onnx_engine(target(batch_size=4), tmp_path / "one.onnx", "cpu")


def test_a_gpu_that_cannot_be_named_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark("--device", "cuda:1", "--pytorch-ckpt", "x")
    assert "CUDA_VISIBLE_DEVICES=1" in capsys.readouterr().err


def test_missing_torch_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.startswith("clipfleet.convert.") and "speed" not in m]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyError, match=r"needs torch .*\.\[convert\]"):
        pytorch_engine(target(), Path(f"{MODEL}.pt"), "fp32", "cpu")


@pytest.mark.parametrize("flag", ["--onnx-text-model", "--tensorrt-text-model"])
def test_torch_is_not_loaded_for_other_runtimes(flag: str) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from clipfleet.convert.speed_benchmark import main\n"
        f"code = main(['--model-arch', 'demo', '--n', '2', '--device', 'cpu', {flag!r}, "
        f"'{MODEL}.txt.fp32.onnx'])\n"
        "print(code, 'tensorrt' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    expected = "0 False" if flag == "--onnx-text-model" else "2 False"  # 2: it is an ONNX engine
    assert run.stdout.splitlines()[-1:] == [expected], run.stderr


def test_missing_tensorrt_is_said_with_what_to_install(tmp_path: Path) -> None:
    card = json.loads(Path(f"{MODEL}.txt.fp16.onnx.card.json").read_text())
    engine = tmp_path / "demo.txt.fp16.trt"
    engine.write_bytes(b"a plan")
    card |= {"runtime": "tensorrt", "engine": engine.name, "engine_sha256": sha256_of(engine)}
    card |= {"extra_file": None, "extra_file_sha256": None}
    Path(f"{engine}.card.json").write_text(json.dumps(card))
    script = (
        "import sys; sys.modules |= dict.fromkeys(['cuda', 'tensorrt', 'torch', 'onnxruntime'])\n"
        "from clipfleet.convert.speed_benchmark import main\n"
        f"print(main(['--model-arch', 'demo', '--tensorrt-text-model', {str(engine)!r}]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stdout == "2\n", run.stderr
    assert "pip install '.[gpu]'" in run.stderr
