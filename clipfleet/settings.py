"""The settings, read from the environment and from `clipfleet.toml`.

Every field is an environment variable with the prefix `CLIPFLEET_` (`CLIPFLEET_REDIS_URL`), and
a key of `clipfleet.toml` in the working folder or of the file that `CLIPFLEET_CONFIG` names. The
environment takes precedence over the file.
"""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from decimal import Decimal
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
from clipfleet.images import Alpha, SixteenBit, Truncated
from clipfleet.validation import problems

PREFIX = "CLIPFLEET_"
CONFIG_VARIABLE = "CLIPFLEET_CONFIG"
ENGINE_REPORT_VARIABLE = "CLIPFLEET_ENGINE_REPORT"  # set by a worker for its child process
DEFAULT_CONFIG = "clipfleet.toml"
KEY_BYTES = 32  # minimum of a message key: the output size of HMAC-SHA256
ROOT_SEPARATOR = ":"  # between folders in an environment variable, as in PATH
HOST_SEPARATOR = ","  # between hosts, whose ports need the colon
SEPARATORS = {  # of the settings that are lists
    "input_roots": ROOT_SEPARATOR,
    "models": ROOT_SEPARATOR,
    "url_hosts": HOST_SEPARATOR,
    "url_private_hosts": HOST_SEPARATOR,
    "url_schemes": HOST_SEPARATOR,
}
_STORE = re.compile(r"(s3|gs|hf)://[^/]")
_BETWEEN_ROOTS = re.compile(f"{ROOT_SEPARATOR}(?!//)")  # not the colon of s3://
OnConflict = Literal["keep", "replace", "error"]
Decode = Literal["exact", "gpu"]
_SHARD_SIZE = 1024  # items
_TENSORRT_SHARD_SIZE = 4096  # the GPU idles between two shards: fewer shards, fewer pauses
_SECRET = ("message_key", "message_key_old", "redis_url")


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


class Settings(BaseSettings):
    """All settings; names carry their unit.

    docs/reference/settings.md is generated from these fields, docstrings and headings.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # == Redis and queues ==

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Redis: `redis://`, `rediss://` (TLS) or `redis+socket://`. A URL may hold a password, and
    redis-py's options, as in `?db=3&socket_timeout=5&ssl_ca_certs=/ca.crt`; an option that
    clipfleet cannot use is refused with the reason."""

    queue_prefix: str = "clipfleet"
    """First part of the queues' names. Fleets of different models on one Redis need different
    prefixes."""

    message_key: str | None = Field(default=None, repr=False)
    """Secret of 32 bytes or more. With a key, workers refuse messages without its signature, and
    every producer needs the key."""

    message_key_old: str | None = Field(default=None, repr=False)
    """Previous key, which workers accept as well during a change of keys."""

    visibility_timeout_s: PositiveInt = 10
    """Seconds until the messages of a dead worker return to the queue. A living worker renews this
    time, so a shard may take longer. Smaller values recover sooner; larger values tolerate longer
    pauses of a worker."""

    reconcile_interval_s: NonNegativeFloat = 10.0
    """Seconds between two searches for shards that are neither done nor in Redis. One worker of a
    fleet searches and queues such shards again. Smaller values recover sooner and read the dataset
    more often. 0: no search."""

    max_queued_shards: PositiveInt = 5_000
    """Maximum of shards in a tower's queue; each takes about 1 kB of Redis. Workers queue the rest
    of a plan at each search for lost shards. Without a search, the queue has no limit."""

    max_queued_messages: PositiveInt = 10_000
    """Messages of single items in a tower's queue at which `ItemQueue` reports a full queue. Larger
    values bridge longer pauses of the workers and take more memory of Redis."""

    allow_eviction: bool = False
    """Also use a Redis that deletes queued messages when it is full (`maxmemory-policy
    allkeys-…`). Single items in these messages are lost; shards are queued again."""

    # == Shards and datasets ==

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

    # == Engines ==

    engine_processes: int = Field(default=0, ge=0, le=16)
    """Processes of a worker that each hold its engine, and share its decoders and cores; 0: two for
    a TensorRT engine that finds room twice in the GPU's free memory, otherwise one. One process
    embeds while the other writes, so the GPU has no pause between two shards. More processes take
    more GPU memory."""

    decoders: int = Field(default=0, ge=0)
    """Processes of a worker that read and decode images; 0: one for each core of this process.
    Workers that `embed` or `--gpus` starts on one machine share its cores. More processes hide slow
    disks; they take cores from an engine on the CPU, and some 50 MB each."""

    decode_memory_mib: PositiveInt = 2048
    """Memory of a worker with a TensorRT engine for images that are decoded and not resized yet, in
    MiB; its decoders share it. An image that finds no room is resized by its decoder, which is
    slower. Larger values hold more large images; the memory is locked."""

    decode: Decode = "exact"
    """Decoder of JPEG files. `exact`: the pixels are Pillow's. `gpu`: the GPU of a TensorRT engine
    decodes them, which is faster for large images; the vectors differ a little. A dataset has
    vectors of one kind only. `gpu` needs the extra `gpu-decode`."""

    reuse: str | None = None
    """Dataset of the same model whose vectors a worker copies, instead of embedding equal bytes
    again. Both datasets need content hashes (`--content-hash`). Set by `--reuse`."""

    engine_threads: int = Field(default=0, ge=0)
    """Threads of an engine on the CPU, and of a search, an evaluation or the building of an index;
    0: one for each core of this process. More threads speed up an engine and take cores from
    decoding."""

    max_batch: PositiveInt = 32
    """Items in a call of an engine that accepts any batch size. Larger batches are faster on a GPU
    and take more memory."""

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Execution provider of ONNX Runtime. `auto` uses the GPU if there is one."""

    engine_contexts: int = Field(default=0, ge=0, le=64)
    """Batches of a TensorRT engine in flight at once, each with a context, a stream and buffers on
    the GPU; 0: measured when the engine is loaded. More contexts hide latency and take more GPU
    memory."""

    cuda_graphs: bool = True
    """Launch the kernels of a TensorRT engine as one CUDA graph. False launches them one by one,
    which is slower and helps diagnosis."""

    allow_unverified: bool = False
    """Also serve TensorRT engines that were not verified on this GPU model with this version of
    TensorRT. The vectors may then be wrong."""

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("models", "~/.cache/clipfleet/models"), min_length=1
    )
    """Folders of model folders, separated by `:` in the environment: `--model ViT-B-16` is the
    folder `vit-b-16` in the first of them that has it. `clipfleet prepare ViT-B-16` fills it."""

    engine_cache: str | None = None
    """Folder of the engines that `clipfleet worker --build-if-missing` builds; unset:
    `~/.cache/clipfleet/engines`."""

    # == Indexes ==

    index_root: str | None = None
    """Folder below which workers build shards of indexes, for `clipfleet index --queue`. Unset: the
    folder in which they write datasets; a worker that writes into an object store needs this
    one."""

    # == Images ==

    max_image_pixels: PositiveInt = 178_956_970
    """Maximum of pixels in an image; the default is Pillow's limit against decompression bombs. A
    larger image becomes an error row. Larger values take more memory."""

    max_image_bytes: PositiveInt = 256 << 20
    """Maximum of bytes in an image file. A larger file becomes an error row. Larger values take
    more memory."""

    sixteen_bit: SixteenBit = "error"
    """Pictures of 16 or 32 bits a pixel, and of floating point, of which the original's transform
    makes a white or black picture. `error`: an error row. `scale`: the range of the picture's own
    values becomes 8 bits. `original`: the original's vectors. A dataset keeps the choice of its
    first submission; for single items, the worker that makes it decides."""

    alpha: Alpha = "original"
    """Ground below transparent pixels. `original`: none, so what a pixel hides is seen, often
    black. `white` or `black`: the picture is put on it. A dataset keeps one choice, as for
    `sixteen_bit`."""

    truncated: Truncated = "error"
    """JPEG files that lack only their end, and no pixel. `error`: an error row. `allow`: they are
    embedded, with the vectors of whole files. A dataset keeps one choice, as for `sixteen_bit`."""

    decode_attempts: PositiveInt = 3
    """Attempts of an image that ends its decoder, or takes longer than `decode_timeout_s`, before
    the image becomes an error row. Smaller values give up sooner; larger values survive more chance
    failures."""

    decode_timeout_s: PositiveFloat = 60.0
    """Seconds for one image in a decoder, or half of `shard_deadline_s` if that is less. Smaller
    values end a hang sooner; larger values allow slower images and slower disks."""

    input_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """Folders of which workers may read images: absolute paths, and `s3://`, `gs://` and `hf://`
    URLs, separated by `:` in the environment. `..` and symbolic links are resolved first. Unset:
    every file that the worker's user, and the credentials in its environment, can read."""

    read_attempts: PositiveInt = 3
    """Attempts to read an image after a transient failure (a timeout, a 503, a network disk) before
    the image becomes an error row. Larger values survive more failures and hold up a shard for
    longer."""

    read_retry_s: PositiveFloat = 30.0
    """Seconds after the first failure in which these attempts are made. Larger values survive
    longer outages and hold up a shard for longer."""

    # == URLs ==

    url_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts from which images are fetched, separated by `,` in the environment: a name, a name with
    a port, `*.example.com` for all names below it, `*` for all names. Unset: none. Their addresses
    must be public; `url_private_hosts` are the exceptions."""

    url_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts at private addresses, such as your own object store, by exact name or address. They
    need no entry in `url_hosts`."""

    url_schemes: Annotated[tuple[Literal["https", "http"], ...], NoDecode] = ("https",)
    """Schemes of URLs that are fetched. With `http`, everybody on the network path can read
    and change the images."""

    url_connect_timeout_s: PositiveFloat = 5.0
    """Seconds for a connection to each address of a host. Larger values accept slower networks."""

    url_read_timeout_s: PositiveFloat = 10.0
    """Seconds without a byte of the answer before an attempt ends. Larger values accept slower
    servers."""

    url_timeout_s: PositiveFloat = 30.0
    """Seconds for a whole attempt, redirects included. Larger values accept slower servers."""

    url_threads: int = Field(default=64, ge=1, le=1024)
    """Maximum of concurrent fetches of each worker. Larger values hide slower servers and load them
    more."""

    url_ahead_bytes: PositiveInt = 256 << 20
    """Maximum of bytes that are fetched and not decoded yet. Larger values hide slow servers and
    take more memory."""

    # == Operation ==

    heartbeat_file: str | None = None
    """File that a worker touches every 2 s while it receives messages from Redis, for a
    healthcheck. Unset: none."""

    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port at which a worker serves metrics for Prometheus; 0: none. Of several workers that one
    command starts, each has the next port."""

    metrics_host: str = "127.0.0.1"
    """Address at which metrics are served. `0.0.0.0` lets other machines read them, without a
    password."""

    trace_url: str | None = None
    """Collector of OpenTelemetry that gets the traces of shards (OTLP over HTTP), such as
    `http://127.0.0.1:4318/v1/traces`. Unset: none. It needs the extra `tracing`."""

    # == Set by `clipfleet worker` ==

    model: str | None = None
    """Model card of the worker's engine; set by `--model`."""

    output: str | None = None
    """Folder or `s3://` prefix below which the worker writes datasets; set by `--output`."""

    tower: Literal["img", "txt"] | None = None
    """Queue that the worker serves; set by `--tower`."""

    def items_in_shard(self, runtime: str = "") -> int:
        """Return `shard_size`; or if it is 0, the size for a runtime, as a model card names it."""
        if self.shard_size:
            return self.shard_size
        return _TENSORRT_SHARD_SIZE if runtime == "tensorrt" else _SHARD_SIZE

    @property
    def message_keys(self) -> tuple[str, ...]:
        """The keys, one of which must sign a message; empty: messages need no signature."""
        return tuple(key for key in (self.message_key, self.message_key_old) if key)

    @field_validator("max_failed")
    @classmethod
    def _check_max_failed(cls, limit: str | None) -> str | None:
        if limit is not None:
            allowed_failures(limit, 1)
        return limit

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
            raise ValueError("an old key needs a new one beside it, message_key")
        return old

    @field_validator(*SEPARATORS, mode="before")
    @classmethod
    def _split(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, str):
            return given
        name = str(info.field_name)
        # An empty list of hosts allows none. An empty list of roots would allow all: it is refused.
        if name == "input_roots":
            return tuple(_BETWEEN_ROOTS.split(given))
        return tuple(given.split(SEPARATORS[name])) if given else ()

    @field_validator("input_roots")
    @classmethod
    def _check_roots(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            # An empty root comes from an unset variable, and must not mean "no limit".
            is_path = os.path.isabs(root) and ROOT_SEPARATOR not in root
            if not is_path and not _STORE.match(root):
                raise ValueError(
                    f"{root!r} is no absolute path without '{ROOT_SEPARATOR}', and no s3://, gs:// "
                    "or hf:// URL: name folders as /data, and leave the setting out for no limit"
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

    @field_validator("trace_url")
    @classmethod
    def _check_trace_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no http:// or https:// URL of a collector")
        return url

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
    """Return the settings of this process; `overrides` take precedence over the environment.

    Raises:
        SettingsError: A value has the wrong type or is out of range, or a name is unknown.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named and not os.path.isfile(named):
        raise SettingsError(f"{CONFIG_VARIABLE} names {named}, which is not a file")
    _refuse_misspelt_variables()
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except (ValidationError, ValueError) as error:
        # `from None`: the text of pydantic's error shows all values, secrets included.
        raise SettingsError(f"settings: {problems(error, hidden=_SECRET)}") from None


def _refuse_misspelt_variables() -> None:
    """Refuse a variable whose name is nearly a setting's: it would have no effect.

    Other names may belong to other programs: an orchestrator may set CLIPFLEET_SERVICE_HOST.
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
