"""Every command of the README and of the tutorial, run in its order, as a new user would."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from pydantic import TypeAdapter

from clipfleet.architectures import Architecture, VisionTransformer, load_architecture
from clipfleet.tasks.local.redis_server import server_command
from tests.hub import Hub, resolve_path, serve
from tests.integration.support import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs/tutorial/first-steps.md").read_text(encoding="utf-8")
SCENES = ROOT / "examples" / "demo" / "scenes.py"
PICTURES = 4
QUERIES = "海滩\n一只猫\n雪山\n"
CLONE = "git clone https://github.com/clipfleet/clipfleet\ncd clipfleet\n"
NOT_CLONED = (".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "site", "demo-output")
CACHES = (".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1200)]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def run(block: str, cwd: Path, environment: dict[str, str], exit_code: int = 0) -> str:
    done = subprocess.run(
        ["sh", "-e", "-c", block],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(block, done.stdout, sep="\n")
    assert done.returncode == exit_code, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def model() -> Architecture:
    """A small model with the name, the inputs and the outputs of the README's ViT-B-16."""
    full = load_architecture("ViT-B-16")
    vision = VisionTransformer(kind="vit", layers=1, width=64, head_width=32, patch_size=32)
    text = replace(full.text, layers=1, width=64, heads=2, intermediate_width=128)
    return replace(full, vision=vision, text=text)


@pytest.fixture(scope="module")
def hub(model: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a checkpoint of the small model in the published form, with random weights."""
    import torch

    from clipfleet.convert.checkpoints.load import save_checkpoint
    from clipfleet.convert.model.chinese_clip import ChineseClip

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / "checkpoint.pt"
    save_checkpoint(ChineseClip(model), path, half=True)
    assert model.published is not None
    with serve(Hub(path=resolve_path(model.published), content=path.read_bytes())) as served:
        yield served


@pytest.fixture(scope="module")
def checkout(model: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in place of the clone, with a user's photos/ and queries.txt.

    Its ViT-B-16 is the small model.
    """
    folder = tmp_path_factory.mktemp("user") / "clipfleet"
    ignored = shutil.ignore_patterns(*NOT_CLONED, *CACHES)
    shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored)
    described = TypeAdapter(Architecture).dump_json(model)
    (folder / "clipfleet" / "architectures" / "ViT-B-16.json").write_bytes(described)
    subprocess.run([sys.executable, SCENES, folder, "--count", str(PICTURES)], check=True)
    (folder / "images").rename(folder / "photos")
    (folder / "photos" / "000000.jpg").rename(folder / "photos" / "cat.jpg")
    (folder / "queries.txt").write_text(QUERIES, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def environment(checkout: Path, hub: Hub) -> dict[str, str]:
    """The environment of a shell in which the virtual environment of the README is active.

    Nothing is downloaded: the packages of the running interpreter count as installed.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CLIPFLEET_")}
    venv = checkout / ".venv"
    folders = [str(venv / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **clean,
        "PATH": os.pathsep.join(folders),
        "VIRTUAL_ENV": str(venv),
        "PYTHONPATH": str(Path(np.__file__).parents[1]),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as the option --no-build-isolation
        "HF_ENDPOINT": hub.endpoint,
        "HOME": str(checkout.parent),
        "COUNT": "40",  # pictures of `make demo`
    }


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Redis that a fleet's machines reach."""
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    with subprocess.Popen([*server_command(), *options], stdout=subprocess.DEVNULL) as server:
        wait_until(socket.exists, what="the server's socket")
        yield f"redis+socket://{socket}"
        server.terminate()


def test_the_extras_of_the_pages_exist() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    known = re.search(
        r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL
    )
    assert known is not None
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for extras in re.findall(r"'\.\[([\w,]+)\]'", page.read_text(encoding="utf-8")):
            for extra in extras.split(","):
                assert re.search(rf"^{extra} = \[", known[1], flags=re.MULTILINE), (page, extra)


def test_the_installation_puts_the_command_on_the_path(
    checkout: Path, environment: dict[str, str]
) -> None:
    install = blocks(README, "sh")[0]
    assert install.startswith(CLONE)
    found = run(f"{install.removeprefix(CLONE)}command -v clipfleet", checkout, environment)
    assert found.split()[-1] == str(checkout / ".venv" / "bin" / "clipfleet")


def test_every_other_command_runs_in_its_order(
    checkout: Path, environment: dict[str, str], redis_server: str
) -> None:
    """Runs after the installation. A later `pip install` only finds what it would install."""
    environment = {**environment, "PIP_DRY_RUN": "1"}
    fleet = {**environment, "CLIPFLEET_REDIS_URL": redis_server}
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for block in blocks(README, "sh")[1:]:
            if block.startswith("clipfleet worker"):
                command = ["sh", "-c", f"exec {block}"]
                workers.append(subprocess.Popen(command, cwd=checkout, env=fleet))
            else:
                run(block, checkout, fleet if workers else environment)
        assert len(workers) == 1
        photo = checkout / "photos" / "cat.jpg"
        for example in blocks(README, "python"):
            here = example.replace("/data/cat.jpg", str(photo))
            here = here.replace("redis://127.0.0.1:6379/0", redis_server)
            python = checkout / ".venv" / "bin" / "python"
            subprocess.run([python, "-c", here], cwd=checkout, env=fleet, check=True)
        written = checkout / "vectors" / "items-img" / "manifest"
        wait_until(lambda: written.is_dir() and any(written.iterdir()), what="a part")
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=PATIENCE_S) == 0
    assert redis.Redis.from_url(redis_server.replace("redis+socket", "unix")).ping()


def test_the_tutorial_goes_on_from_there(checkout: Path, environment: dict[str, str]) -> None:
    """Runs after the README's commands; blocks that the tutorial repeats are not run again."""
    done = {line for block in blocks(README, "sh") for line in block.splitlines()}
    printed = {}
    for block in blocks(TUTORIAL, "sh"):
        fails = "broken.jpg\nclipfleet embed" in block or block.startswith("clipfleet errors")
        if "errors" in block or not done.issuperset(block.splitlines()):
            printed[block] = run(block, checkout, environment, exit_code=1 if fails else 0)
    [errors] = [text for block, text in printed.items() if block.startswith("clipfleet errors")]
    assert "unsupported_format" in errors
    assert "broken.jpg" in errors
    assert (checkout / "queries.txt").read_text(encoding="utf-8") == QUERIES
    [example] = blocks(TUTORIAL, "python")
    python = checkout / ".venv" / "bin" / "python"
    found = subprocess.check_output([python, "-c", example], cwd=checkout, env=environment)
    print(found.decode())
    assert all(text in found.decode() for text in QUERIES.split())
    assert found.decode().count(".jpg") == 3 * len(QUERIES.split())


def test_the_vectors_are_read_as_the_guide_reads_them(
    checkout: Path, environment: dict[str, str]
) -> None:
    """Runs after the commands, on what they wrote."""
    guide = (ROOT / "docs/how-to/embed.md").read_text(encoding="utf-8")
    [example] = blocks(guide, "python")
    subprocess.run([sys.executable, "-c", example], cwd=checkout, check=True)
