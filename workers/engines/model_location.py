"""Where a model is: at a path, or for a name of a model in the folders that `prepare` fills."""

from __future__ import annotations

from pathlib import Path

from clipfleet.architectures import architecture_names
from clipfleet.errors import CardError
from clipfleet.settings import Settings


def locate_model(model: str | Path, settings: Settings) -> Path:
    """Return the path of a model: an existing path as it is, and for a name its model folder.

    `vit-b-16` and `ViT-B-16` are the folder `vit-b-16` in the first of `settings.models` that has
    it. Any other text is returned as a path.

    Raises:
        CardError: The name is an architecture's, and no folder has it; the message has the command
            that makes it.
    """
    path = Path(model)
    if path.exists() or path.name != str(model) or not path.name:
        return path
    folders = _folders(path.name, settings)
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is not None:
        return found
    architecture = _architecture(path.name)
    if architecture is None:
        return path
    raise CardError(
        f"model {architecture} is not prepared: nothing is at {' or '.join(map(str, folders))}. "
        f"`clipfleet prepare {architecture}` makes it, or CLIPFLEET_MODELS names the folder that "
        f"has {path.name.lower()}"
    )


def folder_to_prepare(architecture: str, settings: Settings) -> Path:
    """Return the folder of an architecture's model, where it is or is to be made."""
    folders = _folders(architecture, settings)
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _folders(name: str, settings: Settings) -> list[Path]:
    return [Path(root).expanduser() / name.lower() for root in settings.models]


def _architecture(name: str) -> str | None:
    """Return the architecture of a name, in capitals or not."""
    same = (known for known in architecture_names() if known.lower() == name.lower())
    return next(same, None)
