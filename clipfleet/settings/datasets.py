"""The settings of shards and of datasets."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

OnConflict = Literal["keep", "replace", "error"]
_SHARD_SIZE = 1024  # items
_TENSORRT_SHARD_SIZE = 4096  # the GPU idles between two shards: fewer shards, fewer pauses


def allowed_failures(limit: str, items: int) -> int:
    """Return how many of a job's items may fail by a limit such as 5% or 100.

    Raises:
        ValueError: The limit has another form.
    """
    if limit.isascii() and limit.isdecimal():
        return int(limit)
    with suppress(ArithmeticError):
        percentage = Decimal(limit.removesuffix("%"))
        if limit.endswith("%") and 0 <= percentage <= 100:
            return int(items * percentage / 100)
    raise ValueError(
        f"{limit!r} is neither a percentage of a job's items from 0% to 100%, such as 5%, nor a "
        "number of items, such as 100"
    )


class DatasetSettings(BaseModel):
    """Shards and datasets."""

    shard_size: int = Field(default=0, ge=0)
    """Items in a shard; 0: 4,096 for a TensorRT engine, and 1,024 for every other engine and for
    `retry`. Smaller values lose less work if a worker dies; larger values have less overhead for
    each item. Choose a size that takes a few seconds."""

    embedding_dtype: Literal["float16", "float32"] = "float16"
    """Type of the stored vectors. float16 takes half the space and rounds each component by at most
    0.00025."""

    window_items: PositiveInt = 1024
    """Maximum of single items in one part. Larger values give fewer and larger files."""

    window_s: PositiveFloat = 5.0
    """Seconds that the first single item of a window waits for others. Smaller values write
    sooner; larger values give fewer files."""

    on_conflict: OnConflict = "keep"
    """Treatment of an id that comes again with another uri or text, as a single item or in
    `submit --refresh`. `keep` keeps its vector and counts the conflict, `replace` embeds the newer
    content in its place, `error` refuses the item. An id without a vector always takes the newer
    content."""

    max_failed: str | None = None
    """Items of a job that may fail: a percentage of its items (`5%`), or a number (`100`). When
    more have failed, workers refuse the job's other shards, and what is embedded stays. `submit`,
    `embed` and `resume` write the limit into the dataset, where it stays until one of them has
    another; `100%` is no limit."""

    shard_deadline_s: PositiveInt = 1800
    """Seconds without a finished batch after which a shard's process is killed and the shard runs
    again. Smaller values end a hang sooner. The value must exceed the time of the slowest batch."""

    shard_attempts: PositiveInt = 5
    """Attempts of a shard that ends its worker's process, or fails for a permanent reason, before
    the shard is refused. Single items become error rows instead, `engine_crashed` or
    `engine_failed`. Smaller values give up sooner; larger values survive more chance failures."""

    stop_grace_s: NonNegativeFloat = 60.0
    """Seconds after SIGTERM in which the running shard may finish. After that, the shard returns to
    the queue. Smaller values stop sooner and repeat more work."""

    store_timeout_s: PositiveFloat = 30.0
    """Seconds for one request to an object store. Failed requests are repeated for twice as long.
    Smaller values report an outage sooner; larger values survive longer ones."""

    def items_in_shard(self, runtime: str = "") -> int:
        """Return `shard_size`; or if it is 0, the size for a runtime, as a model card names it."""
        if self.shard_size:
            return self.shard_size
        return _TENSORRT_SHARD_SIZE if runtime == "tensorrt" else _SHARD_SIZE

    @field_validator("max_failed")
    @classmethod
    def _check_max_failed(cls, limit: str | None) -> str | None:
        if limit is not None:
            allowed_failures(limit, 1)
        return limit
