"""Every command of the README, run in its order, as a new user would."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import torch

from clipfleet.architectures import load_architecture
from clipfleet.convert.checkpoints.load import save_checkpoint
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.tasks.local.redis_server import server_command
from tests.hub import Hub, resolve_path, serve
from tests.integration.support import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCENES = ROOT / "examples" / "demo" / "scenes.py"
PICTURES = 4

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def targets() -> set[str]:
    return set(re.findall(r"^    make (\w+)$", README, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    """A ViT-B-16 checkpoint in the published form; its weights are random."""
    torch.manual_seed(0)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"clipfleet-readme-{os.getpid()}.pt"
    save_checkpoint(ChineseClip(load_architecture("ViT-B-16")), path, half=True)
    try:
        return path.read_bytes()
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def hub(checkpoint: bytes) -> Iterator[Hub]:
    published = load_architecture("ViT-B-16").published
    assert published is not None
    with serve(Hub(path=resolve_path(published), content=checkpoint)) as served:
        yield served


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README takes for granted: photos/ and captions.jsonl."""
    home = tmp_path_factory.mktemp("user")
    subprocess.run([sys.executable, SCENES, home, "--count", str(PICTURES)], check=True)
    (home / "images").rename(home / "photos")
    return home


@pytest.fixture(scope="module")
def environment(user: Path, hub: Hub) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CLIPFLEET_")}
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**clean, "PATH": binaries, "HF_ENDPOINT": hub.endpoint, "HOME": str(user)}


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


def test_the_readme_names_the_targets_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert targets() == {"demo", "test"}
    for target in targets():
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_extras_of_the_readme_exist() -> None:
    named = re.findall(r"pip install -c constraints.txt '\.\[([\w,]+)\]'", README)
    text = (ROOT / "pyproject.toml").read_text()
    known = re.search(
        r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL
    )
    assert known is not None
    for extra in {extra for extras in named for extra in extras.split(",")}:
        assert re.search(rf"^{extra} = \[", known[1], flags=re.MULTILINE), extra


def test_every_command_runs_in_its_order(
    user: Path, environment: dict[str, str], redis_server: str
) -> None:
    fleet = {**environment, "CLIPFLEET_REDIS_URL": redis_server}
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for block in blocks("sh"):
            if block.startswith("clipfleet worker"):
                workers.append(subprocess.Popen(["sh", "-c", f"exec {block}"], cwd=user, env=fleet))
                continue
            run = subprocess.run(
                ["sh", "-e", "-c", block],
                cwd=user,
                env=fleet if workers else environment,
                capture_output=True,
                text=True,
                check=False,
            )
            print(block, run.stdout, sep="\n")
            assert run.returncode == 0, f"{block}\n{run.stdout}\n{run.stderr}"
        assert len(workers) == 1
        item = user / "photos" / "000000.jpg"
        for example in blocks("python")[-2:]:  # a bare Celery, and ours
            told = example.replace("/data/cat.jpg", str(item))
            told = told.replace("redis://127.0.0.1:6379/0", redis_server)
            subprocess.run([sys.executable, "-c", told], cwd=user, env=fleet, check=True)
        written = user / "vectors" / "items-img" / "manifest"
        wait_until(lambda: written.is_dir() and any(written.iterdir()), what="a part")
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=PATIENCE_S) == 0
    assert redis.Redis.from_url(redis_server.replace("redis+socket", "unix")).ping()


def test_the_vectors_are_read_as_the_readme_reads_them(
    user: Path, environment: dict[str, str]
) -> None:
    """Runs after the commands, on what they wrote."""
    subprocess.run([sys.executable, "-c", blocks("python")[0]], cwd=user, check=True)
