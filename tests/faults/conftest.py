"""A rig for each test, and where its outcome is kept for the table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from clipfleet.errors import DependencyError
from clipfleet.tasks.local.redis_server import server_command
from tests.faults.harness import Fault, Rig, open_rig

MakeRig = Callable[..., Rig]
Record = Callable[[Fault], None]

FAULT_PROPERTY = "fault"


@pytest.fixture(scope="session", autouse=True)
def _redis_is_installed() -> None:
    try:
        server_command()
    except DependencyError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    """A maker of rigs, see `open_rig`."""
    with ExitStack() as stack:

        def make(**options: object) -> Rig:
            return stack.enter_context(open_rig(tmp_path, **options))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """What keeps a fault for the table, and fails the test if it did harm."""

    def keep(fault: Fault) -> None:
        request.node.user_properties.append((FAULT_PROPERTY, asdict(fault)))
        assert fault.ok, fault

    return keep
