"""The item: one image or one text with its id."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

MAX_ID_LENGTH = 4096  # characters: the longest path that Linux opens

MAX_URI_LENGTH = 3 * 4096 + 16  # characters: the longest path with every byte escaped

MAX_TEXT_LENGTH = 1_000_000  # characters; a model uses about the first hundred

TextNormalisation = Literal["none", "evaluation"]  # see storage/sources/normalisation.py

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Item:
    """One image (`uri`) or one text (`text`) with its id; exactly one of the two is set.

    `uri` is an absolute path, or a URL with a scheme. A row of a table that is no item has a
    `fault`, and an empty uri or text: it becomes an error row instead of a vector.
    """

    id: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    uri: str | None = None
    text: str | None = None
    fault: str | None = None

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.text is None):
            raise ValueError(f"item {self.id!r} must have exactly one of uri and text")
        for value in (self.id, self.uri, self.text):
            if value is not None and not value.isascii():
                value.encode()  # refuses half a surrogate pair, which JSON may hold


class Fingerprint(NamedTuple):
    """What is known of the bytes that a vector was made of.

    They were `size_bytes` many, of a file that was last changed at `mtime_ns`, in nanoseconds since
    1970; 0 if they are no file's. `sha256` has their SHA-256 in hexadecimal digits, if it was asked
    for.
    """

    size_bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""
