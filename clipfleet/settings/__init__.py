"""The settings, read from the environment and from `clipfleet.toml`.

Every field is an environment variable with the prefix `CLIPFLEET_` (`CLIPFLEET_REDIS_URL`), and
a key of `clipfleet.toml` in the working folder or of the file that `CLIPFLEET_CONFIG` names. The
environment takes precedence over the file.
"""

from __future__ import annotations

import difflib
import os
from typing import Any

from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from clipfleet.errors import SettingsError
from clipfleet.settings.datasets import DatasetSettings
from clipfleet.settings.engines import EngineSettings
from clipfleet.settings.images import ImageSettings
from clipfleet.settings.operation import IndexSettings, OperationSettings, WorkerSettings
from clipfleet.settings.queues import QueueSettings
from clipfleet.settings.separators import SEPARATORS, split_list
from clipfleet.settings.urls import UrlSettings
from clipfleet.validation import problems

PREFIX = "CLIPFLEET_"
CONFIG_VARIABLE = "CLIPFLEET_CONFIG"
ENGINE_REPORT_VARIABLE = "CLIPFLEET_ENGINE_REPORT"  # set by a worker for its child process
DEFAULT_CONFIG = "clipfleet.toml"
_SECRET = ("message_key", "message_key_old", "redis_url")


class Settings(  # pydantic takes the fields of the last base first
    WorkerSettings,
    OperationSettings,
    UrlSettings,
    ImageSettings,
    IndexSettings,
    EngineSettings,
    DatasetSettings,
    QueueSettings,
    BaseSettings,
):
    """All settings; names carry their unit.

    docs/reference/settings.md is generated from the fields of the bases, and from their docstrings.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    @field_validator(*SEPARATORS, mode="before")
    @classmethod
    def _split(cls, given: Any, info: ValidationInfo) -> Any:
        return split_list(str(info.field_name), given) if isinstance(given, str) else given

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
