"""The Celery message of a shard, and the names of tasks and queues."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.architectures import Tower
from clipfleet.errors import MessageError
from clipfleet.validation import problems

EMBED_TASK = "clipfleet.embed"  # embeds one shard of a plan

INDEX_SHARD_TASK = "clipfleet.index_shard"  # builds one shard of an index

EMBED_ITEMS_TASK = "clipfleet.embed_items"  # embeds single items, which an ETL system queues

# The limits of a message; a larger one is refused.
MAX_DATASET_LENGTH = 4096  # characters

MAX_SHARD_INDEX = 2**31 - 1

MAX_MESSAGE_ITEMS = 1_000_000  # single items

_STRICT = ConfigDict(extra="forbid", strict=True)

_Task = TypeVar("_Task")


def queue_name(tower: Tower, prefix: str = "clipfleet") -> str:
    """Return the Redis queue of a tower: `clipfleet.img` or `clipfleet.txt`."""
    return f"{prefix}.{tower}"


def shard_name(job: str, index: int) -> str:
    """Return the name of a job's shard, as in `Shard.name`."""
    return f"{job}-{index:07d}"


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Shard:
    """The planned items that one task embeds: row group `index` of a job's plan."""

    job: str = Field(pattern=r"^[0-9]{5}$")
    index: int = Field(ge=0, le=MAX_SHARD_INDEX)
    size: PositiveInt  # items

    @property
    def name(self) -> str:
        """The shard's name in file names; names sort in the order of the plan."""
        return shard_name(self.job, self.index)


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class EmbedTask:
    """The message of one shard: a reference to the dataset's plan, without items or pixels."""

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
        return _parsed(_EMBED_TASK, message, EMBED_TASK)


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class IndexShardTask:
    """The message of one shard of an index: a reference to the plan in the index's folder."""

    index: str = Field(max_length=MAX_DATASET_LENGTH)  # the folder's path
    dataset: str = Field(max_length=MAX_DATASET_LENGTH)  # path or URL of the dataset
    shard: str = Field(pattern=r"^[0-9]{5,9}$")

    def to_json(self) -> dict[str, Any]:
        """Return the keyword arguments of the Celery message."""
        message: dict[str, Any] = json.loads(_INDEX_SHARD_TASK.dump_json(self))
        return message

    @classmethod
    def from_json(cls, message: dict[str, Any]) -> IndexShardTask:
        """Return the task of a message's keyword arguments.

        Raises:
            MessageError: A field is missing, unknown or of another type.
        """
        return _parsed(_INDEX_SHARD_TASK, message, INDEX_SHARD_TASK)


_EMBED_TASK = TypeAdapter(EmbedTask)
_INDEX_SHARD_TASK = TypeAdapter(IndexShardTask)


def _parsed(kind: TypeAdapter[_Task], message: dict[str, Any], name: str) -> _Task:
    try:
        return kind.validate_json(json.dumps(message))
    # RecursionError, ValueError: json.dumps refuses values that json.loads accepts.
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise MessageError(f"not an {name} message: {problems(error)}") from error
