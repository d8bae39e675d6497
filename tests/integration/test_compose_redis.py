"""The Redis of docker-compose.yml, started from its own command line."""

import shutil
import subprocess
from pathlib import Path

import pytest
import redis
import yaml

from tests.integration.support import PATIENCE_S, wait_until

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"

pytestmark = pytest.mark.integration


def test_redis_accepts_the_configuration_that_the_compose_file_feeds_it(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
    command = yaml.safe_load(COMPOSE.read_text())["services"]["redis"]["command"]
    socket = tmp_path / "redis.sock"
    script = command[-1].replace("$$", "$").replace("/tmp/", f"{tmp_path}/")
    script = script.replace("appendonly", f"port 0\\nunixsocket {socket}\\nappendonly", 1)
    environment = {"REDIS_PASSWORD": "secret", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    with subprocess.Popen([*command[:2], script], env=environment, cwd=tmp_path) as shell:
        client = redis.Redis(unix_socket_path=str(socket), password="secret", decode_responses=True)
        try:
            wait_until(socket.exists, what="redis-server")
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("maxmemory") == {"maxmemory": str(1 << 30)}
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(unix_socket_path=str(socket)).ping()
        finally:
            client.shutdown(nosave=True)
            shell.wait(timeout=PATIENCE_S)
