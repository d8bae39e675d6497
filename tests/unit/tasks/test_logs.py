"""Logs: JSON lines, and no credentials in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from clipfleet.settings import load_settings
from clipfleet.tasks.worker.logs import set_up_logs


@pytest.fixture(autouse=True)
def _same_root_logger_afterwards() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def set_up() -> None:
    set_up_logs(load_settings(redis_url="redis://:hunter2@host/0"))


def test_a_line_is_an_object_with_its_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up()
    logging.getLogger("x").info("shard embedded", extra={"shard": "00001-0000002", "items": 5})
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "shard embedded"
    assert (line["level"], line["shard"], line["items"]) == ("INFO", "00001-0000002", 5)
    assert line["time"][4] == "-"


def test_a_password_is_in_no_field_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    set_up()
    try:
        raise ConnectionError("redis://:hunter2@host/0 refused")
    except ConnectionError:
        logging.getLogger("x").exception("broken", extra={"url": "redis://:hunter2@host/0"})
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert json.loads(said)["url"] == "redis://:**@host/0"
