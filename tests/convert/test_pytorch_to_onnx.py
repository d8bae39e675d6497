import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

from clipfleet.architectures import Architecture
from clipfleet.cli.main import app
from clipfleet.convert.checkpoints.load import save_checkpoint
from clipfleet.convert.conversion import convert
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.convert.pytorch_to_onnx import _closing_lines, main
from clipfleet.engine_files import sha256_of
from clipfleet.errors import CheckpointError, UsageError, VerificationError
from clipfleet.model_card import ModelCard, load_card
from clipfleet.workers.engines.onnx import OnnxEngine

Build = Callable[[Architecture], ChineseClip]
Converted = dict[str, tuple[ModelCard, Path]]

VIT_JSON = """{
  "name": "small-vit", "dim": 16, "resolution": 32,
  "vision": {"kind": "vit", "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
  "text": {"vocabulary_size": 21128, "layers": 2, "width": 32, "heads": 4,
           "intermediate_width": 64, "max_positions": 64}
}"""


def files_of(prefix: str, *engines: str) -> list[str]:
    kinds = ("", ".card.json", ".extra_file")
    return sorted(f"{prefix}.{engine}.onnx{kind}" for engine in engines for kind in kinds)


def test_the_cards_say_what_the_engines_are(converted: Converted) -> None:
    assert sorted(converted) == ["img.fp16", "img.fp32", "txt.fp16", "txt.fp32"]
    folder = next(iter(converted.values()))[1].parent
    assert sorted(os.listdir(folder)) == files_of("small", *converted)
    for name, (card, path) in converted.items():
        tower, precision = name.split(".")
        loaded, engine = load_card(path)
        assert loaded == card
        assert engine == folder / f"small.{name}.onnx"
        assert (card.tower, card.precision, card.runtime) == (tower, precision, "onnxruntime")
        assert card.architecture == "small-vit"
        assert card.runtime_version == ort.__version__
        assert card.checkpoint_sha256 == sha256_of(folder.parent / "small.pt")
        assert card.engine_sha256 == sha256_of(engine)
        assert card.extra_file_sha256 == sha256_of(folder / f"{card.extra_file}")
        assert card.logit_scale == pytest.approx(2.66, abs=0.01)
        assert card.batch_size == 1
        assert card.created_at is not None
        assert card.created_at.endswith("+00:00")
        assert card.parity is not None
        assert card.parity.passed
        assert card.parity.items == (8 if tower == "img" else 32)
        assert card.parity.reference == f"torch {torch.__version__} float32"
    assert len({card.identity for card, _ in converted.values()}) == 4


@pytest.mark.usefixtures("copied_exports")
def test_the_guides_command_prints_the_guides_lines(
    tmp_path: Path, vit_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.json").write_text(VIT_JSON)
    prefix = tmp_path / "deploy" / "mine"
    arguments = ["--model-arch", tmp_path / "small.json", "--pytorch-ckpt-path", vit_checkpoint]
    arguments += ["--save-onnx-path", prefix, "--convert-text", "--convert-vision"]
    assert main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:] == [
        "Finished PyTorch to ONNX conversion...",
        f">>> The text FP32 ONNX model is saved at {prefix}.txt.fp32.onnx",
        (
            f">>> The text FP16 ONNX model is saved at {prefix}.txt.fp16.onnx with extra file "
            f"{prefix}.txt.fp16.onnx.extra_file"
        ),
        f">>> The vision FP32 ONNX model is saved at {prefix}.img.fp32.onnx",
        (
            f">>> The vision FP16 ONNX model is saved at {prefix}.img.fp16.onnx with extra file "
            f"{prefix}.img.fp16.onnx.extra_file"
        ),
    ]
    assert any(line == "verifying mine.img.fp16.onnx" for line in lines), "it shows progress"
    assert sorted(os.listdir(prefix.parent)) == files_of(
        "mine", "img.fp16", "img.fp32", "txt.fp16", "txt.fp32"
    )


def test_the_guide_names_the_extra_file_of_a_float32_tower_of_over_2_gb(
    tmp_path: Path, converted: Converted
) -> None:
    card, _ = converted["img.fp32"]
    extra = tmp_path / f"{card.extra_file}"
    with extra.open("wb") as file:
        file.truncate(2**31 + 1)  # ViT-H-14's; a sparse file
    _, line = _closing_lines([(card, tmp_path)], tmp_path / "small")
    assert line.endswith(f"is saved at {tmp_path / card.engine} with extra file {extra}")


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model-arch", "ViT-B-16", "--save-onnx-path", str(tmp_path / "m")]
    arguments += ["--convert-text", "--pytorch-ckpt-path", str(tmp_path / "none.pt")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(
        f"pytorch_to_onnx: checkpoint {tmp_path / 'none.pt'} is missing"
    )
    assert os.listdir(tmp_path) == []


def test_no_tower_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--model-arch", "RN50", "--save-onnx-path", str(tmp_path / "m")])
    assert raised.value.code == 2
    assert "give --convert-text, --convert-vision or both" in capsys.readouterr().err


def test_only_what_is_asked_for_is_made(
    tmp_path: Path, vit: Architecture, vit_checkpoint: Path
) -> None:
    steps: list[str] = []
    models = convert(
        architecture=vit,
        checkpoint=vit_checkpoint,
        save_prefix=tmp_path / "out" / "m",
        towers=("txt",),
        precisions=("fp16",),
        batch_size=None,
        context_length=20,
        progress=steps.append,
    )
    assert sorted(os.listdir(tmp_path / "out")) == files_of("m", "txt.fp16")
    ((card, path),) = models
    assert card.input.shape == (None, 20)
    assert steps[-2:] == ["exporting m.txt.fp16.onnx", "verifying m.txt.fp16.onnx"]
    with OnnxEngine(*load_card(path), provider="cpu", max_batch=3) as engine:
        ids = np.arange(1, 101, dtype=np.int64).reshape(5, 20)
        features = engine(ids)
        assert features.shape == (5, 16)
        assert np.allclose(features[3], engine(ids[3:4])[0], atol=1e-2)


def test_a_fixed_batch_size_is_kept(
    tmp_path: Path, vit: Architecture, vit_checkpoint: Path
) -> None:
    ((card, path),) = convert(
        architecture=vit,
        checkpoint=vit_checkpoint,
        save_prefix=tmp_path / "m",
        towers=("img",),
        precisions=("fp32",),
        batch_size=3,
    )
    assert card.batch_size == 3
    with OnnxEngine(*load_card(path), provider="cpu") as engine:
        assert engine(np.zeros((4, 3, 32, 32), dtype=np.float32)).shape == (4, 16)


@pytest.mark.usefixtures("copied_exports")
def test_a_float32_engine_that_strays_is_not_kept_and_the_old_pair_stays(
    tmp_path: Path, vit: Architecture, vit_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in files_of("m", "img.fp32", "img.fp16"):
        (folder / name).write_text(f"the old {name}")
    monkeypatch.setattr("clipfleet.convert.parity.THRESHOLDS", {"fp32": 1.1, "fp16": 0.9999})
    with pytest.raises(VerificationError, match=r"m\.img\.fp32\.onnx strays.*it was not kept"):
        convert(
            architecture=vit, checkpoint=vit_checkpoint, save_prefix=folder / "m", towers=("img",)
        )
    assert sorted(os.listdir(folder)) == files_of("m", "img.fp16", "img.fp32")
    for path in folder.iterdir():
        assert path.read_text() == f"the old {path.name}"


@pytest.mark.usefixtures("copied_exports")
def test_float16_engines_that_stray_leave_the_float32_engines_of_both_towers(
    tmp_path: Path, vit: Architecture, vit_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in files_of("m", "img.fp16"):
        (folder / name).write_text(f"the old {name}")
    monkeypatch.setattr("clipfleet.convert.parity.THRESHOLDS", {"fp32": 0.999999, "fp16": 1.1})
    with pytest.raises(VerificationError) as raised:
        convert(architecture=vit, checkpoint=vit_checkpoint, save_prefix=folder / "m")
    message = str(raised.value)
    for tower in ("img", "txt"):
        assert f"m.{tower}.fp16.onnx strays from torch" in message
        assert str(folder / f"m.{tower}.fp32.onnx") in message.partition("Kept: ")[2]
        card, path = load_card(folder / f"m.{tower}.fp32.onnx")
        assert card.parity is not None
        OnnxEngine(card, path, provider="cpu").close()  # checks the files' SHA-256
    assert message.endswith("`--precision fp32`")
    assert sorted(os.listdir(folder)) == files_of("m", "img.fp16", "img.fp32", "txt.fp32")
    for name in files_of("m", "img.fp16"):
        assert (folder / name).read_text() == f"the old {name}"


@pytest.mark.usefixtures("copied_exports")
def test_a_float16_engine_alone_that_strays_leaves_nothing(
    tmp_path: Path,
    vit_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "small.json").write_text(VIT_JSON)
    monkeypatch.setattr("clipfleet.convert.parity.THRESHOLDS", {"fp32": 0.999999, "fp16": 1.1})
    arguments = ["convert", str(tmp_path / "small.json"), str(tmp_path / "out" / "m")]
    arguments += ["--checkpoint", str(vit_checkpoint), "--tower", "txt", "--precision", "fp16"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, VerificationError)
    assert "Kept: nothing." in str(result.exception)
    assert os.listdir(tmp_path / "out") == []


def test_weights_that_are_not_finite_are_not_converted(
    tmp_path: Path, vit: Architecture, build: Build
) -> None:
    model = build(vit)
    with torch.no_grad():
        model.get_parameter("visual.proj")[0, 0] = torch.nan
    save_checkpoint(model, tmp_path / "nan.pt", half=False)
    with pytest.raises(VerificationError, match="a weight is not finite"):
        convert(architecture=vit, checkpoint=tmp_path / "nan.pt", save_prefix=tmp_path / "o" / "m")
    assert os.listdir(tmp_path / "o") == []


def test_a_second_conversion_replaces_the_first(
    tmp_path: Path, vit: Architecture, build: Build, converted: Converted
) -> None:
    first, path = converted["txt.fp32"]
    for name in files_of("small", "txt.fp32"):
        shutil.copy(path.parent / name, tmp_path)
    model = build(vit)
    with torch.no_grad():
        model.text_projection.mul_(2)
    save_checkpoint(model, tmp_path / "other.pt", half=True)
    ((second, path),) = convert(
        architecture=vit,
        checkpoint=tmp_path / "other.pt",
        save_prefix=tmp_path / "small",
        towers=("txt",),
        precisions=("fp32",),
    )
    OnnxEngine(*load_card(path), provider="cpu").close()  # checks both files' SHA-256
    assert second.extra_file_sha256 != first.extra_file_sha256
    assert second.identity != first.identity
    assert sorted(os.listdir(tmp_path)) == ["other.pt", *files_of("small", "txt.fp32")]


def test_a_conversion_stopped_with_sigterm_leaves_nothing(
    tmp_path: Path, vit_checkpoint: Path
) -> None:
    (tmp_path / "small.json").write_text(VIT_JSON)
    folder = tmp_path / "models"
    command = [sys.executable, "-m", "clipfleet.convert.pytorch_to_onnx", "--convert-text"]
    command += ["--model-arch", str(tmp_path / "small.json")]
    command += ["--pytorch-ckpt-path", str(vit_checkpoint), "--save-onnx-path", str(folder / "m")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("exporting"):
                assert len(os.listdir(folder)) == 1, "the hidden folder it builds in"
                child.terminate()
                break
        child.stdout.read()
    assert child.returncode != 0
    assert os.listdir(folder) == []


def test_a_conversion_stopped_with_ctrl_c_leaves_nothing(
    tmp_path: Path, vit: Architecture, vit_checkpoint: Path
) -> None:
    def stop(step: str) -> None:
        if step.startswith("exporting"):
            assert len(os.listdir(tmp_path / "models")) == 1, "the hidden folder it builds in"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(
            architecture=vit,
            checkpoint=vit_checkpoint,
            save_prefix=tmp_path / "models" / "m",
            progress=stop,
        )
    assert os.listdir(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"towers": ()}, r"towers are \[\]"),
        ({"precisions": ("int8",)}, r"precisions are \['int8'\]"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"context_length": 65}, "context length is 65: small-vit takes 3 to 64"),
        ({"context_length": 2}, "context length is 2"),
        ({"save_prefix": "/"}, "/ is no prefix of file names"),
    ],
)
def test_an_impossible_request_is_refused(
    tmp_path: Path, vit: Architecture, vit_checkpoint: Path, wrong: dict[str, object], message: str
) -> None:
    request = {"architecture": vit, "checkpoint": vit_checkpoint, "save_prefix": tmp_path / "m"}
    with pytest.raises(UsageError, match=message):
        convert(**(request | wrong))  # type: ignore[arg-type]


def test_a_wrong_checkpoint_makes_no_folder(
    tmp_path: Path, vit: Architecture, resnet: Architecture, build: Build
) -> None:
    save_checkpoint(build(resnet), tmp_path / "other.pt", half=True)
    with pytest.raises(CheckpointError, match="does not hold the weights of small-vit"):
        convert(
            architecture=vit, checkpoint=tmp_path / "other.pt", save_prefix=tmp_path / "o" / "m"
        )
    assert not (tmp_path / "o").exists()
