"""Find the engine for this machine's GPU and TensorRT version, or build it once.

    python -m clipfleet.convert.tensorrt.find_or_build models/vit-b-16.img.fp16.onnx --cache FOLDER

prints the path of its card as JSON. An engine beside the ONNX file is used if it fits. Otherwise
the engine in the cache is used; if it is missing, it is built. Where several processes need the
same engine, one process builds it and the others wait.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from clipfleet.convert.console import TERMINATED, WRONG_USE
from clipfleet.convert.tensorrt.build_lock import build_lock
from clipfleet.convert.tensorrt.requests import ENGINE_SUFFIX, naming_file_errors
from clipfleet.engine_files import check_files
from clipfleet.errors import ClipfleetError, EngineError, GpuLostError, UsageError
from clipfleet.model_card import CARD_SUFFIX, ModelCard, card_path, load_card
from clipfleet.workers.engines.tensorrt.check_compatible import check_compatible
from clipfleet.workers.engines.tensorrt.place import Place, gpu_slug, this_place

Progress = Callable[[str], None]
Build = Callable[[ModelCard, Path, Path], object]  # the ONNX's card and path, the engine's path

_ONNX, _TENSORRT = ".onnx", ENGINE_SUFFIX
_REMEDY = "set CLIPFLEET_ENGINE_CACHE to a folder that this user may write"
_DONE, _GPU_LOST = 0, 3  # 1 is an exception of Python


def machine_engine(
    model: Path, cache: Path, *, place: Place, build: Build, progress: Progress
) -> Path:
    """Return the card of the engine that fits `place`; call `build` if there is none.

    `model` is the path of an ONNX or TensorRT engine, which may be missing, or of its card.

    Raises:
        CardError: There is no ONNX file with a card, and no engine that fits.
        UsageError: The model is no ONNX or TensorRT engine, or the cache cannot be written.
        ClipfleetError: `build` failed.
    """
    onnx, own = _pair(model)
    if not onnx.is_file() and fits(own, place, progress):
        return card_path(own)
    card, onnx = load_card(onnx)
    if card.runtime != "onnxruntime":
        raise UsageError(f"{onnx} is a {card.runtime} engine: name the ONNX file to build from")
    if fits(own, place, progress, of=card):
        return card_path(own)
    kept = cache / folder_name(card, place) / own.name
    if fits(kept, place, progress, of=card):
        return card_path(kept)
    with build_lock(kept.parent, kept.name, progress=progress, remedy=_REMEDY):
        if not fits(kept, place, progress, of=card):  # another process may have built it
            progress(f"building {kept.name} for {place.gpu}, TensorRT {place.runtime_version}")
            build(card, onnx, kept)
    return card_path(kept)


def _pair(model: Path) -> tuple[Path, Path]:
    """Return the paths of the ONNX and the TensorRT engine that share a model's name."""
    name = model.name.removesuffix(CARD_SUFFIX)
    stem = name.removesuffix(_ONNX).removesuffix(_TENSORRT)
    if stem == name:
        raise UsageError(
            f"{model} names neither an ONNX file ({_ONNX}) nor a TensorRT engine ({_TENSORRT}): "
            "--build-if-missing needs one of them"
        )
    return model.with_name(f"{stem}{_ONNX}"), model.with_name(f"{stem}{_TENSORRT}")


def folder_name(card: ModelCard, place: Place) -> str:
    """Return the cache's folder for an ONNX file on a GPU model and a TensorRT version.

    The digest covers the graph and the weights, which are in a separate file.
    """
    files = f"{card.engine_sha256} {card.extra_file_sha256}"
    digest = hashlib.sha256(files.encode()).hexdigest()[:16]
    gpu, version = gpu_slug(place.gpu), place.runtime_version
    return f"{digest}-{gpu}-tensorrt-{version}-batch-{card.batch_size or 1}"


def fits(engine: Path, place: Place, progress: Progress, *, of: ModelCard | None = None) -> bool:
    """Return whether an engine exists undamaged, was verified for `place`, and is of model `of`."""
    if not card_path(engine).exists():
        return False
    try:
        card, engine = load_card(engine)
        if of is not None and card.identity != of.identity:
            raise EngineError(f"{engine} is of another model or precision than {of.engine}")
        check_files(card, engine)
        check_compatible(card, gpu=place.gpu, runtime_version=place.runtime_version)
    except ClipfleetError as error:
        progress(f"not used: {error}")
        return False
    return True


def _builder(cache: Path, progress: Progress) -> Build:
    from clipfleet.convert.tensorrt.build import build_engine
    from clipfleet.convert.tensorrt.options import BuildOptions
    from clipfleet.convert.tensorrt.parity_gate import sibling

    options = BuildOptions(timing_cache=cache)

    def build(card: ModelCard, onnx: Path, engine: Path) -> object:
        reference = sibling(onnx, card.precision, "fp32")
        if not reference.is_file():
            raise UsageError(
                f"cannot build {engine.name} here: there is no {reference}. Put {reference.name}, "
                f"with its card and its extra file, beside {onnx.name}: the engine is verified "
                "against it"
            )
        batch_size = card.batch_size or 1
        return build_engine(
            onnx, engine=engine, batch_size=batch_size, options=options, progress=progress
        )

    return build


def _say(line: str) -> None:
    sys.stderr.write(f"clipfleet: {line}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; standard output is {"card": path}."""
    parser = argparse.ArgumentParser(prog="python -m clipfleet.convert.tensorrt.find_or_build")
    parser.add_argument("model", type=Path, help="an ONNX or TensorRT engine, or its card")
    parser.add_argument("--cache", type=Path, required=True, help="folder for engines built here")
    args = parser.parse_args(arguments)
    # A terminated build leaves no folder and no builder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    model, cache = args.model.absolute(), args.cache.absolute()
    try:
        build = _builder(cache, _say)
        with naming_file_errors():
            card = machine_engine(model, cache, place=this_place(), build=build, progress=_say)
    except ClipfleetError as error:
        _say(str(error))
        return _GPU_LOST if isinstance(error, GpuLostError) else WRONG_USE
    sys.stdout.write(json.dumps({"card": str(card)}) + "\n")
    return _DONE


if __name__ == "__main__":
    sys.exit(main())
