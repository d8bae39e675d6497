"""A model folder holds the engines of one model; a command takes the one that fits this machine.

`clipfleet prepare` fills such a folder. The cards say which engine is which, not the names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clipfleet.architectures import TOWERS, Tower
from clipfleet.errors import CardError, EngineError
from clipfleet.gpus import visible_gpus
from clipfleet.model_card import CARD_SUFFIX, ModelCard, card_path, load_card
from clipfleet.settings import Settings
from clipfleet.workers.engines.model_location import locate_model
from clipfleet.workers.engines.tensorrt.check_compatible import check_compatible
from clipfleet.workers.engines.tensorrt.place import find_place

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FoundEngine:
    """An engine of a folder, at `path`, and its card."""

    card: ModelCard
    path: Path

    @property
    def batch(self) -> int:
        """Items in its largest call; 1 if a card does not say it."""
        return self.card.profile.largest if self.card.profile else self.card.batch_size or 1

    @property
    def is_tensorrt(self) -> bool:
        return self.card.runtime == "tensorrt"


def engines_in(folder: Path) -> list[FoundEngine]:
    """Return the engines of a folder in the order of their names.

    Raises:
        CardError: A card or its engine is damaged or missing.
    """
    found = (load_card(path) for path in sorted(folder.glob(f"*{CARD_SUFFIX}")))
    return [FoundEngine(card=card, path=engine) for card, engine in found]


def towers_in(folder: Path) -> list[Tower]:
    """Return the towers of which a folder has engines."""
    found = {engine.card.tower for engine in engines_in(folder)}
    return [tower for tower in TOWERS if tower in found]


def check_both_towers(folder: Path) -> list[FoundEngine]:
    """Return the engines of a folder, which are of both towers of one checkpoint.

    Raises:
        CardError: They are not, or a card or its engine is damaged or missing.
    """
    engines = engines_in(folder)
    checkpoints = {engine.card.checkpoint_sha256 for engine in engines}
    towers = {engine.card.tower for engine in engines}
    if len(checkpoints) != 1 or len(towers) != len(TOWERS):
        raise CardError(
            f"{folder} has engines of {len(checkpoints)} checkpoints for {len(towers)} towers: "
            "expected both towers of one, as `clipfleet prepare` leaves them"
        )
    return engines


def find_engine(
    model: str | Path, tower: Tower, settings: Settings, *, single: bool = False
) -> Path:
    """Return the card of a folder's engine that this machine runs; another path is returned as is.

    The folder may be given by the model's name, see `locate_model`.

    A TensorRT engine that was verified for this GPU comes first: the one with the largest batch, or
    with `single` the one with the smallest. Then ONNX: float16 if ONNX Runtime uses a GPU, float32
    on the CPU. `settings.provider` "cpu" or "cuda" names ONNX Runtime's provider: then TensorRT is
    left out.

    Raises:
        CardError: The folder has no engine for this tower and machine, or those of several models;
            or no folder has the name.
        GpuLostError: This machine has a GPU that does not work.
        UsageError: nvidia-smi fails.
    """
    folder = locate_model(model, settings)
    if not folder.is_dir():
        return folder
    engines = _engines_of(folder, tower)
    fitting, reason = fitting_engines(engines, settings)
    if fitting:
        order = min if single else max
        return card_path(order(fitting, key=lambda engine: engine.batch).path)
    gpus = visible_gpus() if settings.provider == "auto" else []
    precisions = ("fp16", "fp32") if _onnx_uses_gpu(settings, gpus) else ("fp32",)
    chosen = _first(_others(engines, precisions))
    if chosen is None:
        raise CardError(
            f"{folder} has no {tower} engine that this machine runs: it holds {_names(engines)}. "
            f"TensorRT is not used ({reason}), and the CPU runs float32 ONNX. "
            f"{_remedy(folder, engines)}"
        )
    if gpus or any(engine.is_tensorrt for engine in engines):
        log.warning("%s: TensorRT is not used (%s), but %s", folder, reason, chosen.path.name)
    return card_path(chosen.path)


def find_fleet_card(model: str | Path, tower: Tower) -> Path:
    """Return the card of a folder's engine that a fleet's workers run; another path as it is.

    This machine does not matter: a TensorRT engine of any GPU comes first, then float32 ONNX.

    Raises:
        CardError: The folder has no engine for this tower, or those of several models.
    """
    folder = Path(model)
    if not folder.is_dir():
        return folder
    engines = _engines_of(folder, tower)
    first = _first(engine for engine in engines if engine.is_tensorrt)
    return card_path((first or _first(_others(engines, ("fp32", "fp16"))) or engines[0]).path)


def _engines_of(folder: Path, tower: Tower) -> list[FoundEngine]:
    """Return a tower's engines, all of one model; at least one."""
    all_ = engines_in(folder)
    engines = [engine for engine in all_ if engine.card.tower == tower]
    if not engines:
        raise CardError(
            f"{folder} has no engine of the {tower} tower: it holds {_names(all_)}. "
            f"{_remedy(folder, all_)}"
        )
    models = {(engine.card.architecture, engine.card.checkpoint_sha256) for engine in engines}
    if len(models) > 1:
        raise CardError(
            f"{folder} has engines of {len(models)} models: {_names(engines)}. Name one of them, "
            "or keep each model in a folder of its own"
        )
    return engines


def fitting_engines(
    engines: Iterable[FoundEngine], settings: Settings
) -> tuple[list[FoundEngine], str]:
    """Return the TensorRT engines that this machine runs; if there is none, also the reason.

    Raises:
        GpuLostError: This machine has a GPU that does not work.
        UsageError: nvidia-smi fails.
    """
    if settings.provider != "auto":
        return [], f"provider is {settings.provider}"
    built = [engine for engine in engines if engine.is_tensorrt]
    if not built:
        return [], "the folder has no TensorRT engine"
    place = find_place()
    if isinstance(place, str):
        return [], place
    fitting, reasons = [], []
    for engine in built:
        try:
            check_compatible(
                engine.card,
                gpu=place.gpu,
                runtime_version=place.runtime_version,
                allow_unverified=settings.allow_unverified,
            )
        except EngineError as error:  # noqa: PERF203 - a few engines
            reasons.append(str(error))
        else:
            fitting.append(engine)
    return fitting, "; ".join(reasons)


def _others(engines: Iterable[FoundEngine], precisions: Iterable[str]) -> Iterator[FoundEngine]:
    """Yield the engines that are not TensorRT's, in the order of precisions.

    Of two of one precision, the one for any batch size comes first.
    """
    others = [engine for engine in engines if not engine.is_tensorrt]
    for precision in precisions:
        same = [engine for engine in others if engine.card.precision == precision]
        yield from sorted(same, key=lambda engine: engine.card.batch_size is not None)


def _first(engines: Iterable[FoundEngine]) -> FoundEngine | None:
    return next(iter(engines), None)


def _onnx_uses_gpu(settings: Settings, gpus: list[str]) -> bool:
    if settings.provider != "auto":
        return settings.provider == "cuda"
    if not gpus:
        return False
    try:
        import onnxruntime
    except ImportError:
        return False
    from clipfleet.workers.engines.onnx import CUDA_PROVIDER

    return CUDA_PROVIDER in onnxruntime.get_available_providers()


def _names(engines: Iterable[FoundEngine]) -> str:
    return ", ".join(engine.path.name for engine in engines) or "no model card"


def _remedy(folder: Path, engines: list[FoundEngine]) -> str:
    architecture = engines[0].card.architecture if engines else "ARCHITECTURE"
    return f"`clipfleet prepare {architecture} {folder}` makes what is missing"
