import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.s3 import S3, run_s3

REAL_STORE = "CLIPFLEET_TEST_S3"  # s3://bucket/prefix of a store to run the contract's tests on

settings.register_profile("patient", deadline=None)  # the machine may do much else
settings.load_profile("patient")


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
