"""The checks of `clipfleet doctor`: each has a state, a finding and a remedy."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from clipfleet.architectures import TOWERS
from clipfleet.convert.dependencies import INSTALL
from clipfleet.engine_files import check_files
from clipfleet.errors import ClipfleetError, DependencyError
from clipfleet.gpus import list_gpus
from clipfleet.model_card import CARD_SUFFIX, ModelCard, load_card
from clipfleet.settings import Settings, cores

State = Literal["ok", "absent", "broken"]

_PACKAGES = {  # distribution: how to install it, or None if every installation has it
    "celery": None,
    "redis": None,
    "numpy": None,
    "pillow": None,
    "pillow-heif": "from a checkout: pip install '.[formats]'",
    "pillow-jxl-plugin": "from a checkout: pip install '.[formats]'",
    "pyarrow": None,
    "torch": INSTALL,
    "onnx": INSTALL,
    "cuda-bindings": "from a checkout: pip install '.[gpu]'",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check; `absent`: some commands work without it, `broken`: none does."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(settings: Settings, models: list[Path]) -> Iterator[Check]:
    """Yield a check for each dependency of clipfleet, and for each model: its cards and folders."""
    yield Check(
        name="Python", state="ok", detail=f"{platform.python_version()} at {sys.executable}"
    )
    yield Check(name="cores", state="ok", detail=str(cores()))
    yield from map(_package, _PACKAGES)
    yield _onnxruntime()
    yield _tensorrt()
    yield _gpu()
    yield _redis(settings)
    yield _server_program()
    for model in models:
        yield from _model_checks(model, settings)


def _package(name: str) -> Check:
    try:
        return Check(name=name, state="ok", detail=metadata.version(name))
    except metadata.PackageNotFoundError:
        remedy = _PACKAGES[name]
        return Check(
            name=name,
            state="absent" if remedy else "broken",
            detail="not installed",
            remedy=remedy or "from a checkout: pip install .",
        )


def _onnxruntime() -> Check:
    name = "onnxruntime"
    try:
        import onnxruntime
    except ImportError as error:
        remedy = "from a checkout: pip install '.[cpu]' or, with an NVIDIA GPU, '.[gpu]'"
        return Check(name=name, state="broken", detail=str(error), remedy=remedy)
    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in _providers(onnxruntime))
    return Check(name=name, state="ok", detail=f"{onnxruntime.__version__}, built for {providers}")


def _providers(onnxruntime: object) -> list[str]:
    providers: list[str] = onnxruntime.get_available_providers()  # type: ignore[attr-defined]
    return [p for p in providers if not p.startswith("Azure")]


def _tensorrt() -> Check:
    from clipfleet.workers.engines.tensorrt.compat import (
        is_rtx,
        load_tensorrt,
        untested_note,
    )

    name = "TensorRT"
    try:
        tensorrt = load_tensorrt()
    except DependencyError as error:
        remedy = "from a checkout: pip install '.[gpu]'"
        return Check(name=name, state="absent", detail=str(error), remedy=remedy)
    kind = " (TensorRT-RTX)" if is_rtx(tensorrt) else ""
    note = untested_note(tensorrt)
    detail = f"{tensorrt.__version__}{kind}" + (f"; {note}" if note else "")
    return Check(name=name, state="ok", detail=detail)


def _gpu() -> Check:
    try:
        gpus = list_gpus()
    except ClipfleetError as error:
        remedy = "restart the machine, or reinstall the NVIDIA driver"
        return Check(name="GPU", state="broken", detail=str(error), remedy=remedy)
    if not gpus:
        return Check(name="GPU", state="absent", detail="none: engines run on the CPU")
    described = [
        f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory}, "
        f"driver {gpu.driver}"
        for gpu in gpus
    ]
    return Check(name="GPU", state="ok", detail="; ".join(described))


def _redis(settings: Settings) -> Check:
    from clipfleet.tasks.broker.redis_client import broker_version, check_broker

    name, url = "Redis", settings.redis_url
    try:
        version = broker_version(url)
    except ClipfleetError as error:
        remedy = "set CLIPFLEET_REDIS_URL to a Redis; `clipfleet embed` starts its own instead"
        return Check(name=name, state="absent", detail=str(error), remedy=remedy)
    try:
        check_broker(url, allow_eviction=settings.allow_eviction)
    except ClipfleetError as error:
        return Check(name=name, state="broken", detail=str(error))  # with the remedy
    return Check(name=name, state="ok", detail=version)


def _server_program() -> Check:
    from clipfleet.tasks.local.redis_server import server_command

    name = "Redis server for `clipfleet embed`"
    try:
        return Check(name=name, state="ok", detail=str(server_command()[0]))
    except ClipfleetError as error:
        return Check(
            name=name,
            state="absent",
            detail=str(error),
            remedy="apt-get install redis-server, or from a checkout: pip install '.[server]'",
        )


def _model_checks(model: Path, settings: Settings) -> Iterator[Check]:
    """Yield the checks of a model: of a folder, also by its name, or of one engine."""
    from clipfleet.workers.engines.model_location import locate_model

    try:
        path = locate_model(model, settings)
    except ClipfleetError as error:
        yield Check(name=f"model {model}", state="broken", detail=str(error))
        return
    yield from _folder(path, settings) if path.is_dir() else [_model(path)]


def _folder(folder: Path, settings: Settings) -> Iterator[Check]:
    """Yield a check for each engine of a model folder, and which one each tower takes here."""
    from clipfleet.workers.engines.model_folder import engines_in, find_engine, towers_in

    name = f"model {folder}"
    try:
        for engine in engines_in(folder):
            # An engine of another GPU does no harm beside one that fits.
            yield _model(engine.path, unfit="absent")
        for tower in towers_in(folder) or TOWERS:
            taken = find_engine(folder, tower, settings).name.removesuffix(CARD_SUFFIX)
            yield Check(name=f"{name} {tower}", state="ok", detail=f"{taken} is taken here")
    except ClipfleetError as error:
        yield Check(name=name, state="broken", detail=str(error), remedy="clipfleet prepare")


def _model(path: Path, *, unfit: State = "broken") -> Check:
    """Return the check of an engine; `unfit` is its state if it is another machine's."""
    from clipfleet.workers.engines.onnx_files import check_onnx_files

    name = f"model {path}"
    try:
        card, engine = load_card(path)
        check = check_onnx_files if card.runtime == "onnxruntime" else check_files
        check(card, engine)
    except ClipfleetError as error:
        return Check(name=name, state="broken", detail=str(error), remedy="clipfleet convert")
    parity = (
        f"cosine ≥ {card.parity.cosine_min:.7f} on {card.parity.items} items"
        if card.parity
        else "not verified against its checkpoint"
    )
    detail = f"{card.architecture} {card.tower} {card.precision} for {card.runtime}, {parity}"
    if card.runtime != "tensorrt":
        return Check(name=name, state="ok", detail=detail)
    reason = _incompatibility(card)
    if reason:
        remedy = "clipfleet build, or clipfleet worker --build-if-missing"
        return Check(name=name, state=unfit, detail=f"{detail}; {reason}", remedy=remedy)
    return Check(name=name, state="ok", detail=f"{detail}, fits this machine")


def _incompatibility(card: ModelCard) -> str | None:
    """Return why a TensorRT engine cannot run here; only its card is read."""
    from clipfleet.workers.engines.cuda.runtime import device_name
    from clipfleet.workers.engines.tensorrt.check_compatible import check_compatible
    from clipfleet.workers.engines.tensorrt.compat import load_tensorrt

    try:
        gpu = device_name()  # first: without a GPU, its error is the clearest
        check_compatible(card, gpu=gpu, runtime_version=str(load_tensorrt().__version__))
    except ClipfleetError as error:
        return str(error)
    return None
