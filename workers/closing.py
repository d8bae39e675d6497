"""Objects that hold something and are closed: at the end of a `with` block, or by `close`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11


class Closing(Protocol):
    """A context manager that closes itself."""

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
