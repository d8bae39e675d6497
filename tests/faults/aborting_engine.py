"""The command line with a fake engine that aborts its process until it is mended.

It does so on one text, or while it is loaded.

`python -m tests.faults.aborting_engine worker …` is `clipfleet worker …` otherwise. So is the
worker's child, which imports this module again when it is spawned.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VARIABLE = "FAULTS_ABORTING_ENGINE"
_WHILE_LOADED = "while it is loaded"
_ROOT = Path(__file__).parents[2]

POISON = "a text that a broken engine does not survive"


def aborting_environment(folder: Path) -> dict[str, str]:
    """Return what a process has in its environment to be told by files in a folder."""
    return {_VARIABLE: str(folder), "PYTHONPATH": str(_ROOT)}


def break_engine(folder: Path) -> None:
    """Have engines abort on the text."""
    _sign(folder).touch()


def break_loading(folder: Path) -> None:
    """Have engines abort while they are loaded."""
    _sign(folder).write_text(_WHILE_LOADED)


def mend_engine(folder: Path) -> None:
    _sign(folder).unlink()


def _sign(folder: Path) -> Path:
    return folder / "engine-is-broken"


def _abort_while_loaded(folder: Path) -> None:
    from clipfleet.workers.engines.fake import FakeEngine

    load = FakeEngine.__init__

    def aborting(self: FakeEngine, *arguments: Any, **options: Any) -> None:
        if _sign(folder).exists() and _sign(folder).read_text() == _WHILE_LOADED:
            os.abort()
        load(self, *arguments, **options)

    setattr(FakeEngine, "__init__", aborting)  # noqa: B010 - mypy knows it as it was


def _abort_on_poison(folder: Path) -> None:
    from clipfleet.workers.engines.base import Array
    from clipfleet.workers.engines.fake import FakeEngine
    from clipfleet.workers.text.tokenizer import Tokenizer

    call = FakeEngine.__call__
    poison = Tokenizer().encode([POISON], 52)[0]

    def aborting(self: FakeEngine, inputs: Array) -> NDArray[np.float32]:
        if _sign(folder).exists() and (inputs == poison).all(axis=1).any():
            os.abort()
        return call(self, inputs)

    setattr(FakeEngine, "__call__", aborting)  # noqa: B010 - mypy knows it as it was


if os.environ.get(_VARIABLE):  # not in a test that takes the names above from here
    _abort_on_poison(Path(os.environ[_VARIABLE]))
    _abort_while_loaded(Path(os.environ[_VARIABLE]))

if __name__ == "__main__":
    from clipfleet.cli.main import main

    main()
