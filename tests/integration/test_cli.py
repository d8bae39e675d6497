"""The command line: help, exit codes, and errors of one line."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from clipfleet.cli.main import app, command_line
from clipfleet.cli.output import DONE, WRONG_USE
from clipfleet.convert.prepare import Prepared
from clipfleet.error_codes import FETCH_TIMEOUT, MISSING, SERVER_BUSY
from clipfleet.errors import CardError, ClipfleetError, SourceError, UsageError
from clipfleet.items import Item
from clipfleet.model_card import card_path
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource, Source
from clipfleet.tasks.snapshot import Snapshot, duration, sentence
from clipfleet.workers.engines.fake import fake_card, write_fake_engine
from tests.integration.support import run_command

COMMANDS = tuple(command_line().commands)


@pytest.fixture(autouse=True)
def _commands_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.testing._get_command", lambda _: command_line())


def run(*arguments: str, columns: int = 80) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})


def test_version() -> None:
    assert run("--version").stdout.startswith("clipfleet ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_in_its_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == DONE
    assert f"\n  clipfleet {command}" in result.stdout


def test_the_list_of_commands_is_whole_in_80_columns() -> None:
    listed = run("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert listed == run("--help", columns=200).stdout.partition("Commands:\n")[2].splitlines()
    assert max(map(len, listed)) <= 80
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_an_unknown_option_is_wrong_use() -> None:
    assert run("verify", "--no-such-option").exit_code == WRONG_USE


def test_a_missing_model_card_is_one_line_that_says_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    command = [sys.executable, "-m", "clipfleet", "embed", "photos", "out"]
    command += ["--model", "absent.onnx"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == WRONG_USE
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("clipfleet: no model card at absent.onnx:")
    assert "clipfleet convert" in line


def test_verifying_no_dataset_is_wrong_use(tmp_path: Path) -> None:
    result = run_command("verify", "nowhere", cwd=tmp_path)
    assert result.returncode == WRONG_USE
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_setting_names_itself(tmp_path: Path) -> None:
    (tmp_path / "clipfleet.toml").write_text("shard_sise = 5\n")
    result = run_command("doctor", cwd=tmp_path)
    assert result.returncode == WRONG_USE
    assert "shard_sise" in result.stderr


def test_doctor_names_a_card_that_is_missing(tmp_path: Path) -> None:
    result = run_command("doctor", "--json", "--model", "absent.onnx", cwd=tmp_path)
    assert result.returncode == WRONG_USE
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["model absent.onnx"]["state"] == "broken"
    assert checks["model absent.onnx"]["remedy"] == "clipfleet convert"
    assert checks["Python"]["state"] == "ok"


def test_a_worker_builds_from_a_file_and_not_from_a_folder(tmp_path: Path) -> None:
    write_fake_engine(tmp_path, "txt")
    command = ["worker", "--tower", "txt", "--model", str(tmp_path), "--output", "out"]
    result = run(*command, "--build-if-missing")
    assert isinstance(result.exception, UsageError)
    assert f"{tmp_path} is a folder: name the file, or build" in str(result.exception)
    result = run(*command[:2], "img", *command[3:])
    assert isinstance(result.exception, CardError)
    assert "no engine of the img tower: it holds fake.txt" in str(result.exception)


def test_workers_and_gpus_are_one_or_the_other(tmp_path: Path) -> None:
    card = write_fake_engine(tmp_path, "txt")
    arguments = ["t.txt", "out", "--model", str(card), "--workers", "2", "--gpus", "all"]
    result = run_command("embed", *arguments, cwd=tmp_path)
    assert result.returncode == WRONG_USE
    assert result.stderr.startswith("clipfleet: --workers and --gpus: --gpus starts one worker")


def test_a_redis_that_does_not_answer_is_wrong_environment_in_one_line(tmp_path: Path) -> None:
    card = write_fake_engine(tmp_path, "txt")
    (tmp_path / "t.txt").write_text("a\nb\n")
    arguments = ["t.txt", "out", "--model", str(card), "--redis-url", "redis://127.0.0.1:1/0"]
    for command in ("embed", "submit"):
        result = run_command(command, *arguments, cwd=tmp_path)
        assert result.returncode == WRONG_USE
        assert "Redis at redis://127.0.0.1:1/0 does not answer" in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr


def test_an_unknown_architecture_names_the_known_ones() -> None:
    result = run("convert", "ViT-B-99", "out")
    assert isinstance(result.exception, ClipfleetError)
    assert "ViT-B-16" in str(result.exception)


def test_a_published_model_has_a_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    folders = []

    def prepare(_: str, folder: Path, **__: Any) -> Prepared:
        folders.append(folder)
        return Prepared(engines=[], no_tensorrt="")

    monkeypatch.setattr("clipfleet.convert.prepare.prepare", prepare)
    assert "use it with --model ViT-B-16" in run("prepare", "ViT-B-16").stdout
    assert "use it with --model there" in run("prepare", "ViT-B-16", "there").stdout
    assert folders == [Path("models/vit-b-16"), Path("there")]
    for own in (("mine.pt",), ("ViT-B-16", "--checkpoint", "mine.pt")):
        result = run("prepare", *own)
        assert isinstance(result.exception, UsageError)
        assert "no folder is named for mine.pt" in str(result.exception)


@pytest.mark.parametrize(
    "command",
    [
        ("embed", "a.csv", "out", "--model"),
        ("submit", "a.csv", "out", "--tower", "both", "--model"),
        ("bench", "a.csv", "--model"),
        ("worker", "--tower", "txt", "--output", "out", "--model"),
        ("similarity", "--text", "a cat", "--image", "a.jpg", "--model"),
        ("muge", "data", "--model"),
    ],
)
def test_every_command_takes_a_models_name_and_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "a.csv").write_text("id,text\n1,a cat\n")
    result = run(*command, "ViT-B-16")
    assert isinstance(result.exception, CardError)
    assert "`clipfleet prepare ViT-B-16` makes it" in str(result.exception)


def test_models_that_are_there_are_not_converted_again(tmp_path: Path) -> None:
    card = write_fake_engine(tmp_path, "txt")
    for tower in ("img", "txt"):
        for precision in ("fp32", "fp16"):
            engine = tmp_path / f"model.{tower}.{precision}.onnx"
            told = json.loads(card.read_text())
            engine.write_bytes((tmp_path / told["engine"]).read_bytes())
            card_path(engine).write_text(json.dumps({**told, "engine": engine.name}))
    arguments = ("convert", "no-architecture", str(tmp_path / "model"), "--if-missing", "--json")
    cards = json.loads(run(*arguments).stdout)["cards"]
    assert len(cards) == 4
    Path(cards[0]).unlink()
    result = run(*arguments)
    assert isinstance(result.exception, ClipfleetError)
    assert "no-architecture" in str(result.exception)


@pytest.mark.parametrize(
    ("missing", "module", "arguments"),
    [
        ("torch", "clipfleet.cli.main", ["convert", "demo", "m"]),
        (
            "onnx_ir",
            "clipfleet.convert.pytorch_to_onnx",
            ["--model-arch", "demo", "--save-onnx-path", "m", "--convert-text"],
        ),
    ],
)
def test_converting_without_pytorch_or_onnx_names_the_way_out(
    tmp_path: Path, missing: str, module: str, arguments: list[str]
) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; "
    script += f"from {module} import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == WRONG_USE
    (line,) = result.stderr.splitlines()
    assert missing in line
    assert "from a checkout, pip install -c constraints.txt --extra-index-url" in line
    assert line.endswith("then pip install -c constraints.txt '.[cpu,convert]'")


def test_options_of_checkpoints_are_refused_with_an_onnx_file() -> None:
    result = run("convert", "demo", "m", "--from-onnx", "f.onnx", "--tower", "img")
    assert str(result.exception).startswith("--tower: not with --from-onnx")
    result = run("convert", "demo", "m", "--logit-scale", "4.6")
    assert str(result.exception).startswith("--logit-scale is for --from-onnx")


def test_a_snapshot_in_words() -> None:
    running = Snapshot(total=20_000, done=5_000, errors=3, items_per_s=1000.0)
    assert sentence(running) == "5,000/20,000 items, 1,000/s, 3 failed, 15 s left"
    stalled = replace(running, items_per_s=0.0, stall_reason="the disk is full")
    assert sentence(stalled).endswith("3 failed, stalled: the disk is full")
    waiting = Snapshot(total=20_000, done=0, errors=0, items_per_s=0.0)
    assert sentence(waiting) == "0/20,000 items, 0/s, 0 failed"


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.6, "5 s"), (125, "2 min 5 s"), (10_920, "3 h 2 min")]
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_transient_errors_are_told_from_the_others_and_chosen_by_one_name(tmp_path: Path) -> None:
    root = str(tmp_path / "d")
    dataset = Dataset.create(
        root, fake_card("txt", dim=2), kind="planned", embedding_dtype="float16"
    )
    items = [Item(id=code, text="words") for code in (MISSING, SERVER_BUSY, FETCH_TIMEOUT)]
    plan_items(dataset, ListSource(items), 3)
    failures = [Failure(item=item, error=item.id, message="told") for item in items]
    vectors = np.zeros((0, 2), np.float32)
    embedded = Embedded(items=[], vectors=vectors, sizes=None, failures=failures)
    (shard,) = missing_shards(dataset)
    commit(dataset, shard.name, embedded, card=fake_card("txt", dim=2), worker="w")
    shown = run("errors", root).output
    assert "1 × missing\n" in shown
    assert "1 × server_busy (transient)\n" in shown
    found = json.loads(run("errors", root, "--only", "transient", "--json").output)["classes"]
    assert {code: told["transient"] for code, told in found.items()} == {
        FETCH_TIMEOUT: True,
        SERVER_BUSY: True,
    }


def test_what_cannot_be_retried_is_wrong_use(tmp_path: Path) -> None:
    for options, said in (
        (
            ("--only", "mising"),
            "is not a class of error; the classes are empty_file",
        ),
        (("--only", "bad_item"), "nothing of such an item was kept"),
        (("--workers", "2"), "name the model too"),
        (("--url-host", "a.example"), "name the --model as well"),
    ):
        result = run_command("retry", "out", *options, cwd=tmp_path)
        assert result.returncode == WRONG_USE
        assert said in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (("worker", "--tower", "txt", "--output", "."), "clipfleet.tasks.worker.main.run_worker"),
        (("embed", "t.txt", "out"), "clipfleet.tasks.local.run.embed_source"),
        (("retry", "out"), "clipfleet.tasks.local.run.retry_here"),
    ],
)
def test_hosts_of_urls_may_be_named_in_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], runs: str
) -> None:
    """They replace the environment's; without any, those stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPFLEET_URL_HOSTS", "set.example")
    (tmp_path / "t.txt").write_text("a\n")
    model = ("--model", str(write_fake_engine(tmp_path, "txt")))
    found: list[tuple[str, ...]] = []

    def stop(*given: Any, **named: Any) -> None:
        found.append((named.get("settings") or given[0]).url_hosts)
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    monkeypatch.setattr(runs, stop)
    run(*arguments, *model)
    run(*arguments, *model, "--url-host", "a.example", "--url-host", "*.b.example")
    assert found == [("set.example",), ("a.example", "*.b.example")]


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("embed", "clipfleet.tasks.local.run.embed_source"),
        ("submit", "clipfleet.tasks.submit.submit.submit"),
    ],
)
def test_the_files_of_a_folder_are_chosen_in_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, runs: str
) -> None:
    (tmp_path / "photos" / "raw").mkdir(parents=True)
    for name in ("a.jpg", "b.dat", "c.txt", "raw/d.jpg"):
        (tmp_path / "photos" / name).touch()
    given = (command, str(tmp_path / "photos"), "out")
    model = ("--model", str(write_fake_engine(tmp_path, "img")), "--exclude", "RAW")
    found: list[list[str]] = []

    def stop(source: Source, *_: Any, **__: Any) -> None:
        found.append([item.id for item in source])
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    monkeypatch.setattr(runs, stop)
    run(*given, *model)
    run(*given, *model, "--include", "*.dat", "--include", "c.*")
    assert found == [["a.jpg"], ["b.dat", "c.txt"]]
    result = run(*given, *model, "--fail-on-skipped")
    assert isinstance(result.exception, SourceError)
    assert "(.dat 1, .txt 1): exclude them" in str(result.exception)
