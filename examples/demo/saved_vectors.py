"""Vectors that one interpreter keeps for another: those of runtimes that do not fit into both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from clipfleet.atomic_write import atomic_write

Vectors = NDArray[np.float32]

_DIGEST = "digest"  # in the place of a runtime's name
_CHECKPOINT = "checkpoint_sha256"  # a key of its own
_ANOTHER_PILLOW = (
    "The pictures of the saved vectors differ in some pixels from these (another Pillow draws and "
    "decodes): the least cosine shows that too."
)


def digests(inputs: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the hexadecimal SHA-256 of each array."""
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in inputs.items()}


class SavedVectors:
    """Vectors by table, runtime and kind of input, with digests of inputs and weights; an .npz."""

    def __init__(self, checkpoint_sha256: str = "") -> None:
        self._arrays: dict[str, NDArray[Any]] = {_CHECKPOINT: np.array(checkpoint_sha256)}

    @property
    def checkpoint_sha256(self) -> str:
        """The SHA-256 of the weights that the vectors are from."""
        return str(self._arrays.get(_CHECKPOINT, ""))

    def add(
        self, title: str, inputs: Mapping[str, str], found: Mapping[str, Mapping[str, Vectors]]
    ) -> None:
        """Take a table's vectors by runtime and kind, with the digests of its inputs."""
        for kind, digest in inputs.items():
            self._arrays[f"{title}/{_DIGEST}/{kind}"] = np.array(digest)
        for name, vectors in found.items():
            for kind, array in vectors.items():
                self._arrays[f"{title}/{name}/{kind}"] = array

    def write(self, path: Path) -> None:
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, **self._arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> SavedVectors:
        """Return what `write` wrote.

        Raises:
            ValueError: The file is no such file.
        """
        saved = cls()
        try:
            with np.load(path) as arrays:
                saved._arrays = dict(arrays)
        except (BadZipFile, ValueError, EOFError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no saved vectors: write it with --save") from error
        return saved

    def check_weights(self, checkpoint_sha256: str) -> None:
        """Refuse vectors of other weights.

        Raises:
            ValueError: They are from another checkpoint.
        """
        if self.checkpoint_sha256 != checkpoint_sha256:
            raise ValueError(
                f"the saved vectors are of the checkpoint {self.checkpoint_sha256 or '(unknown)'}, "
                f"and these of {checkpoint_sha256}: give the same --model to both"
            )

    def check(self, title: str, inputs: Mapping[str, str]) -> str | None:
        """Return a note if the pictures' pixels were others.

        Raises:
            ValueError: The captions were others: the vectors are of other items.
        """
        differing = [kind for kind, digest in inputs.items() if digest != self._digest(title, kind)]
        if differing and differing != ["images"]:
            raise ValueError(
                f"the saved vectors are of other items ({title}: {', '.join(differing)} differ): "
                "give the same --pictures to both"
            )
        return _ANOTHER_PILLOW if differing else None

    def _digest(self, title: str, kind: str) -> str:
        return str(self._arrays.get(f"{title}/{_DIGEST}/{kind}", ""))

    def vectors(self, title: str) -> dict[str, dict[str, Vectors]]:
        """Return a table's vectors, by runtime and kind."""
        found: dict[str, dict[str, Vectors]] = {}
        for key, array in self._arrays.items():
            if key == _CHECKPOINT:
                continue
            table, name, kind = key.split("/")
            if table == title and name != _DIGEST:
                found.setdefault(name, {})[kind] = array
        return found
