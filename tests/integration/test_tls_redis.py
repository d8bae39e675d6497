"""A redis-server that speaks TLS, with an ACL user: a fleet works over it, and checks it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError

from clipfleet.errors import BrokerError
from clipfleet.items import Item
from clipfleet.settings import load_settings
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.redis_client import check_broker
from clipfleet.tasks.broker.security_check import accepts_anyone
from clipfleet.tasks.local.run import embed_source
from clipfleet.tasks.status.progress import read_progress
from clipfleet.tasks.submit.resume import resume
from tests.integration.conftest import MakeBench
from tests.integration.support import PATIENCE_S, Bench, processes_of, wait_until
from tests.redis_server import free_port

pytestmark = pytest.mark.integration

USER, PASSWORD = "fleet", "hush/hush"
WRITTEN = "hush%2Fhush"
RIGHTS = "~* &* +@all -@admin -@dangerous +info"
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "security.md"
_CONFIGURATION = f"""
port 0
tls-port {{port}}
bind 127.0.0.1
tls-cert-file server.crt
tls-key-file server.key
tls-ca-cert-file ca.crt
tls-auth-clients no
save ""
user default off
user {USER} on >{PASSWORD} {RIGHTS}
"""


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running server: its CA's certificate is ca.crt, another's other.crt."""
    if shutil.which("redis-server") is None or shutil.which("openssl") is None:
        needs = "redis-server and openssl are needed"
        pytest.fail(needs) if os.environ.get("CI") else pytest.skip(needs)
    folder = tmp_path_factory.mktemp("tls")
    _make_certificates(folder)
    port = free_port()
    (folder / "port").write_text(str(port))
    (folder / "redis.conf").write_text(_CONFIGURATION.format(port=port))
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(["redis-server", "redis.conf"], cwd=folder, stdout=log)
    try:
        wait_until(
            lambda: b"Ready to accept" in (folder / "log").read_bytes() or server.poll(),
            what="redis-server is up",
        )
        if server.poll() is not None:
            pytest.skip("this redis-server was built without TLS")
        yield folder
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def _make_certificates(folder: Path) -> None:
    request = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    for name in ("ca", "other"):
        names = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}"]
        _run([*request, "-x509", "-days", "2", *names], folder)
    names = ["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"]
    _run([*request, *names], folder)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    sign = "openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2"
    _run([*sign.split(), "-extfile", "names", "-out", "server.crt"], folder)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def url_of(folder: Path, options: str, *, user: str = f"{USER}:{WRITTEN}@") -> str:
    port = (folder / "port").read_text()
    return f"rediss://{user}127.0.0.1:{port}/0{options.format(folder=folder)}"


def celery_connects(url: str) -> bool:
    app = make_app(load_settings(redis_url=url, tower="txt"))
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            channel: Any = connection.default_channel
            return bool(channel.client.ping())
    except OperationalError:
        return False


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ("?ssl_ca_certs={folder}/ca.crt", True),
        ("?ssl_cert_reqs=required&ssl_ca_certs={folder}/ca.crt", True),
        ("?ssl_cert_reqs=none", True),
        ("", False),  # an unknown authority, and Celery by itself would take it
        ("?ssl_ca_certs={folder}/other.crt", False),
    ],
)
def test_only_a_server_whose_certificate_is_known_is_taken(
    tls_folder: Path, options: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tls_folder)
    url = url_of(tls_folder, options)
    assert celery_connects(url) == taken
    if taken:
        check_broker(url)
    else:
        with pytest.raises(BrokerError, match="does not answer") as caught:
            check_broker(url)
        assert "hush" not in str(caught.value)


def test_a_wrong_password_is_refused_without_showing_it(tls_folder: Path) -> None:
    options = "?ssl_ca_certs={folder}/ca.crt"
    assert not accepts_anyone(url_of(tls_folder, options))
    with pytest.raises(BrokerError) as caught:
        check_broker(url_of(tls_folder, options, user=f"{USER}:not-{WRITTEN}@"))
    assert "hush" not in str(caught.value)


def test_a_fleet_works_over_tls_as_an_acl_user_and_writes_its_password_nowhere(
    tls_folder: Path, make_bench: MakeBench
) -> None:
    url = url_of(tls_folder, "?ssl_ca_certs={folder}/ca.crt")
    settings = make_bench().settings.model_copy(update={"redis_url": url})
    bench = Bench(settings, Path(str(settings.output)).parent)
    with closing(bench):
        _work(bench)


def test_the_rights_of_the_user_are_those_that_the_page_gives() -> None:
    assert f"user fleet on >PASSWORD {RIGHTS}\n" in PAGE.read_text()


def _use_other_commands(bench: Bench) -> None:
    """Read progress, look for a lost message, refuse one, embed on that Redis, sweep it."""
    assert bench.client.acl_whoami() == USER
    with pytest.raises(NoPermissionError):
        bench.client.config_get("*")
    progress = read_progress(bench.dataset_path(), bench.settings)
    progress.refresh()
    assert (progress.broker_error, progress.finished) == (None, True)
    assert resume(bench.dataset_path(), settings=bench.settings).open_shards == 0
    bench.client.lpush(bench.queue, "garbage")
    bench.workers[0].wait_for("message refused")
    summary = embed_source(
        ListSource([Item(id="a", text="one")]),
        bench.dataset_path("own"),
        str(bench.settings.model),
        settings=bench.settings,
        own_redis=False,
    )
    assert summary.ok


def _work(bench: Bench) -> None:
    worker = bench.start_listed_worker().ready()
    bench.submit(200)
    bench.wait_for_items(200)
    bench.queue_items([{"id": "a", "text": "single"}])
    bench.wait_for_items(1, "items-txt")
    told = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(bench.folder)]
    assert len(told) >= 2  # the worker, and the process with its engine
    _use_other_commands(bench)
    assert worker.stop() == 0
    bench.assert_whole(vectors=200)
    written = [path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()]
    assert len(written) > 10  # the log, cards, plans, parts, records
    assert [text for text in told + written if b"hush" in text] == []
