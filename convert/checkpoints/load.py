"""Read a checkpoint's weights and check them against an architecture."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipfleet.architectures import Architecture, architecture_names, load_architecture
from clipfleet.atomic_write import atomic_write
from clipfleet.convert.checkpoints.hugging_face import from_hugging_face, is_hugging_face
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.engine_files import sha256_of
from clipfleet.errors import CheckpointError, DependencyError

_PREFIX = "module."  # distributed training adds it to every key
_UNUSED = "bert.pooler"  # in the published files; no tower uses it
# The reason in torch's message; the lines before it advise to load without this protection.
_REFUSED = re.compile(r"[Uu]nsupported .*")
_MAX_NAMED = 3  # keys that one message names

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's weights: exactly the keys and shapes of its architecture, dtypes as stored."""

    path: Path
    sha256: str
    state_dict: StateDict
    logit_scale: float


def load_checkpoint(path: str | Path, architecture: Architecture) -> Checkpoint:
    """Return the weights in a `.pt` or `.safetensors` file, checked against an architecture.

    A `.pt` file is the original's: a dictionary with the weights under `state_dict`, or
    the weights alone. A safetensors file is Hugging Face's `ChineseCLIPModel`, or has the
    original's keys.

    Raises:
        CheckpointError: The file is missing or damaged, or a key is missing, unexpected or
            of another shape; the message names file, key, expected and found shape.
    """
    path = Path(path)
    state_dict = _original_state_dict(path)
    _check_fits(state_dict, architecture, path)
    return Checkpoint(
        path=path,
        sha256=sha256_of(path),
        state_dict=state_dict,
        logit_scale=float(state_dict["logit_scale"]),
    )


def architecture_of(path: str | Path) -> Architecture:
    """Return the known architecture whose weights a checkpoint holds.

    Raises:
        CheckpointError: The file is missing or damaged, or holds those of no known architecture.
    """
    state_dict = _original_state_dict(Path(path))
    known = _known({key: tuple(value.shape) for key, value in state_dict.items()})
    if known is None:
        raise CheckpointError(
            f"checkpoint {path} does not hold the weights of {', '.join(architecture_names())}: "
            "name its architecture's JSON file, and the checkpoint with --checkpoint"
        )
    return known


def build_model(checkpoint: Checkpoint, architecture: Architecture) -> ChineseClip:
    """Return the float32 model of a checkpoint, in evaluation mode."""
    with torch.device("meta"):  # computes no initial values
        model = ChineseClip(architecture)
    weights = {
        key: value.float() if value.is_floating_point() else value.clone()
        for key, value in checkpoint.state_dict.items()
    }
    model.load_state_dict(weights, assign=True)
    return model.eval()


def save_checkpoint(model: ChineseClip, path: str | Path, *, half: bool) -> None:
    """Save a model as the original does, in float16 or as it is; whole or not at all."""
    path = Path(path)
    state_dict = {
        key: value.half() if half and value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    # An open file: torch would write a path's name into the file, so the bytes would differ.
    with atomic_write(path) as part, part.open("wb") as file:
        torch.save({"state_dict": state_dict}, file)


def _original_state_dict(path: Path) -> StateDict:
    """Return the weights in a file under the original's keys."""
    state_dict = _read_state_dict(path)
    return from_hugging_face(state_dict) if is_hugging_face(state_dict) else state_dict


def _read_state_dict(path: Path) -> StateDict:
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is missing, or is not a file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"checkpoint {path} holds no state dict but a {type(content).__name__}"
        )
    wrong = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(
            f"checkpoint {path} holds no weights under {wrong[0]!r} but a "
            f"{type(content[wrong[0]]).__name__}: expected a state dict"
        )
    named = {str(key).removeprefix(_PREFIX): value for key, value in content.items()}
    return {key: value for key, value in named.items() if not key.startswith(_UNUSED)}


def _read_pickle(path: Path) -> object:
    try:
        # A mapped file takes memory only for the weights that are used.
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        size = path.stat().st_size
        refused = _REFUSED.search(str(error))
        if refused and "GLOBAL" in refused[0]:
            raise CheckpointError(
                f"checkpoint {path} ({size} bytes) holds more than weights, and loading it could "
                f"run code: {refused[0]} Nothing of it was run. Have its state_dict saved alone"
            ) from error
        text = refused[0] if refused else str(error)
        reason = text.splitlines()[0] if text else type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} ({size} bytes) is truncated, damaged or not a PyTorch file of "
            f"weights: {reason}. Copy or download it anew"
        ) from error


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise DependencyError(
            f"{path} needs safetensors: from a checkout, pip install '.[convert]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} ({path.stat().st_size} bytes) is truncated, damaged or not a "
            f"safetensors file: {error}. Copy or download it anew"
        ) from error


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = ChineseClip(architecture)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _check_fits(state_dict: StateDict, architecture: Architecture, path: Path) -> None:
    found = {key: tuple(value.shape) for key, value in state_dict.items()}
    expected = _shapes(architecture)
    problems = (
        [
            f"{key!r} has shape {found[key]}, expected {shape}"
            for key, shape in expected.items()
            if key in found and found[key] != shape
        ]
        + [
            f"{key!r} is missing, expected with shape {shape}"
            for key, shape in expected.items()
            if key not in found
        ]
        + [
            f"{key!r} of shape {shape} is not expected"
            for key, shape in found.items()
            if key not in expected
        ]
    )
    if not problems:
        return
    more = f"; and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
    raise CheckpointError(
        f"checkpoint {path} does not hold the weights of {architecture.name}: "
        f"{'; '.join(problems[:_MAX_NAMED])}{more}{_hint(found)}"
    )


def _hint(found: Mapping[str, tuple[int, ...]]) -> str:
    """Name the known architecture that the weights fit, if one does."""
    known = _known(found)
    return f". It fits {known.name}" if known else ""


def _known(found: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    for architecture in map(load_architecture, architecture_names()):
        if _shapes(architecture) == found:
            return architecture
    return None
