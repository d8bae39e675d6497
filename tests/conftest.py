"""What holds for all tests: an interrupt is one, the files that take longest come first, and a
small object store for those that want one."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import pytest

from tests.s3 import S3, run_s3

REAL_STORE = "CLIPFLEET_TEST_S3"  # s3://bucket/prefix of a store to run the contract's tests on

try:
    from hypothesis import settings
except ImportError:  # tests/gpu runs where pytest and a worker's packages are, and no more
    pass
else:
    settings.register_profile("patient", deadline=None)  # the machine may do much else
    settings.register_profile("quick", deadline=None, max_examples=20)  # `make unit`
    settings.load_profile("patient")

# So that none of them is left alone at the end. A file's tests stay together (`--dist loadfile`);
# the rest of tests/unit takes seconds a file.
SLOW = (
    "tests/examples/test_readme.py",
    "tests/faults/",
    "tests/integration/",
    "tests/examples/",
    "tests/fuzz/",
    "tests/parity/",
    "tests/convert/",
    "tests/interleavings/",
)


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs begin
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))  # each file keeps its order


def rank(nodeid: str) -> int:
    return next((place for place, slow in enumerate(SLOW) if nodeid.startswith(slow)), len(SLOW))


@pytest.fixture(scope="module")
def running_s3() -> Iterator[S3]:
    with run_s3("bucket") as s3:
        yield s3


@pytest.fixture
def s3(running_s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A small S3 server of our own, empty."""
    for name, value in running_s3.environment.items():
        monkeypatch.setenv(name, value)
    running_s3.requests.clear()
    yield running_s3
    running_s3.heal()
    running_s3.objects.clear()


@pytest.fixture
def s3_root(request: pytest.FixtureRequest) -> str:
    """A new place in the small server, or in a real store if the environment names one."""
    real = os.environ.get(REAL_STORE)
    if real is None:
        request.getfixturevalue("s3")
    return f"{real or 's3://bucket'}/{uuid.uuid4().hex}/vectors of 猫"
