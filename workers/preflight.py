"""The checks of a worker before it starts: its settings, model, output folder and input roots."""

from __future__ import annotations

import uuid
from pathlib import Path

from clipfleet.errors import SettingsError, StorageError, UsageError
from clipfleet.model_card import ModelCard, load_card
from clipfleet.settings import PREFIX, Settings
from clipfleet.storage.filesystem.base import check_create_if_absent
from clipfleet.storage.filesystem.locations import below, in_object_store
from clipfleet.storage.filesystem.open_filesystem import open_filesystem
from clipfleet.storage.format.dataset import Dataset, single_items_name
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.stores.files import is_folder
from clipfleet.workers.copies.reuse import open_reused
from clipfleet.workers.engines.load import check_decode

_ROOTS_VARIABLE = f"{PREFIX}INPUT_ROOTS"


def preflight(settings: Settings, *, builds: bool = False) -> ModelCard:
    """Check all that a worker needs, and return the card of its engine.

    `builds`: a TensorRT engine is built from `settings.model`.

    Raises:
        SettingsError: tower, model or output is not set.
        CardError: The card or its engine is missing or unreadable.
        DatasetError: The output folder's dataset of single items is another model's, or damaged.
        UsageError: The card is of the other tower, the output folder cannot be written, or an
            input root is missing; or the engine cannot decode as `settings.decode` says, or the
            dataset `settings.reuse` is of another model.
    """
    tower, model, output = _required(settings)
    card, engine = load_card(model)
    if card.tower != tower:
        raise UsageError(
            f"{model} is the {card.tower} tower's engine and this worker serves {tower}: "
            f"use --tower {card.tower}, or the model's other card"
        )
    runtime = "tensorrt" if builds else card.runtime
    check_decode(settings.decode, tower=card.tower, runtime=runtime)
    open_reused(settings, card)
    _check_readable(engine)
    _check_output(output, settings.store_timeout_s)
    _check_roots(settings)
    _check_single_items(output, card, settings)
    return card


def _required(settings: Settings) -> tuple[str, str, str]:
    for name in ("tower", "model", "output"):
        if not getattr(settings, name):
            raise SettingsError(f"a worker needs {name}: set CLIPFLEET_{name.upper()}")
    return str(settings.tower), str(settings.model), str(settings.output)


def _check_readable(engine: Path) -> None:
    try:
        with open(engine, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(f"cannot read the engine {engine}: {error.strerror}") from error


def _check_output(output: str, store_timeout_s: float) -> None:
    if in_object_store(output):
        _check_store(output, store_timeout_s)
    else:
        _check_writable(Path(output))


def _check_store(output: str, store_timeout_s: float) -> None:
    try:
        fs = open_filesystem(output, store_timeout_s=store_timeout_s)
        check_create_if_absent(fs, output)
    except StorageError as error:
        raise UsageError(
            f"cannot write to the output folder {output}: {error}; or choose another with --output"
        ) from error


def _check_writable(output: Path) -> None:
    """Write and delete a file: permission bits do not show read-only mounts or full disks."""
    probe = output / f".clipfleet-probe-{uuid.uuid4().hex}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"clipfleet")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to the output folder {output}: {error.strerror}; "
            "give this user the right to it, or choose another with --output"
        ) from error


def _check_roots(settings: Settings) -> None:
    """Check that the input roots exist: if one is not mounted, all its images would be missing."""
    for root in settings.input_roots:
        try:
            found = is_folder(root)
        except OSError as error:
            raise UsageError(f"cannot read the input root {root}: {error.strerror}") from error
        if not found:
            raise UsageError(
                f"the input root {root} is no folder: mount or make it, or name another with "
                f"--input-root ({_ROOTS_VARIABLE})"
            )


def _check_single_items(output: str, card: ModelCard, settings: Settings) -> None:
    """Check that the dataset of single items, if there is one, is of this model and decoder."""
    root, store_timeout_s = below(output, single_items_name(card.tower)), settings.store_timeout_s
    if open_filesystem(root, store_timeout_s=store_timeout_s).exists(INFO_PATH):
        dataset = Dataset.open(root, store_timeout_s=store_timeout_s)
        dataset.check_model(card)
        dataset.check_decode(settings.decode)
