"""Build and verify a TensorRT engine from an ONNX engine; the CPU stands in for the GPU."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clipfleet.cli.main import app
from clipfleet.convert.console import WRONG_USE
from clipfleet.convert.onnx_to_tensorrt import build_engine, main
from clipfleet.convert.tensorrt import candidates
from clipfleet.convert.tensorrt.adopt import adopt_engine
from clipfleet.convert.tensorrt.find_or_build import _pair as machine_pair
from clipfleet.convert.tensorrt.options import BuildOptions, BuildRequest, BuildResult
from clipfleet.convert.tensorrt.requests import engine_beside
from clipfleet.errors import (
    CardError,
    ConversionError,
    EngineDamagedError,
    EngineMismatchError,
    UsageError,
    VerificationError,
)
from clipfleet.model_card import (
    BatchProfile,
    MeasuredOn,
    ModelCard,
    TensorSpec,
    card_path,
    load_card,
    write_card,
)
from clipfleet.workers.engines.onnx import OnnxEngine
from tests.convert.tensorrt_interfaces import LATEST_WEAK, STRONG, FakeTensorRT
from tests.nvidia_bindings import RTX

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "model"
GPU = "NVIDIA H100 80GB HBM3"


class PlayedFile:
    """An engine file, which is JSON: the ONNX that it computes, and its tensors."""

    def __init__(self, trt: Any, path: Path, data: bytes) -> None:
        fields = json.loads(data)
        self.input, self.output = (
            TensorSpec(**{**fields[role], "shape": tuple(fields[role]["shape"])})
            for role in ("input", "output")
        )
        sizes = {name: fields[name] for name in ("smallest", "optimum", "largest")}
        self.sizes = SimpleNamespace(**sizes)

    def __enter__(self) -> "PlayedFile":
        return self

    def __exit__(self, *_: object) -> None:
        """Hold nothing."""


class PlayedEngine:
    """A TensorRT engine that ONNX Runtime runs; `off` is added to its outputs."""

    calls: list[int] = []  # noqa: RUF012
    off = 0.0

    def __init__(
        self, card: ModelCard, path: Path, *, contexts: int, allow_unverified: bool
    ) -> None:
        assert allow_unverified
        self.card = card
        onnx_card, onnx = load_card(json.loads(path.read_text())["onnx"])
        self._engine = OnnxEngine(onnx_card, onnx, provider="cpu")

    def __call__(self, inputs: Any) -> Any:
        self.calls.append(len(inputs))
        features = self._engine(inputs)
        return features + self.off * np.roll(features, 1, axis=1)

    def __enter__(self) -> "PlayedEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[BuildRequest]:
    """A machine with a GPU and TensorRT 8.6; the builds that it was asked for."""
    made: list[BuildRequest] = []

    def run_builder(request: BuildRequest, *, progress: Any, **_: Any) -> BuildResult:
        made.append(request)
        sizes = request.smallest, request.largest
        write_plan(Path(request.plan), Path(request.onnx), *sizes, optimum=request.optimum)
        progress("building")
        return BuildResult(
            seconds=12.5,
            runtime_version=LATEST_WEAK,
            optimization_level=request.optimization_level,
            timing_cache="c" if request.timing_cache else None,
            typing="weak",
        )

    use(monkeypatch, FakeTensorRT(LATEST_WEAK))
    monkeypatch.setattr("clipfleet.convert.tensorrt.candidates.run_builder", run_builder)
    monkeypatch.setattr("clipfleet.workers.engines.cuda.runtime.device_name", lambda: GPU)
    monkeypatch.setattr("clipfleet.workers.engines.cuda.runtime.compute_capability", lambda: "9.0")
    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.engine_file.EngineFile", PlayedFile)
    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.engine.TensorRTEngine", PlayedEngine)
    monkeypatch.setattr(PlayedEngine, "off", 0.0)
    PlayedEngine.calls.clear()
    return made


def use(monkeypatch: pytest.MonkeyPatch, trt: FakeTensorRT) -> None:
    monkeypatch.setattr("clipfleet.workers.engines.tensorrt.compat.load_tensorrt", lambda: trt)


def write_plan(path: Path, onnx: Path, smallest: int = 1, largest: int = 1, **other: Any) -> None:
    card, _ = load_card(onnx)
    batch = largest if smallest == largest else None
    ids = "int32" if card.tower == "txt" else card.input.dtype
    tensors = {
        "input": {
            "name": card.input.name,
            "shape": [batch, *card.input.shape[1:]],
            "dtype": ids,
        },
        "output": {
            "name": card.output.name,
            "shape": [batch, *card.output.shape[1:]],
            "dtype": "float32",
        },
    }
    sizes = {"smallest": smallest, "optimum": (smallest + largest) // 2, "largest": largest}
    fields = {"onnx": str(onnx), **sizes, **tensors, **other}
    path.write_text(json.dumps(fields))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The demo's ONNX engines in a folder of their own."""
    folder = tmp_path / "models"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("*.pt"))
    return folder


def new_files(folder: Path) -> list[str]:
    return sorted(set(os.listdir(folder)) - set(os.listdir(DEMO)))


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_a_built_engine_is_proved_and_has_a_whole_card(
    models: Path, requests: list[BuildRequest], tower: str
) -> None:
    onnx, engine = models / f"demo.{tower}.fp16.onnx", models / f"demo.{tower}.fp16.trt"
    messages: list[str] = []
    options = BuildOptions(optimization_level=2, workspace_bytes=1 << 30)
    card, path = build_engine(onnx, engine=engine, options=options, progress=messages.append)
    assert (card, engine) == load_card(path)
    source, _ = load_card(onnx)
    assert card.identity == source.identity
    assert (card.runtime, card.runtime_version, card.precision) == ("tensorrt", LATEST_WEAK, "fp16")
    assert (card.gpu, card.compute_capability) == (GPU, "9.0")
    assert card.profile == BatchProfile(smallest=1, optimum=1, largest=1)
    assert card.input.dtype == ("float32" if tower == "img" else "int32")
    assert card.extra_file is None
    assert card.parity is not None
    assert card.parity.passed
    assert card.parity.reference.endswith(f"float32, demo.{tower}.fp32.onnx on the CPU")
    assert card.parity.measured_on == MeasuredOn(
        engine_sha256=card.engine_sha256, runtime_version=LATEST_WEAK, gpu=GPU
    )
    build = card.build
    assert build is not None
    assert (build.onnx, build.onnx_sha256) == (onnx.name, source.engine_sha256)
    assert (build.seconds, build.optimization_level, build.typing) == (12.5, 2, "weak")
    assert (build.workspace_bytes, build.timing_cache) == (1 << 30, "c")
    assert messages == [
        f"computing float32 features with demo.{tower}.fp32.onnx",
        "building",
        f"verifying {engine.name}",
    ]
    assert new_files(models) == [engine.name, f"{engine.name}.card.json"]
    assert requests[0].timing_cache == str(models)


def test_a_float32_onnx_gives_a_float16_engine_where_the_builder_chooses(
    models: Path, requests: list[BuildRequest]
) -> None:
    onnx = models / "demo.img.fp32.onnx"
    card, _ = build_engine(onnx, engine=models / "d.trt", precision="fp16", fp32_ops=["Softmax"])
    assert card.precision == requests[0].precision == "fp16"
    assert card.build is not None
    assert card.build.fp32_ops == requests[0].fp32_ops == ("Softmax",)
    assert card.parity is not None
    assert card.parity.threshold == 0.9999


def test_an_engine_that_strays_is_not_kept_and_the_old_one_stays(
    models: Path, requests: list[BuildRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = models / "demo.img.fp16.trt"
    _, path = build_engine(models / "demo.img.fp16.onnx", engine=engine)
    before = engine.read_bytes(), path.read_bytes()
    monkeypatch.setattr(PlayedEngine, "off", 0.1)
    with pytest.raises(VerificationError, match=r"demo\.img\.fp16\.trt strays from onnxruntime"):
        build_engine(models / "demo.img.fp16.onnx", engine=engine)
    assert (engine.read_bytes(), path.read_bytes()) == before
    assert new_files(models) == [engine.name, path.name]


def test_a_full_disk_leaves_the_old_engine_and_its_card(
    models: Path, requests: list[BuildRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = models / "demo.img.fp16.trt"
    _, path = build_engine(models / "demo.img.fp16.onnx", engine=engine)
    before = engine.read_bytes(), path.read_bytes()

    def fill(_: Path, text: str, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipfleet.convert.tensorrt.candidates.run_builder", copy_of(engine))
    monkeypatch.setattr("clipfleet.model_card.Path.write_text", fill)
    with pytest.raises(OSError, match="No space left"):
        build_engine(models / "demo.img.fp16.onnx", engine=engine)
    assert (engine.read_bytes(), path.read_bytes()) == before
    assert new_files(models) == [engine.name, path.name]


def copy_of(engine: Path) -> Callable[..., BuildResult]:
    """A builder that copies an engine."""

    def run_builder(request: BuildRequest, **_: Any) -> BuildResult:
        shutil.copy(engine, request.plan)
        return BuildResult(
            seconds=1.0,
            runtime_version=LATEST_WEAK,
            optimization_level=3,
            timing_cache=None,
            typing="weak",
        )

    return run_builder


@pytest.mark.parametrize("error", [ConversionError("no"), KeyboardInterrupt()])
def test_a_build_that_ends_early_leaves_nothing(
    models: Path,
    requests: list[BuildRequest],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def fail(request: BuildRequest, **_: Any) -> BuildResult:
        Path(request.plan).write_text("half")
        raise error

    monkeypatch.setattr("clipfleet.convert.tensorrt.candidates.run_builder", fail)
    with pytest.raises(type(error)):
        build_engine(models / "demo.img.fp16.onnx", engine=models / "e.trt")
    assert new_files(models) == []


def test_a_dynamic_engine_is_proved_in_every_batch_that_it_runs_and_with_a_rest(
    dynamic_onnx: Path, requests: list[BuildRequest], tmp_path: Path
) -> None:
    engine = tmp_path / "any.trt"
    card, _ = build_engine(dynamic_onnx, engine=engine, max_batch=5, optimum_batch=4)
    assert card.profile == BatchProfile(smallest=1, optimum=4, largest=5)
    assert card.batch_size is None
    assert card.parity is not None
    items = card.parity.items
    sizes = (1, 2, 4, 5, 8)  # powers of two, the largest, and the largest with a rest of 3
    assert PlayedEngine.calls == [size for size in sizes for _ in range(-(-items // size))]
    card, _ = build_engine(dynamic_onnx, engine=engine, batch_size=8)
    assert card.profile == BatchProfile(smallest=8, optimum=8, largest=8)
    assert card.batch_size == 8


def test_the_batch_size_may_be_measured(
    dynamic_onnx: Path,
    requests: list[BuildRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds = {32: 9158.0, 64: 9700.0, 128: 9800.0}
    monkeypatch.setattr(candidates, "_speed", lambda one, progress: speeds[one.batch])
    prefix = tmp_path / "bulk"
    result = run_cli("build", dynamic_onnx, "--batch-size", "auto", "--out", prefix, "--json")
    assert result.exit_code == 0
    assert sorted(request.largest for request in requests) == [32, 64, 128]
    assert {request.timing_cache for request in requests} == {None}
    card, _ = load_card(json.loads(result.stdout)["cards"][0])
    assert card.profile == BatchProfile(smallest=64, optimum=64, largest=64)
    assert set(PlayedEngine.calls) == {64}, "only the kept engine is verified"
    assert sorted(os.listdir(tmp_path)) == ["bulk.img.fp32.trt", "bulk.img.fp32.trt.card.json"]
    with pytest.raises(UsageError, match=r"--batch-size is 'best': a number .* or auto"):
        run_cli("build", dynamic_onnx, "--batch-size", "best")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch_size": 8}, r"is for batches of 1, and an engine for 8 .*--dynamic-batch"),
        ({"max_batch": 32}, r"an engine for 1 to 32 is asked for.*--dynamic-batch"),
        ({"batch_size": 0}, r"batch sizes are 0 to 0"),
        ({"max_batch": 0}, r"batch sizes are 1 to 0"),
        ({"batch_size": 8, "max_batch": 4}, r"--batch-size 8 .* --max-batch 4 .*give one of them"),
        ({"batch_size": "auto"}, r"is for batches of 1, and an engine for 32 .*--dynamic-batch"),
        ({"batch_size": "auto", "max_batch": 64}, r"auto compares .* leave --max-batch .* out"),
        ({"max_batch": 4, "optimum_batch": 5}, r"1 to 4, tuned for 5.*the optimum within"),
        ({"precision": "fp32"}, r"cannot make a fp32 engine .*build it from .*img\.fp32\.onnx"),
        ({"reference": DEMO / "demo.img.fp16.onnx"}, r"is a fp16 engine of onnxruntime"),
        ({"reference": DEMO / "demo.txt.fp32.onnx"}, r"is of another model or size"),
        ({"reference": DEMO / "none.onnx"}, r"no float32 ONNX at .*none\.onnx.*--reference"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(
    models: Path, requests: list[BuildRequest], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_engine(models / "demo.img.fp16.onnx", engine=models / "e.trt", **asked)
    assert requests == []
    assert new_files(models) == []


@pytest.mark.parametrize("version", [version for version in STRONG if version != RTX])
def test_strongly_typed_versions_take_the_precision_from_the_file(
    models: Path, requests: list[BuildRequest], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    use(monkeypatch, FakeTensorRT(version))
    with pytest.raises(UsageError, match=r"fp16 engine .*: build it from .*demo\.img\.fp16\.onnx"):
        build_engine(models / "demo.img.fp32.onnx", engine=models / "e.trt", precision="fp16")
    with pytest.raises(UsageError, match=r"--fp16-banned-ops Softmax: .*Leave it out"):
        build_engine(models / "demo.img.fp16.onnx", engine=models / "e.trt", fp32_ops=["Softmax"])
    build_engine(models / "demo.img.fp16.onnx", engine=models / "e.trt")
    assert [request.precision for request in requests] == ["fp16"]


def test_a_damaged_onnx_or_one_without_a_card_is_refused(
    models: Path, requests: list[BuildRequest]
) -> None:
    onnx = models / "demo.img.fp16.onnx"
    with (models / f"{onnx.name}.extra_file").open("ab") as file:
        file.write(b"x")
    with pytest.raises(EngineDamagedError, match="extra_file has SHA-256"):
        build_engine(onnx, engine=models / "e.trt")
    card_path(onnx).unlink()
    with pytest.raises(CardError, match="no model card"):
        build_engine(onnx, engine=models / "e.trt")
    assert requests == []


def test_a_reference_of_another_checkpoint_is_refused(
    models: Path, requests: list[BuildRequest]
) -> None:
    path = models / "demo.img.fp32.onnx"
    card, _ = load_card(path)
    write_card(replace(card, checkpoint_sha256="0" * 64), card_path(path))
    with pytest.raises(UsageError, match="is of another model or size"):
        build_engine(models / "demo.img.fp16.onnx", engine=models / "e.trt")


def guide(models: Path, *more: str) -> list[str]:
    command = ["--model-arch", "demo", "--save-tensorrt-path", str(models / "demo")]
    command += ["--convert-text", "--text-onnx-path", str(models / "demo.txt.fp32.onnx")]
    command += ["--convert-vision", "--vision-onnx-path", str(models / "demo.img.fp32.onnx")]
    return [*command, *more]


def test_the_guides_command_ends_with_the_guides_lines(
    models: Path, requests: list[BuildRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--batch-size", "1", "--context-length", "52", "--fp16-banned-ops", "Softmax, Add"]
    assert main(guide(models, *options, "--fp16")) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "Finished ONNX to TensorRT conversion...",
        f">>> The text FP16 TensorRT model is saved at {models}/demo.txt.fp16.trt",
        f">>> The vision FP16 TensorRT model is saved at {models}/demo.img.fp16.trt",
    ]
    assert [request.fp32_ops for request in requests] == [("Softmax", "Add")] * 2


@pytest.mark.parametrize(
    ("flags", "precisions"),
    [([], ["fp32"]), (["--fp32"], ["fp32"]), (["--fp16", "--fp32"], ["fp32", "fp16"])],
)
def test_both_precisions_may_be_asked_for_and_the_files_is_the_default(
    models: Path, requests: list[BuildRequest], flags: list[str], precisions: list[str]
) -> None:
    assert main(guide(models, *flags)) == 0
    assert [request.precision for request in requests] == precisions * 2


@pytest.mark.usefixtures("requests")
def test_several_candidates_may_be_asked_for(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: list[int] = []

    def build_fastest(requests: Any, *, count: int, **options: Any) -> BuildResult:
        counts.append(count)
        return replace(candidates.build_fastest(requests, count=1, **options), candidates=count - 1)

    monkeypatch.setattr("clipfleet.convert.tensorrt.build.build_fastest", build_fastest)
    assert main(guide(models, "--candidates", "3")) == 0
    assert counts == [3, 3]
    card, _ = load_card(models / "demo.img.fp32.trt")
    assert card.build is not None
    assert card.build.candidates == 2, "as many as were built"
    assert main(guide(models, "--candidates", "0")) == WRONG_USE
    assert "--candidates is 0" in capsys.readouterr().err


def test_every_option_reaches_the_builder(models: Path, requests: list[BuildRequest]) -> None:
    options = "--optimization-level 5 --workspace-gib 0.5 --no-timing-cache --tactic-sources A,B"
    assert main(guide(models, *options.split(), "--log", str(models / "log"))) == 0
    request = requests[0]
    assert (request.optimization_level, request.workspace_bytes) == (5, 1 << 29)
    assert (request.timing_cache, request.tactic_sources) == (None, ("A", "B"))
    assert request.log == str(models / "log")
    assert main(guide(models, "--timing-cache", str(models / "t"))) == 0
    assert requests[-1].timing_cache == str(models / "t")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--model-arch", "RN50"), "--model-arch is RN50: demo.txt.fp32.onnx is demo"),
        (("--context-length", "64"), "--context-length is 64: .* for 52 tokens"),
        (("--text-onnx-path", str(DEMO / "demo.img.fp32.onnx")), "which is the vision tower"),
    ],
)
def test_what_the_card_contradicts_is_refused(
    models: Path,
    requests: list[BuildRequest],
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    message: str,
) -> None:
    assert main(guide(models, *change)) == 2
    error = capsys.readouterr().err
    assert error.startswith("onnx_to_tensorrt: ")
    assert re.search(message, error)
    assert requests == []


@pytest.mark.parametrize(
    ("towers", "message"),
    [
        ([], "nothing to build"),
        (["--convert-text"], "--convert-text needs its ONNX file: give --text-onnx-path"),
    ],
)
def test_a_tower_needs_its_flag_and_its_file(
    models: Path, capsys: pytest.CaptureFixture[str], towers: list[str], message: str
) -> None:
    command = ["--model-arch", "demo", "--save-tensorrt-path", str(models / "demo"), *towers]
    assert main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--workspace-gib", "--limit-s"])
@pytest.mark.parametrize("number", ["0", "-1", "nan"])
def test_limits_are_above_0(
    models: Path, capsys: pytest.CaptureFixture[str], name: str, number: str
) -> None:
    assert main(guide(models, f"{name}={number}")) == 2
    assert f"{name} is {number}: a number above 0" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(
    models: Path, requests: list[BuildRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "file").write_text("")
    command = [*guide(models), "--save-tensorrt-path", str(models / "file" / "demo")]
    assert main(command) == 2
    assert re.match(r"onnx_to_tensorrt: cannot read or write .*file", capsys.readouterr().err)
    with pytest.raises(UsageError, match="cannot read or write"):
        run_cli("build", models / "demo.img.fp16.onnx", "--out", models / "file" / "demo")


def test_a_tensorrt_engine_is_nothing_to_build_from(
    models: Path, requests: list[BuildRequest]
) -> None:
    (models / "x.trt").write_text("")
    with pytest.raises(UsageError, match=r"x\.trt is a TensorRT engine already: name the ONNX"):
        run_cli("build", models / "demo.img.fp16.onnx", models / "x.trt")
    assert requests == []


def test_engines_are_named_like_their_files(models: Path) -> None:
    card, onnx = load_card(models / "demo.img.fp32.onnx")
    own = onnx.with_name("x.onnx")
    for source, precision, name in [
        (onnx, "fp32", "demo.img.fp32.trt"),
        (onnx, "fp16", "demo.img.fp16.trt"),
        (own, "fp32", "x.trt"),
        (own, "fp16", "x.fp16.trt"),
    ]:
        assert engine_beside(card, source, precision) == models / name  # type: ignore[arg-type]
        onnx_of, engine_of = machine_pair(source)
        assert onnx_of == source
        if precision == "fp32":
            assert engine_of == models / name, "where workers look for it"


def run_cli(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_clipfleet_build_saves_beside_the_onnx_or_at_a_prefix(
    models: Path, requests: list[BuildRequest]
) -> None:
    files = [models / "demo.img.fp16.onnx", models / "demo.txt.fp16.onnx"]
    result = run_cli("build", *files, "--json")
    assert result.exit_code == 0
    names = [f"{models}/demo.{tower}.fp16.trt.card.json" for tower in ("img", "txt")]
    assert json.loads(result.stdout) == {"cards": names}
    result = run_cli("build", files[0], "--out", models / "other")
    assert result.exit_code == 0
    assert "other.img.fp16.trt.card.json: cosine ≥ 1.0000000 on 8 items" in result.stdout
    assert "built in 12.5 s" in result.stdout
    assert (models / "other.img.fp16.trt").is_file()


def test_an_engine_without_a_card_is_proved_and_gets_one(
    models: Path, requests: list[BuildRequest]
) -> None:
    engine = models / "demo.img.fp16.trt"
    write_plan(engine, models / "demo.img.fp16.onnx")
    result = run_cli("adopt", engine, "--json")
    assert result.exit_code == 0
    card, found = load_card(json.loads(result.stdout)["cards"][0])
    assert found == engine
    assert card.identity == load_card(models / "demo.img.fp16.onnx")[0].identity
    assert card.build is None
    assert card.profile == BatchProfile(smallest=1, optimum=1, largest=1)
    assert card.parity is not None
    assert card.parity.measured_on is not None
    assert card.parity.measured_on.engine_sha256 == card.engine_sha256


def test_an_adopted_engines_card_says_what_it_is_tuned_for(
    models: Path, requests: list[BuildRequest]
) -> None:
    engine = models / "demo.img.fp16.trt"
    write_plan(engine, models / "demo.img.fp16.onnx", 1, 8, optimum=4)
    card, _ = adopt_engine(engine)
    assert card.profile == BatchProfile(smallest=1, optimum=4, largest=8)


def test_an_adopted_engine_must_say_its_precision_somewhere(
    models: Path, requests: list[BuildRequest]
) -> None:
    engine, reference = models / "mine.trt", models / "demo.img.fp32.onnx"
    write_plan(engine, reference)
    with pytest.raises(UsageError, match="does not say its precision"):
        adopt_engine(engine, reference=reference)
    with pytest.raises(UsageError, match=r"no float32 ONNX at .*mine\.fp32\.onnx"):
        adopt_engine(engine, precision="fp16")
    card, _ = adopt_engine(engine, reference=reference, precision="fp32")
    assert card.precision == "fp32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": {"name": "x", "shape": [1, 3, 96, 96], "dtype": "float32"}}, "expected 'image'"),
        ({"input": {"name": "image", "shape": [1, 3, 9, 9], "dtype": "float32"}}, "3, 96, 96"),
        ({"input": {"name": "image", "shape": [1, 3, 96, 96], "dtype": "int8"}}, "int8"),
    ],
)
def test_an_engine_of_other_tensors_is_not_adopted(
    models: Path, requests: list[BuildRequest], change: dict[str, Any], message: str
) -> None:
    engine = models / "demo.img.fp16.trt"
    write_plan(engine, models / "demo.img.fp16.onnx", **change)
    with pytest.raises(EngineMismatchError, match=message):
        adopt_engine(engine)
    assert not card_path(engine).exists()


def test_an_engine_that_strays_is_not_adopted(
    models: Path, requests: list[BuildRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = models / "demo.txt.fp16.trt"
    write_plan(engine, models / "demo.txt.fp16.onnx")
    monkeypatch.setattr(PlayedEngine, "off", 0.1)
    with pytest.raises(VerificationError, match=r"demo\.txt\.fp16\.trt strays"):
        adopt_engine(engine)
    assert not card_path(engine).exists()
    with pytest.raises(UsageError, match="no engine at"):
        adopt_engine(models / "none.trt")
