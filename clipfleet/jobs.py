"""Items, shards and the messages that name them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.errors import MessageError
from clipfleet.models import Tower
from clipfleet.validation import problems

EMBED_TASK = "clipfleet.embed"  # one shard of a plan
EMBED_ITEMS_TASK = "clipfleet.embed_items"  # items that an ETL system queues by themselves

# The classes of error that an item can end in: `error` in the errors table.
EMPTY_FILE = "empty_file"
MISSING = "missing"
NOT_A_FILE = "not_a_file"
NOT_ALLOWED = "not_allowed"  # below none of the worker's input roots, or a URL it may not fetch
PERMISSION_DENIED = "permission_denied"
READ_FAILED = "read_failed"
UNSUPPORTED_FORMAT = "unsupported_format"
DECODE_FAILED = "decode_failed"
DECODE_TIMEOUT = "decode_timeout"  # decoded alone it took too long, every time
DECODER_CRASHED = "decoder_crashed"  # decoded alone it ended its process, every time
TOO_LARGE = "too_large"
EMPTY_TEXT = "empty_text"
NON_FINITE = "non_finite"
BAD_ITEM = "bad_item"  # queued by itself, and not of the form that its task takes
HTTP_ERROR = "http_error"  # a server's answer that is not the image and will not be
# Transient: tried several times, and worth a retry later.
DISK_ERROR = "disk_error"  # a disk, of the network most likely, did not give it
FETCH_TIMEOUT = "fetch_timeout"  # a server did not answer in time, or too slowly
FETCH_FAILED = "fetch_failed"  # no connection, or one that was cut off
SERVER_BUSY = "server_busy"  # HTTP 408, 425, 429, 5xx
ENGINE_CRASHED = "engine_crashed"  # queued by itself; its batch ended the engine's process
ENGINE_FAILED = "engine_failed"  # queued by itself; the engine failed on its message
ERROR_CODES = (
    EMPTY_FILE,
    MISSING,
    NOT_A_FILE,
    NOT_ALLOWED,
    PERMISSION_DENIED,
    READ_FAILED,
    UNSUPPORTED_FORMAT,
    DECODE_FAILED,
    DECODE_TIMEOUT,
    DECODER_CRASHED,
    TOO_LARGE,
    EMPTY_TEXT,
    NON_FINITE,
    BAD_ITEM,
    HTTP_ERROR,
    DISK_ERROR,
    FETCH_TIMEOUT,
    FETCH_FAILED,
    SERVER_BUSY,
    ENGINE_CRASHED,
    ENGINE_FAILED,
)
TRANSIENT_CODES = frozenset(
    {DISK_ERROR, FETCH_TIMEOUT, FETCH_FAILED, SERVER_BUSY, ENGINE_CRASHED, ENGINE_FAILED}
)

MAX_ID_LENGTH = 4096  # characters: the longest path that Linux opens

# What a message may hold; more is refused, whoever sent it.
MAX_DATASET_LENGTH = 4096  # characters
MAX_SHARD_INDEX = 2**31 - 1
MAX_MESSAGE_ITEMS = 1_000_000  # that are queued by themselves
MAX_URI_LENGTH = 3 * 4096 + 16  # characters: the longest path, every byte of it escaped
MAX_TEXT_LENGTH = 1_000_000  # characters: a model reads the first hundred or so

_STRICT = ConfigDict(extra="forbid", strict=True)


def queue_name(tower: Tower, prefix: str = "clipfleet") -> str:
    """Return the Redis queue of a tower: `clipfleet.img` or `clipfleet.txt`."""
    return f"{prefix}.{tower}"


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Item:
    """One image (`uri`) or one text (`text`) with its id; exactly one of the two is set.

    `uri` is an absolute path, or a URL with a scheme.
    """

    id: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    uri: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.text is None):
            raise ValueError(f"item {self.id!r} must have exactly one of uri and text")
        for value in (self.id, self.uri, self.text):
            if value is not None and not value.isascii():
                value.encode()  # half a surrogate pair, which JSON can carry, has no UTF-8


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Shard:
    """A run of a job's planned items that one task embeds: row group `index` of its plan."""

    job: str = Field(pattern=r"^[0-9]{5}$")
    index: int = Field(ge=0, le=MAX_SHARD_INDEX)
    size: PositiveInt  # items

    @property
    def name(self) -> str:
        """The shard's name in file names: sorts as the items were planned."""
        return f"{self.job}-{self.index:07d}"


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class EmbedTask:
    """The message of one shard: a reference into the dataset's plan, never items or pixels."""

    dataset: str = Field(max_length=MAX_DATASET_LENGTH)  # path or URL of the dataset
    tower: Tower
    model: str  # ModelCard.identity
    shard: Shard

    def to_json(self) -> dict[str, Any]:
        """Return the keyword arguments of the Celery message."""
        message: dict[str, Any] = json.loads(_EMBED_TASK.dump_json(self))
        return message

    @classmethod
    def from_json(cls, message: dict[str, Any]) -> EmbedTask:
        """Return the task of a message's keyword arguments.

        Raises:
            MessageError: A field is missing, unknown or of another type.
        """
        try:
            return _EMBED_TASK.validate_json(json.dumps(message))
        # RecursionError, ValueError: JSON that Python reads and does not write again.
        except (ValidationError, TypeError, ValueError, RecursionError) as error:
            raise MessageError(f"not an {EMBED_TASK} message: {problems(error)}") from error


_EMBED_TASK = TypeAdapter(EmbedTask)
