"""The settings of an application: they travel with it into the worker's child."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

    from clipfleet.settings import Settings


def settings_of(app: Celery) -> Settings:
    """Return the settings that `make_app` made an application of."""
    settings: Settings = app.conf.clipfleet_settings
    return settings
