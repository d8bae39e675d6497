"""Prepare a model: a folder with its ONNX engines and, on a GPU machine, its TensorRT engines.

Each engine is verified before its card is written, so a card marks a finished step. The next call
skips the finished steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipfleet.architectures import (
    TOWERS,
    Architecture,
    Tower,
    architecture_names,
    load_architecture,
)
from clipfleet.convert.checkpoints.download import CHECKPOINT_SUFFIXES, published_checkpoint
from clipfleet.convert.dependencies import naming_missing_packages
from clipfleet.convert.gate import Gate, has_passed
from clipfleet.convert.tensorrt.build import build_engine
from clipfleet.convert.tensorrt.build_lock import build_lock
from clipfleet.convert.tensorrt.find_or_build import fits
from clipfleet.convert.tensorrt.options import AUTO, BatchSize, BuildOptions
from clipfleet.convert.tensorrt.requests import engine_name
from clipfleet.engine_files import check_files, sha256_of
from clipfleet.errors import EngineDamagedError, UsageError
from clipfleet.model_card import ModelCard, Precision, card_path
from clipfleet.workers.engines.model_folder import FoundEngine, engines_in
from clipfleet.workers.engines.tensorrt.place import Place, find_place, gpu_slug

_SIZES: tuple[tuple[str, BatchSize], ...] = (("", 1), ("-batch", AUTO))  # by part of the name

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The engines of a model folder that this machine can use, each with its card's path.

    `no_tensorrt` says why there are no TensorRT engines; empty if there are.
    """

    engines: list[tuple[ModelCard, Path]]
    no_tensorrt: str


@dataclass(frozen=True, kw_only=True)
class _Preparation:
    """A request: the model, the folder, and the items to verify its engines with.

    Without an architecture, the checkpoint decides; without a checkpoint, it is the published one.
    """

    architecture: Architecture | None
    checkpoint: Path | None
    folder: Path
    towers: tuple[Tower, ...]
    download_root: Path | None
    verify_images: Path | None
    verify_texts: Path | None
    gate: Gate | None
    progress: Progress


def prepare(  # noqa: PLR0913
    model: str | Path,
    folder: str | Path,
    *,
    checkpoint: Path | None = None,
    towers: Sequence[Tower] = TOWERS,
    download_root: Path | None = None,
    verify_images: Path | None = None,
    verify_texts: Path | None = None,
    gate: Gate | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Fill a folder with the engines of a model, and return those that this machine can use.

    `model` is an architecture, by its name or its JSON file, or a checkpoint of a known one, by its
    file or its folder. The folder gets ONNX engines in float32 and float16 for any batch size. On
    a machine with a GPU and TensorRT it also gets an engine for single items, and one for the
    fastest batch size. What is there already is kept; with `gate`, what has passed one.

    Raises:
        UsageError: The model is unknown, or the folder holds another one, or cannot be written.
        CheckpointError: The checkpoint does not hold the architecture's weights.
        DependencyError: A package of the conversion or of the build is not installed.
        EngineError: An engine does not run.
        StorageError: The published checkpoint cannot be downloaded.
        VerificationError: An engine strays too far from float32, or fails `gate`.
    """
    architecture, checkpoint = _parse_model(model, checkpoint)
    preparation = _Preparation(
        architecture=architecture,
        checkpoint=checkpoint,
        folder=Path(folder).absolute(),
        towers=tuple(dict.fromkeys(towers)),
        download_root=download_root,
        verify_images=verify_images,
        verify_texts=verify_texts,
        gate=gate,
        progress=progress or _silent,
    )
    name = preparation.folder.name
    with build_lock(
        preparation.folder, name, progress=preparation.progress, remedy="name another folder"
    ):
        _convert_missing(preparation)
        place = find_place()
        if isinstance(place, Place):
            for tower in preparation.towers:
                _build_missing(preparation, tower, place)
    return Prepared(
        engines=[
            (engine.card, card_path(engine.path))
            for engine in engines_in(preparation.folder)
            if engine.card.tower in preparation.towers
            and (not engine.is_tensorrt or _is_of(engine, place))
        ],
        no_tensorrt=place if isinstance(place, str) else "",
    )


def _silent(_: str) -> None:
    """Report no progress."""


def _parse_model(
    model: str | Path, checkpoint: Path | None
) -> tuple[Architecture | None, Path | None]:
    """Return the architecture and the checkpoint that the user named."""
    if str(model) in architecture_names() or str(model).endswith(".json"):
        return load_architecture(model), checkpoint
    path = Path(model)
    if checkpoint is not None or not path.exists():
        known = ", ".join(architecture_names())
        raise UsageError(
            f"{model} is no known architecture{'' if checkpoint else ' and no checkpoint'}: "
            f"expected one of {known}, or an architecture's JSON file"
            + ("" if checkpoint else ", or a checkpoint's file or folder")
        )
    return None, _checkpoint_in(path) if path.is_dir() else path


def _checkpoint_in(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UsageError(
            f"{folder} is expected to hold one checkpoint ({', '.join(CHECKPOINT_SUFFIXES)}), and "
            f"holds {names}: name the file"
        )
    return found[0]


def _convert_missing(preparation: _Preparation) -> None:
    """Convert the towers whose ONNX engines are not in the folder, one by one."""
    checkpoint, architecture = preparation.checkpoint, preparation.architecture
    _check_same_model(preparation, checkpoint)
    missing = [tower for tower in preparation.towers if len(_onnx(preparation, tower)) < 2]
    if not missing:
        return
    with naming_missing_packages():
        from clipfleet.convert.checkpoints.load import architecture_of
        from clipfleet.convert.conversion import convert
    if checkpoint is None and architecture is not None:
        preparation.progress(f"looking for the published checkpoint of {architecture.name}")
        checkpoint = published_checkpoint(architecture, preparation.download_root)
        _check_same_model(preparation, checkpoint)
    for tower in missing:
        convert(
            architecture=architecture or architecture_of(str(checkpoint)),
            checkpoint=checkpoint,
            save_prefix=preparation.folder / preparation.folder.name,
            towers=(tower,),
            batch_size=None,
            verify_images=preparation.verify_images,
            verify_texts=preparation.verify_texts,
            gate=preparation.gate,
            progress=preparation.progress,
        )


def _check_same_model(preparation: _Preparation, checkpoint: Path | None) -> None:
    """Check that what the folder holds is of the model that is asked for."""
    engines = engines_in(preparation.folder)
    sha256 = sha256_of(checkpoint) if engines and checkpoint else None
    name = preparation.architecture.name if preparation.architecture else None
    for engine in engines:
        card = engine.card
        if name not in (None, card.architecture) or sha256 not in (None, card.checkpoint_sha256):
            wanted = ", ".join(filter(None, (name, sha256 and f"checkpoint {sha256[:12]}")))
            raise UsageError(
                f"{engine.path} is of {card.architecture}, checkpoint "
                f"{card.checkpoint_sha256[:12]}, and {wanted} is asked for: name another folder"
            )


def _onnx(preparation: _Preparation, tower: Tower) -> dict[Precision, FoundEngine]:
    """Return a tower's ONNX engines for any batch size that are as asked for, by precision."""
    found: dict[Precision, FoundEngine] = {}
    for engine in engines_in(preparation.folder):
        card = engine.card
        kind = card.runtime, card.tower, card.batch_size
        if kind == ("onnxruntime", tower, None) and has_passed(preparation.gate, card):
            try:
                check_files(card, engine.path)
            except EngineDamagedError as error:
                preparation.progress(f"not used: {error}")
            else:
                found[card.precision] = engine
    return found


def _build_missing(preparation: _Preparation, tower: Tower, place: Place) -> None:
    """Build the TensorRT engines of a tower that are not in the folder."""
    onnx = _onnx(preparation, tower)
    source, folder, progress = onnx["fp16"], preparation.folder, preparation.progress
    for suffix, batch_size in _SIZES:
        there = (
            engine
            for engine in engines_in(folder)
            if engine.card.tower == tower
            and _is_of(engine, place)
            and (engine.batch == 1) == (batch_size == 1)
            and has_passed(preparation.gate, engine.card)
        )
        if any(fits(engine.path, place, progress, of=source.card) for engine in there):
            continue
        prefix = folder / f"{folder.name}-{gpu_slug(place.gpu)}{suffix}"
        engine = engine_name(prefix, tower, source.card.precision)
        progress(f"building {engine.name}")
        build_engine(
            source.path,
            engine=engine,
            batch_size=batch_size,
            reference=onnx["fp32"].path,
            options=BuildOptions(timing_cache=None),
            verify_images=preparation.verify_images,
            verify_texts=preparation.verify_texts,
            gate=preparation.gate,
            progress=progress,
        )


def _is_of(engine: FoundEngine, place: Place | str) -> bool:
    """Return whether a TensorRT engine was built for a GPU model."""
    return engine.is_tensorrt and isinstance(place, Place) and engine.card.gpu == place.gpu
