"""A worker's life: what must hold before it starts, and the one embedder of its process."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clipfleet.errors import SettingsError, StorageError, UsageError
from clipfleet.model_card import ModelCard, load_card
from clipfleet.settings import CONFIG_VARIABLE, PREFIX, SEPARATORS, Settings
from clipfleet.storage.filesystem.base import check_create_if_absent
from clipfleet.storage.filesystem.locations import below, in_object_store, open_filesystem
from clipfleet.storage.format.dataset import INFO_PATH, Dataset, single_items_name

if TYPE_CHECKING:
    from clipfleet.workers.embedder import Embedder

# Without it a child imports modules from its working folder, a stranger's json.py, say (CPython
# 3.10 does not know it).
SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"

_ROOTS_VARIABLE = f"{PREFIX}INPUT_ROOTS"


def preflight(settings: Settings) -> ModelCard:
    """Return the card of the engine to serve, after looking at all that a worker needs.

    Raises:
        SettingsError: tower, model or output is not set.
        CardError: The card or its engine is missing or unreadable.
        DatasetError: The output folder's dataset of single items is another model's, or damaged.
        UsageError: The card is of the other tower, the output folder cannot be written, or an
            input root is missing.
    """
    tower, model, output = _required(settings)
    card, engine = load_card(model)
    if card.tower != tower:
        raise UsageError(
            f"{model} is the {card.tower} tower's engine and this worker serves {tower}: "
            f"use --tower {card.tower}, or the model's other card"
        )
    _check_readable(engine)
    _check_output(output, settings.store_timeout_s)
    _check_roots(settings)
    _check_single_items(output, card, settings.store_timeout_s)
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
    """Write and delete a file: permission bits do not tell of read-only mounts or full disks."""
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
    """Look now: below a folder that is not mounted every image would be missing."""
    for root in settings.input_roots:
        if not os.path.isdir(root):
            raise UsageError(
                f"the input root {root} is no folder: mount or make it, or name another with "
                f"--input-root ({_ROOTS_VARIABLE})"
            )


def _check_single_items(output: str, card: ModelCard, store_timeout_s: float) -> None:
    """Look now: a worker whose model does not fit could embed none of these items."""
    root = below(output, single_items_name(card.tower))
    if open_filesystem(root, store_timeout_s=store_timeout_s).exists(INFO_PATH):
        Dataset.open(root, store_timeout_s=store_timeout_s).check_model(card)


def environment_of(settings: Settings) -> dict[str, str]:
    """Return this process's environment, changed so that a child's settings are these.

    Arguments would show in the process list, and with them the password of Redis.
    """
    # A configuration file is read already, and the child may be in another folder.
    kept = {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE}
    given = settings.model_dump(exclude_none=True)
    for name, separator in SEPARATORS.items():
        values = given.pop(name)
        variable = f"{PREFIX}{name.upper()}"
        kept.pop(variable, None)
        if values:  # an empty variable would be a list with an empty name in it
            kept[variable] = separator.join(values)
    told = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items()}
    return {**kept, **told, SAFE_PATH_VARIABLE: "1"}


def worker_name(settings: Settings) -> str:
    """Return a name for this worker that no other has: it stands in logs and in part footers."""
    return f"{settings.tower}-{os.getpid()}@{socket.gethostname()}"


class EngineProcess:
    """The process that holds the engine: its settings and its embedder, loaded once."""

    current: ClassVar[EngineProcess | None] = None

    def __init__(self, settings: Settings, embedder: Embedder) -> None:
        self.settings = settings
        self.embedder = embedder

    @property
    def card(self) -> ModelCard:
        return self.embedder.engine.card


def open_engine_process(settings: Settings) -> EngineProcess:
    """Load the engine of `settings.model` into this process.

    Raises:
        ClipfleetError: It does not load; str(error) says why.
    """
    from clipfleet.workers.embedder import Embedder  # brings the engine's runtime: children only

    embedder = Embedder.from_settings(settings)
    EngineProcess.current = EngineProcess(settings, embedder)
    return EngineProcess.current


def engine_process() -> EngineProcess:
    """Return what `open_engine_process` loaded into this process.

    Raises:
        UsageError: Nothing was loaded: this is not a worker's child.
    """
    if EngineProcess.current is None:
        raise UsageError("this process holds no engine: tasks run in `clipfleet worker` only")
    return EngineProcess.current


def close_engine_process() -> None:
    """Free the engine of this process, if it holds one."""
    if EngineProcess.current is not None:
        EngineProcess.current.embedder.close()
    EngineProcess.current = None
