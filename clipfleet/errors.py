"""The exceptions of clipfleet.

    ClipfleetError
    ├── UsageError                 wrong use or a wrong environment: exit code 2, no retry
    │   ├── SettingsError          a setting or clipfleet.toml is invalid
    │   ├── ArchitectureError      an unknown architecture, or an invalid architecture file
    │   ├── CardError              a model card is missing, unreadable or does not match
    │   ├── SourceError            a source is missing or has another format than its name says
    │   │   ├── MissingColumnError     a table lacks a column that is needed
    │   │   └── DuplicateIdError       two items of a source share an id
    │   ├── DatasetError           a dataset is damaged, or another kind of writing is needed
    │   │   ├── DatasetMismatchError   it holds vectors of another model card
    │   │   └── DatasetKindError       single items for a planned dataset, or a source for a stream
    │   ├── RecallError            an index finds too little, or too slowly, for what was asked
    │   ├── MessageError           a queued message does not have the fields of its task
    │   └── DependencyError        an optional package that this command needs is not installed
    ├── ConversionError            a conversion failed; no failed engine is kept
    │   ├── CheckpointError        a checkpoint lacks weights of the architecture
    │   └── VerificationError      a converted model differs too much from its reference
    ├── EngineError                an engine cannot be loaded or run
    │   ├── EngineMismatchError    its names, shapes or dtypes differ from its card's
    │   ├── EngineDamagedError     its file is missing, cut off or not the card's file
    │   ├── EngineVersionError     it was built with another TensorRT version or GPU model
    │   ├── EngineUnverifiedError  its vectors were not compared with its model's
    │   ├── GpuMemoryError         the GPU has too little free memory
    │   └── GpuLostError           the GPU or its driver failed: the process must end
    ├── ItemError                  one item has no vector: a row in the errors table
    └── TransientError             the cause is outside the work: try again later
        ├── BrokerError            Redis cannot be reached
        ├── QueueFullError         a queue has its maximum of messages
        └── StorageError           the file system or object store did not answer

A bad item becomes a row of the errors table (see `ItemError.code`) and does not fail its
shard. Only `TransientError` and its subclasses may be retried.
"""

from __future__ import annotations


class ClipfleetError(Exception):
    """The base class. `str(error)` names the cause, the value and the remedy."""


class UsageError(ClipfleetError):
    """Wrong use or a wrong environment; a repeated call fails again."""


class SettingsError(UsageError):
    """A setting, an environment variable or `clipfleet.toml` is invalid."""


class ArchitectureError(UsageError):
    """An architecture name is unknown, or an architecture file does not match the schema."""


class CardError(UsageError):
    """A model card is missing, unreadable, or does not describe the file beside it."""


class SourceError(UsageError):
    """A source is missing, or its content has another format than its name says."""


class MissingColumnError(SourceError):
    """A table lacks the column of the ids, or that of the paths or texts."""


class DuplicateIdError(SourceError):
    """Two items of one source, or of one dataset, share an id."""


class DatasetError(UsageError):
    """A dataset is damaged, or does not allow the operation."""


class DatasetMismatchError(DatasetError):
    """A dataset holds the vectors of another model card."""


class DatasetKindError(DatasetError):
    """A planned dataset was given single items, or a stream was given a source."""


class RecallError(UsageError):
    """An index does not reach the recall or the latency that was asked; it is not kept."""


class MessageError(UsageError):
    """A queued message does not have the fields of the task that it names."""


class DependencyError(UsageError):
    """An optional package that this command needs is not installed."""


class ConversionError(ClipfleetError):
    """A conversion failed; no failed engine has its final name."""


class CheckpointError(ConversionError):
    """A checkpoint is damaged, or lacks weights of the architecture."""


class VerificationError(ConversionError):
    """A converted model's outputs differ from the reference by more than its precision allows."""


class EngineError(ClipfleetError):
    """An engine cannot be loaded or run."""


class EngineMismatchError(EngineError):
    """An engine's input or output names, shapes or dtypes are not those of its card."""


class EngineDamagedError(EngineError):
    """An engine's file is missing, cut off, or has another SHA-256 than its card says."""


class EngineVersionError(EngineError):
    """An engine was built with another version of its runtime, or for another GPU model."""


class EngineUnverifiedError(EngineError):
    """An engine's card has no passing parity for this file, runtime version and GPU."""


class GpuMemoryError(EngineError):
    """The GPU has too little free memory for an engine, its contexts or its buffers."""


class GpuLostError(EngineError):
    """The GPU or its driver failed; every further GPU call of this process fails."""


class ItemError(ClipfleetError):
    """One item has no vector.

    `code` is one of the constants in `clipfleet.error_codes`; it is the column `error` of
    the errors table.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TransientError(ClipfleetError):
    """The cause is outside the work itself, so a later attempt may succeed."""


class BrokerError(TransientError):
    """Redis cannot be reached or refuses the connection."""


class QueueFullError(TransientError):
    """A queue has `length` messages of at most `limit`; nothing was queued. Try again later."""

    def __init__(self, message: str, *, length: int, limit: int) -> None:
        super().__init__(message)
        self.length = length
        self.limit = limit


class StorageError(TransientError):
    """The file system or object store did not answer, or refused a write."""
