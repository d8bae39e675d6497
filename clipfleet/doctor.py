"""What works on this machine, what does not, and how to mend it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from clipfleet.card import check_files, load_card
from clipfleet.errors import ClipfleetError
from clipfleet.settings import Settings, cores

State = Literal["ok", "absent", "broken"]

_COMMAND_TIMEOUT_S = 10
_PACKAGES = {  # distribution: the extra that brings it, None where every installation has it
    "celery": None,
    "redis": None,
    "numpy": None,
    "pillow": None,
    "pyarrow": None,
    "torch": "convert",
    "onnx": "convert",
    "tensorrt": "gpu",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding: `absent` is a part that some commands can do without, `broken` is not."""

    name: str
    state: State
    detail: str
    mend: str = ""


def examine(settings: Settings, models: list[Path]) -> Iterator[Check]:
    """Yield a check for each part that clipfleet builds on, and one for each model card."""
    yield Check(
        name="Python", state="ok", detail=f"{platform.python_version()} at {sys.executable}"
    )
    yield Check(name="cores", state="ok", detail=str(cores()))
    yield from map(_package, _PACKAGES)
    yield _onnxruntime()
    yield _gpu()
    yield _redis(settings.redis_url)
    yield _server_program()
    yield from map(_model, models)


def _package(name: str) -> Check:
    try:
        return Check(name=name, state="ok", detail=metadata.version(name))
    except metadata.PackageNotFoundError:
        extra = _PACKAGES[name]
        target = f"'clipfleet[{extra}]'" if extra else "clipfleet"
        return Check(
            name=name,
            state="absent" if extra else "broken",
            detail="not installed",
            mend=f"pip install {target}",
        )


def _onnxruntime() -> Check:
    name = "onnxruntime"
    try:
        import onnxruntime
    except ImportError as error:
        mend = "pip install 'clipfleet[cpu]' or, beside an NVIDIA GPU, 'clipfleet[gpu]'"
        return Check(name=name, state="broken", detail=str(error), mend=mend)
    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in _providers(onnxruntime))
    return Check(name=name, state="ok", detail=f"{onnxruntime.__version__}, built for {providers}")


def _providers(onnxruntime: object) -> list[str]:
    providers: list[str] = onnxruntime.get_available_providers()  # type: ignore[attr-defined]
    return [p for p in providers if not p.startswith("Azure")]


def _gpu() -> Check:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return Check(name="GPU", state="absent", detail="no nvidia-smi: engines run on the CPU")
    try:
        run = subprocess.run(
            query, check=False, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        mend = "the driver hangs: see dmesg, and restart the machine"
        return Check(name="GPU", state="broken", detail="nvidia-smi gave no answer", mend=mend)
    if run.returncode != 0:
        detail = (run.stdout + run.stderr).strip()
        return Check(name="GPU", state="broken", detail=detail, mend="install the NVIDIA driver")
    return Check(name="GPU", state="ok", detail="; ".join(run.stdout.strip().splitlines()))


def _redis(url: str) -> Check:
    from tasks.broker import broker_version

    try:
        return Check(name="Redis", state="ok", detail=broker_version(url))
    except ClipfleetError as error:
        mend = (
            "start one and set CLIPFLEET_REDIS_URL; `clipfleet embed` needs none: it starts its own"
        )
        return Check(name="Redis", state="absent", detail=str(error), mend=mend)


def _server_program() -> Check:
    from tasks.private_redis import server_command

    name = "Redis server for `clipfleet embed`"
    try:
        return Check(name=name, state="ok", detail=str(server_command()[0]))
    except ClipfleetError as error:
        return Check(
            name=name,
            state="absent",
            detail=str(error),
            mend="apt-get install redis-server, or pip install 'clipfleet[server]'",
        )


def _model(path: Path) -> Check:
    name = f"model {path}"
    try:
        card, engine = load_card(path)
        check_files(card, engine)
    except ClipfleetError as error:
        return Check(name=name, state="broken", detail=str(error), mend="clipfleet convert")
    proof = (
        f"cosine ≥ {card.parity.cosine_min:.7f} on {card.parity.items} items"
        if card.parity
        else "not verified against its checkpoint"
    )
    detail = f"{card.architecture} {card.tower} {card.precision} for {card.runtime}, {proof}"
    return Check(name=name, state="ok", detail=detail)
