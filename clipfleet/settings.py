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
    """Everything that can be set, with its unit in its name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)  # it has a password
    queue_prefix: str = "clipfleet"  # fleets of different models on one Redis need different ones
    # A secret of a fleet and of all who queue for it, 32 bytes or more: what they queue is signed
    # with it, and workers refuse the rest. While a key is changed, the old one is taken as well.
    message_key: str | None = Field(default=None, repr=False)
    message_key_old: str | None = Field(default=None, repr=False)

    # What a killed or cut-off worker held comes back to the queue after this; a living worker
    # renews its hold, however long its shard takes.
    visibility_timeout_s: PositiveInt = 10

    # Items a shard. Smaller values lose less work if a worker dies, larger ones cost less
    # for each item: aim at some seconds of work.
    shard_size: PositiveInt = 1024
    embedding_dtype: Literal["float16", "float32"] = "float16"

    # Threads a worker; 0: as many as the machine has cores for this process.
    decode_threads: int = Field(default=0, ge=0)
    engine_threads: int = Field(default=0, ge=0)
    max_batch: PositiveInt = 32  # for engines that take any batch size
    provider: Literal["auto", "cpu", "cuda"] = "auto"  # ONNX Runtime's

    # TensorRT. Batches of an engine in flight at once, each with a context, a stream and buffers
    # of its own on the GPU; 0: measured when the engine is loaded.
    engine_contexts: int = Field(default=0, ge=0, le=64)
    cuda_graphs: bool = True  # launch an engine's kernels as one graph; False: one by one
    # Also serve TensorRT engines that nothing proves for this GPU and version.
    allow_unverified: bool = False
    # Where engines are kept that `clipfleet worker --build-if-missing` built on this machine;
    # default: ~/.cache/clipfleet/engines.
    engine_cache: str | None = None

    max_image_pixels: PositiveInt = 178_956_970  # Pillow's own limit against bombs
    max_image_bytes: PositiveInt = 256 << 20
    # A shard whose process died is run again carefully: its items one at a time, images decoded
    # in a process of their own. One that ends that process so often, or holds it so long so
    # often, or on which alone the engine fails so often, is an error.
    item_attempts: PositiveInt = 3
    decode_timeout_s: PositiveFloat = 60.0  # or half of the shard's deadline, if that is less

    # Workers read images below these folders only (absolute paths; in the environment with ':'
    # between them), once `..` and symbolic links are resolved. None: wherever this user may.
    input_roots: Annotated[tuple[str, ...], NoDecode] = ()

    # Hosts that images are fetched from (in the environment with ',' between them): a name, a name
    # with a port, '*.example.com' for all names below it, '*' for all names. None: no URLs.
    # Only public addresses are fetched from, but for those of the private hosts, which are
    # allowed by that: object stores of one's own, by exact name or address.
    url_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    url_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    url_schemes: Annotated[tuple[Literal["https", "http"], ...], NoDecode] = ("https",)
    url_connect_timeout_s: PositiveFloat = 5.0  # to connect, for each address of a host
    url_read_timeout_s: PositiveFloat = 10.0  # in which the next bytes must come
    url_timeout_s: PositiveFloat = 30.0  # one try from beginning to end, redirects included
    url_threads: int = Field(default=64, ge=1, le=1024)  # fetches in flight at once, a worker
    # What lies fetched and not decoded yet. More hides slow servers better.
    url_ahead_bytes: PositiveInt = 256 << 20

    # Tries of an image whose reading fails for a cause that may pass (a timeout, a 503, a network
    # disk), and for how long after its first failure; then it is an error row, as any other.
    read_attempts: PositiveInt = 3
    read_retry_s: PositiveFloat = 30.0

    # Items that arrive singly are written as one part when this many are there, or when
    # the first has waited this long.
    window_items: PositiveInt = 1024
    window_s: PositiveFloat = 5.0

    # One worker of a fleet looks this often for shards that are neither done nor in Redis, which
    # now and then loses a message with its worker, and queues them again; 0: none does.
    reconcile_interval_s: NonNegativeFloat = 10.0

    # Shards that a tower's queue holds at most, about 1 kB of Redis each; workers queue the rest of
    # a plan as these are done, at their looks for lost shards. Without looks there is no limit.
    max_queued_shards: PositiveInt = 5_000
    # Messages that wait in a tower's queue before `tasks.item_queue` says to producers of single
    # items that it is full.
    max_queued_messages: PositiveInt = 10_000

    # A shard of which no batch gets done for so long kills its process and is run again.
    shard_deadline_s: PositiveInt = 1800
    stop_grace_s: NonNegativeFloat = 60.0  # after SIGTERM, before a running shard is handed back

    # Object stores: seconds for one request; what fails is tried again for twice as long.
    store_timeout_s: PositiveFloat = 30.0

    # Set by `clipfleet worker` for the process that holds the engine.
    model: str | None = None
    output: str | None = None
    tower: Literal["img", "txt"] | None = None

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
