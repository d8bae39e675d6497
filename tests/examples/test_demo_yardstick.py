"""The yardstick's vectors travel between interpreters."""

import sys
from pathlib import Path

import numpy as np
import pytest

from examples.demo import yardstick
from examples.demo.saved_vectors import SavedVectors, digests

COUNT = "12"
CHECKPOINT = yardstick.checkpoint_of(yardstick.HERE / "model" / "demo")


def run(monkeypatch: pytest.MonkeyPatch, *flags: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["yardstick", "--pictures", COUNT, *map(str, flags)])
    yardstick.main()


def test_saved_vectors_stand_in_one_table_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "vectors.npz"
    run(monkeypatch, "--runtimes", "onnx-fp16", "--save", saved)
    assert "| engine |" not in capsys.readouterr().out
    run(monkeypatch, "--runtimes", "pytorch", "--with", saved)
    apart = capsys.readouterr().out
    run(monkeypatch, "--runtimes", "pytorch", "onnx-fp16")
    assert capsys.readouterr().out == apart
    assert apart.count("| ONNX fp16 |") == 4  # two tables, two languages
    assert "Largest difference from PyTorch fp32:" in apart


def test_vectors_of_other_captions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = SavedVectors(CHECKPOINT)
    saved.add("by chance", {"images": "1", "Chinese": "2", "English": "3"}, {})
    saved.write(tmp_path / "other.npz")
    with pytest.raises(SystemExit, match="the saved vectors are of other items"):
        run(monkeypatch, "--runtimes", "pytorch", "--with", tmp_path / "other.npz")


def test_a_difference_above_the_tolerance_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = SavedVectors(CHECKPOINT)
    for title in yardstick.DRAWN:
        inputs = yardstick.draw_inputs(title, int(COUNT))
        wrong = {kind: np.eye(len(array), 128, dtype=np.float32) for kind, array in inputs.items()}
        wrong["images"] = wrong["images"][::-1].copy()
        saved.add(title, digests(inputs), {"TensorRT fp16": wrong})
    saved.write(tmp_path / "wrong.npz")
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--runtimes", "pytorch", "--with", tmp_path / "wrong.npz")
    assert ended.value.code == 1
    assert "| TensorRT fp16 |" in capsys.readouterr().out


def test_vectors_of_other_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SavedVectors("0" * 64).write(tmp_path / "other.npz")
    with pytest.raises(SystemExit, match=f"of the checkpoint 0{{64}}, and these of {CHECKPOINT}"):
        run(monkeypatch, "--runtimes", "pytorch", "--with", tmp_path / "other.npz")


def test_a_runtime_that_is_there_twice_is_refused() -> None:
    vectors = {"images": np.zeros((1, 2), np.float32)}
    found = {"PyTorch fp32": vectors}
    yardstick.take({"TensorRT fp16": vectors}, found)
    assert list(found) == ["PyTorch fp32", "TensorRT fp16"]
    with pytest.raises(ValueError, match="the vectors of TensorRT fp16 are there twice"):
        yardstick.take({"TensorRT fp16": vectors}, found)


def test_pictures_of_another_pillow_are_noted() -> None:
    inputs = {name: np.zeros(3) for name in ("images", "Chinese", "English")}
    saved = SavedVectors()
    saved.add("by chance", {**digests(inputs), "images": "other"}, {})
    assert "another Pillow" in (saved.check("by chance", digests(inputs)) or "")
    assert saved.check("by chance", {**digests(inputs), "images": "other"}) is None


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("no vectors")
    with pytest.raises(ValueError, match=r"x\.npz holds no saved vectors"):
        SavedVectors.read(tmp_path / "x.npz")


def test_a_table_without_pytorch_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--runtimes", "onnx-fp16")
    assert "a table needs pytorch" in capsys.readouterr().err
