"""Options and fixtures of all tests: the order of files, Hypothesis profiles, an object store."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import Generator, Iterator

import pytest

from tests.s3 import S3, run_s3

REAL_STORE = "CLIPFLEET_TEST_S3"  # s3://bucket/prefix of a real store for the tests of the contract

try:
    from hypothesis import settings
except ImportError:  # tests/gpu runs where pytest and a worker's packages are, and no more
    pass
else:
    settings.register_profile("patient", deadline=None)  # the machine may be busy
    settings.register_profile("quick", deadline=None, max_examples=20)  # `make unit`
    settings.load_profile("patient")

# The longest files start first, so that none runs alone at the end: a file's tests run in one
# process (`--dist loadfile`).
SLOW = (
    "tests/examples/test_readme.py",
    "tests/examples/test_notebook.py",
    "tests/integration/test_wheel.py",
    "tests/faults/",
    "tests/integration/",
    "tests/examples/",
    "tests/fuzz/",
    "tests/interleavings/",
)


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in background jobs of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what the tests' files import out of garbage collection: it stays to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid))  # each file keeps its order


def rank(nodeid: str) -> int:
    return next((number for number, slow in enumerate(SLOW) if nodeid.startswith(slow)), len(SLOW))


@pytest.fixture(scope="module")
def running_s3() -> Iterator[S3]:
    with run_s3("bucket") as s3:
        yield s3


@pytest.fixture
def s3(running_s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The small S3 server of the tests, emptied."""
    for name, value in running_s3.environment.items():
        monkeypatch.setenv(name, value)
    running_s3.requests.clear()
    yield running_s3
    running_s3.heal()
    running_s3.objects.clear()


@pytest.fixture
def s3_root(request: pytest.FixtureRequest) -> str:
    """A new prefix in the small server, or in the real store that the environment names."""
    real = os.environ.get(REAL_STORE)
    if real is None:
        request.getfixturevalue("s3")
    return f"{real or 's3://bucket'}/{uuid.uuid4().hex}/vectors of 猫"
