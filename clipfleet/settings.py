"""The one place that reads the environment and `clipfleet.toml`.

Every field is also an environment variable with the prefix `CLIPFLEET_`
(`CLIPFLEET_REDIS_URL`), which goes before `clipfleet.toml` in the working folder
(or the file that `CLIPFLEET_CONFIG` names).
"""

from __future__ import annotations

import difflib
import os
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from clipfleet.errors import SettingsError
from clipfleet.hosts import allowed_host
from clipfleet.validation import problems

PREFIX = "CLIPFLEET_"
CONFIG_VARIABLE = "CLIPFLEET_CONFIG"
ENGINE_REPORT_VARIABLE = "CLIPFLEET_ENGINE_REPORT"  # between a worker and its child
DEFAULT_CONFIG = "clipfleet.toml"
KEY_BYTES = 32  # of a message key, at least: what HMAC-SHA256 can use
ROOT_SEPARATOR = ":"  # between folders in an environment variable, as in PATH
HOST_SEPARATOR = ","  # between hosts, which may have a port
SEPARATORS = {  # of the settings that are lists
    "input_roots": ROOT_SEPARATOR,
    "url_hosts": HOST_SEPARATOR,
    "url_private_hosts": HOST_SEPARATOR,
    "url_schemes": HOST_SEPARATOR,
}
_SECRET = ("message_key", "message_key_old", "redis_url")


class Settings(BaseSettings):
    """Everything that can be set, with its unit in its name.

    docs/reference/settings.md is made from these fields, their docstrings and the headings.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # == Redis and queues ==

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Redis: `redis://`, `rediss://` (TLS) or `redis+socket://`. A URL may hold a password."""

    queue_prefix: str = "clipfleet"
    """Start of the names of queues. Fleets of different models on one Redis need different ones."""

    message_key: str | None = Field(default=None, repr=False)
    """Secret of 32 bytes or more. With a key, workers refuse messages that it does not sign; every
    producer then needs the key."""

    message_key_old: str | None = Field(default=None, repr=False)
    """Previous key, accepted as well while a key is changed."""

    visibility_timeout_s: PositiveInt = 10
    """Seconds until the messages of a dead worker return to the queue. A living worker renews its
    hold, so a shard may take longer. Smaller values recover sooner, larger ones tolerate longer
    pauses of a worker."""

    reconcile_interval_s: NonNegativeFloat = 10.0
    """Seconds between two searches for shards that are neither done nor in Redis; one worker of a
    fleet queues them again. Smaller values recover sooner and read the dataset more often.
    0: no search."""

    max_queued_shards: PositiveInt = 5_000
    """Shards in a tower's queue at most, about 1 kB of Redis each. Workers queue the rest of a plan
    at each search for lost shards; without a search there is no limit."""

    max_queued_messages: PositiveInt = 10_000
    """Messages of single items in a tower's queue before `ItemQueue` reports a full queue. Larger
    values hide longer pauses of the workers and take more memory of Redis."""

    # == Shards and datasets ==

    shard_size: PositiveInt = 1024
    """Items a shard. Smaller values lose less work if a worker dies, larger ones cost less for each
    item: choose some seconds of work."""

    embedding_dtype: Literal["float16", "float32"] = "float16"
    """Type of the stored vectors. float16 takes half the space, and rounds a component by at most
    0.00025."""

    window_items: PositiveInt = 1024
    """Single items that are written as one part. Larger values give fewer, larger files."""

    window_s: PositiveFloat = 5.0
    """Seconds that the first single item of a window waits for others. Smaller values write
    sooner, larger ones give fewer files."""

    shard_deadline_s: PositiveInt = 1800
    """Seconds without a finished batch after which a shard's process is killed and the shard is run
    again. Smaller values end a hang sooner, and must exceed the slowest batch."""

    shard_attempts: PositiveInt = 5
    """Times that a shard may end its worker's process, or fail for a reason that does not pass by
    itself, before it is refused. Single items become error rows instead, `engine_crashed` or
    `engine_failed`. Smaller values give up sooner."""

    stop_grace_s: NonNegativeFloat = 60.0
    """Seconds after SIGTERM in which the running shard may finish; then it returns to the queue.
    Smaller values stop sooner and repeat more work."""

    store_timeout_s: PositiveFloat = 30.0
    """Seconds for one request to an object store. A failed request is tried again for twice as
    long."""

    # == Engines ==

    decode_threads: int = Field(default=0, ge=0)
    """Threads of a worker that read and decode images; 0: one for each core of this process. More
    hide slow disks, and take cores from an engine on the CPU."""

    engine_threads: int = Field(default=0, ge=0)
    """Threads of an engine on the CPU; 0: one for each core of this process."""

    max_batch: PositiveInt = 32
    """Items a call of an engine that accepts any batch size. Larger batches are faster on a GPU and
    take more memory."""

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Execution provider of ONNX Runtime. `auto` takes the GPU if there is one."""

    engine_contexts: int = Field(default=0, ge=0, le=64)
    """Batches of a TensorRT engine in flight at once, each with a context, a stream and buffers on
    the GPU; 0: measured when the engine is loaded. More hide latency and take more GPU memory."""

    cuda_graphs: bool = True
    """Launch the kernels of a TensorRT engine as one CUDA graph. False launches them one by one:
    slower, for diagnosis."""

    allow_unverified: bool = False
    """Also serve TensorRT engines without a proof for this GPU and this version of TensorRT. The
    vectors may then be wrong."""

    engine_cache: str | None = None
    """Folder of the engines that `clipfleet worker --build-if-missing` builds; unset:
    `~/.cache/clipfleet/engines`."""

    # == Images ==

    max_image_pixels: PositiveInt = 178_956_970
    """Pixels of an image at most: Pillow's own limit against decompression bombs. A larger image is
    an error row; larger values take more memory."""

    max_image_bytes: PositiveInt = 256 << 20
    """Bytes of an image file at most. A larger file is an error row."""

    decode_attempts: PositiveInt = 3
    """Times that a picture may end its decoding process, or hold it for `decode_timeout_s`, before
    it is an error row. Only shards whose process died before are decoded in such a process."""

    decode_timeout_s: PositiveFloat = 60.0
    """Seconds for decoding one image in a careful run, or half of the shard's deadline if that is
    less."""

    input_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """Folders (absolute paths, in the environment separated by `:`) below which workers read
    images, once `..` and symbolic links are resolved. Unset: every file that the worker's user can
    read."""

    read_attempts: PositiveInt = 3
    """Attempts of an image that cannot be read for a transient cause (a timeout, a 503, a network
    disk) before the image is an error row."""

    read_retry_s: PositiveFloat = 30.0
    """Seconds after the first failure in which an image is tried again. Larger values survive
    longer outages and hold up a shard for longer."""

    # == URLs ==

    url_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts (in the environment separated by `,`) from which images are fetched: a name, a name
    with a port, `*.example.com` for all names below it, `*` for all names. Unset: none.
    Only public addresses are fetched from, except those of `url_private_hosts`."""

    url_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts at private addresses, by exact name or address, such as your own object store. They are
    allowed without a line in `url_hosts`."""

    url_schemes: Annotated[tuple[Literal["https", "http"], ...], NoDecode] = ("https",)
    """Schemes of URLs that are fetched. `http` lets the network between read and change images."""

    url_connect_timeout_s: PositiveFloat = 5.0
    """Seconds to connect to each address of a host."""

    url_read_timeout_s: PositiveFloat = 10.0
    """Seconds until the next bytes of an answer must arrive."""

    url_timeout_s: PositiveFloat = 30.0
    """Seconds for one attempt from beginning to end, redirects included. Larger values accept
    slower servers."""

    url_threads: int = Field(default=64, ge=1, le=1024)
    """Fetches in flight at once for each worker. More hide slower servers and load them more."""

    url_ahead_bytes: PositiveInt = 256 << 20
    """Bytes that are fetched and not decoded yet. More hide slow servers and take more memory."""

    # == Operation ==

    heartbeat_file: str | None = None
    """File that a worker touches every 2 s while it takes messages from Redis, for a healthcheck.
    Unset: none."""

    # == Set by `clipfleet worker` ==

    model: str | None = None
    """Model card of the worker's engine; set by `--model`."""

    output: str | None = None
    """Folder or `s3://` prefix below which the worker writes datasets; set by `--output`."""

    tower: Literal["img", "txt"] | None = None
    """Queue that the worker serves; set by `--tower`."""

    @property
    def message_keys(self) -> tuple[str, ...]:
        """The keys of which a message has to be signed with one; none: it need not be."""
        return tuple(key for key in (self.message_key, self.message_key_old) if key)

    @field_validator("message_key", "message_key_old")
    @classmethod
    def _check_key(cls, key: str | None) -> str | None:
        if key is not None and (len(key.encode()) < KEY_BYTES or key != key.strip()):
            raise ValueError(
                f"a key has {KEY_BYTES} bytes or more, and no space or line end around it: "
                "`openssl rand -hex 32` makes one"
            )
        return key

    @field_validator("message_key_old")
    @classmethod
    def _check_old_key(cls, old: str | None, info: ValidationInfo) -> str | None:
        if old is not None and info.data.get("message_key") is None:
            raise ValueError("there is an old key only beside a new one, message_key")
        return old

    @field_validator(*SEPARATORS, mode="before")
    @classmethod
    def _split(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, str):
            return given
        name = str(info.field_name)
        # No host is what an empty variable says; no input root would be the contrary: no limit.
        return tuple(given.split(SEPARATORS[name])) if given or name == "input_roots" else ()

    @field_validator("input_roots")
    @classmethod
    def _check_roots(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            # An empty one is a variable that somebody forgot to set: no limit is not what is meant.
            if not os.path.isabs(root) or ROOT_SEPARATOR in root:
                raise ValueError(
                    f"{root!r} is no absolute path without '{ROOT_SEPARATOR}': name folders as "
                    "/data, and leave the setting out for no limit"
                )
        return roots

    @field_validator("url_hosts", "url_private_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for host in hosts:
            allowed_host(host, wildcards=info.field_name == "url_hosts")
        return hosts

    @field_validator("url_schemes")
    @classmethod
    def _check_schemes(cls, schemes: tuple[str, ...]) -> tuple[str, ...]:
        if not schemes:
            raise ValueError("no scheme: name https, or https,http")
        return schemes

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        config = os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG)
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config)


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of this process; `overrides` go before the environment.

    Raises:
        SettingsError: A value is of the wrong type or out of range, or a name is unknown.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named and not os.path.isfile(named):
        raise SettingsError(f"{CONFIG_VARIABLE} names {named}, which is not a file")
    _refuse_misspelt_variables()
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except (ValidationError, ValueError) as error:
        # No cause: pydantic's own text shows every value, a secret too.
        raise SettingsError(f"settings: {problems(error, hidden=_SECRET)}") from None


def _refuse_misspelt_variables() -> None:
    """Refuse what is nearly a setting: it would be ignored without a word.

    Other names are other programs': an orchestrator may set CLIPFLEET_SERVICE_HOST.
    """
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        if name == variable.lower() or name in Settings.model_fields:
            continue
        near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.8)
        if near:
            raise SettingsError(
                f"environment variable {variable} is no setting: "
                f"did you mean {PREFIX}{near[0].upper()}?"
            )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
