"""URLs of Redis, and servers that cannot carry messages: each works, or is told by its fault."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from clipfleet.errors import BrokerError
from clipfleet.settings import load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.redis_client import check_broker, connect
from tests.redis_server import KEEPS_NOTHING, PASSWORD, RedisServer, free_port
from tests.redis_server import url_of as url_of_port

pytestmark = pytest.mark.integration


def database_of_celery(url: str) -> tuple[int, str]:
    """Return the database and the client's name with which Celery connects."""
    app = make_app(load_settings(redis_url=url, tower="txt"))
    with closing(app), app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        about = channel.client.client_info()
        return int(about["db"]), str(about["name"])


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ("/0?protocol=2", (0, "")),
        ("/0?protocol=3&socket_timeout=5&socket_connect_timeout=2", (0, "")),
        ("?db=3", (3, "")),
        ("/2?client_name=fleet&socket_keepalive=true&socket_read_size=4096", (2, "fleet")),
        ("/1?health_check_interval=7", (1, "")),
    ],
)
def test_an_option_means_the_same_to_clipfleet_and_to_celery(
    redis_url: str, end: str, found: tuple[int, str]
) -> None:
    url = redis_url.removesuffix("/0") + end
    with connect(url) as client:
        about = client.client_info()
        assert (int(about["db"]), about["name"]) == found
    assert database_of_celery(url) == found


def test_a_user_and_a_password_may_be_options(redis_url: str) -> None:
    bare = redis_url.replace(f":{PASSWORD}@", "")
    url = f"{bare}?username=default&password={PASSWORD}"
    check_broker(url)
    assert database_of_celery(url) == (0, "")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (f":{PASSWORD}@", ""),
        ("", "wants a password"),
        (":hush@", "refuses the user or the password"),
        ("nobody:hush@", "refuses the user or the password"),
        ("weak:hush-hush@", "does not allow this user a command or a key"),
    ],
)
def test_a_refused_user_is_told_by_the_reason(redis_url: str, written: str, told: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser("weak", enabled=True, passwords=["+hush-hush"], commands=["+ping"])
    url = redis_url.replace(f":{PASSWORD}@", written)
    if not told:
        check_broker(url)
        return
    with pytest.raises(BrokerError, match=told) as caught:
        check_broker(url)
    assert "hush" not in str(caught.value)


def test_a_missing_database_is_told_by_its_number(redis_url: str) -> None:
    with pytest.raises(BrokerError, match="has no database 99"):
        check_broker(redis_url.removesuffix("/0") + "/99")


def test_a_replica_names_its_master(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, (*KEEPS_NOTHING, "--replicaof", "127.0.0.1", "1"))
    server.start()
    try:
        with pytest.raises(BrokerError, match=r"is a replica, .* its master, 127\.0\.0\.1:1$"):
            check_broker(server.url)
    finally:
        server.stop()


def test_a_cluster_is_no_broker(tmp_path: Path) -> None:
    # Without it, the bus has the server's port and 10,000, which may be no port.
    bus = ("--cluster-port", str(free_port()))
    server = RedisServer(tmp_path, (*KEEPS_NOTHING, "--cluster-enabled", "yes", *bus))
    server.start()
    try:
        for url in (server.url, server.url.removesuffix("/0") + "/1"):
            with pytest.raises(BrokerError, match="is a node of a Redis Cluster"):
                check_broker(url)
    finally:
        server.stop()


class _Redis5(socketserver.StreamRequestHandler):
    """Answers as Redis 5 does: it knows INFO, and not HELLO."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                self.rfile.readline()
                words.append(self.rfile.readline().strip().decode())
            if words[0] == "INFO":
                info = b"redis_version:5.0.14\r\n"
                self.wfile.write(b"$%d\r\n%s\r\n" % (len(info), info))
            elif words[0] in ("CLIENT", "SELECT"):
                self.wfile.write(b"+OK\r\n")
            else:
                self.wfile.write(f"-ERR unknown command `{words[0]}`\r\n".encode())


@contextmanager
def redis_5() -> Iterator[int]:
    """Serve as Redis 5 on a port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Redis5) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("options", ["", "?protocol=2"])
def test_a_server_that_is_too_old_is_told_with_its_version(options: str) -> None:
    with redis_5() as port, pytest.raises(BrokerError, match=r"is version 5\.0\.14, .* too old"):
        check_broker(url_of_port(port).replace(f":{PASSWORD}@", "") + options)
