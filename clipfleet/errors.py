"""Every exception that clipfleet raises on purpose.

    ClipfleetError
    ├── UsageError                 wrong use or environment: exit code 2, never retried
    │   ├── SettingsError          a setting or clipfleet.toml is wrong
    │   ├── ArchitectureError      an unknown architecture, or a wrong architecture file
    │   ├── CardError              a model card is missing, unreadable or does not fit
    │   ├── SourceError            a source cannot be read as what it claims to be
    │   │   └── DuplicateIdError   two items of a source share an id
    │   ├── DatasetError           a dataset is damaged or used against its kind
    │   │   ├── DatasetMismatchError   it holds vectors of another model card
    │   │   └── DatasetKindError       it is planned and was given single items, or the reverse
    │   ├── MessageError           a queued message is not one of ours
    │   └── DependencyError        an optional package that this command needs is not installed
    ├── ConversionError            a conversion failed; it kept no engine that failed
    │   ├── CheckpointError        a checkpoint does not hold the architecture's weights
    │   └── VerificationError      a converted model strays too far from its reference
    ├── EngineError                an engine refused to load or to run
    │   ├── EngineMismatchError    its names, shapes or dtypes are not its card's
    │   ├── EngineDamagedError     its file is missing, cut off, or not its card's
    │   ├── EngineVersionError     it was built by another TensorRT version, or for another GPU
    │   ├── EngineUnverifiedError  nothing proves that it computes what its model computes
    │   ├── GpuMemoryError         the GPU has no room for it
    │   └── GpuLostError           the GPU does not answer any more: this process must end
    ├── ItemError                  one item has no vector: a row in the errors table
    └── TransientError             worth trying again later
        ├── BrokerError            Redis cannot be reached
        ├── QueueFullError         a queue has as many messages as are allowed
        └── StorageError           the file system or object store did not answer

A bad item is a row of the errors table (see `ItemError.code`), never a failed
shard. Only `TransientError` and its children may be retried.
"""

from __future__ import annotations


class ClipfleetError(Exception):
    """The root: `str(error)` says what was wrong, with the value, and the way out."""


class UsageError(ClipfleetError):
    """Wrong use or a wrong environment; the same call fails again."""


class SettingsError(UsageError):
    """A setting, an environment variable or `clipfleet.toml` is wrong."""


class ArchitectureError(UsageError):
    """An unknown architecture name, or an architecture file that does not fit its schema."""


class CardError(UsageError):
    """A model card is missing, unreadable, or does not describe the file beside it."""


class SourceError(UsageError):
    """A source is missing, or cannot be read as what it claims to be."""


class DuplicateIdError(SourceError):
    """Two items of one source, or of one dataset, share an id."""


class DatasetError(UsageError):
    """A dataset is damaged, or is used against its kind."""


class DatasetMismatchError(DatasetError):
    """A dataset holds the vectors of another model card."""


class DatasetKindError(DatasetError):
    """A planned dataset was given single items, or a stream was given a source."""


class MessageError(UsageError):
    """A queued message does not have the fields of the task that it names."""


class DependencyError(UsageError):
    """An optional package that this command needs is not installed."""


class ConversionError(ClipfleetError):
    """A conversion failed; no engine that failed was kept under its final name."""


class CheckpointError(ConversionError):
    """A checkpoint is damaged, or does not hold the architecture's weights."""


class VerificationError(ConversionError):
    """A converted model's outputs stray further from the reference than its precision allows."""


class EngineError(ClipfleetError):
    """An engine refused to load or to run."""


class EngineMismatchError(EngineError):
    """An engine's input or output names, shapes or dtypes are not those of its card."""


class EngineDamagedError(EngineError):
    """An engine's file is missing, cut off, or has another SHA-256 than its card says."""


class EngineVersionError(EngineError):
    """An engine was built by another version of its runtime, or for another GPU."""


class EngineUnverifiedError(EngineError):
    """An engine's card has no passing parity for this file, runtime version and GPU."""


class GpuMemoryError(EngineError):
    """The GPU has too little free memory for an engine, its contexts or its buffers."""


class GpuLostError(EngineError):
    """The GPU or its driver failed; no call of this process on it can succeed any more."""


class ItemError(ClipfleetError):
    """One item has no vector.

    `code` is one of the constants in `clipfleet.messages.ERROR_CODES`; users filter the
    errors table on it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TransientError(ClipfleetError):
    """Worth trying again: the cause lies outside the work itself."""


class BrokerError(TransientError):
    """Redis cannot be reached or refuses the connection."""


class QueueFullError(TransientError):
    """A queue has `length` messages of `limit`: nothing was queued, try again later."""

    def __init__(self, message: str, *, length: int, limit: int) -> None:
        super().__init__(message)
        self.length = length
        self.limit = limit


class StorageError(TransientError):
    """The file system or object store did not answer, or refused a write."""
