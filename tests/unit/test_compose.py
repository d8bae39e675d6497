"""docker-compose.yml and the Dockerfile name only commands, queues and variables that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from clipfleet.cli import app
from clipfleet.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return parsed


def example_variables() -> set[str]:
    lines = EXAMPLE.read_text().splitlines()
    return {line.partition("=")[0] for line in lines if line and not line.startswith("#")}


def workers(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: s for name, s in compose["services"].items() if "worker" in name}


def test_there_is_a_worker_for_each_tower_with_and_without_a_gpu(compose: dict[str, Any]) -> None:
    assert set(workers(compose)) == {
        "img-worker",
        "txt-worker",
        "img-worker-gpu",
        "txt-worker-gpu",
    }
    for name, service in workers(compose).items():
        assert service["command"][service["command"].index("--tower") + 1] == name[:3]
        reserved = "deploy" in service
        assert reserved == name.endswith("gpu")
        assert service.get("profiles") == (["gpu"] if reserved else None)


def test_every_worker_command_is_accepted_by_the_command_line(compose: dict[str, Any]) -> None:
    group: Any = typer.main.get_command(app)
    for service in workers(compose).values():
        name, *arguments = service["command"]
        command = group.commands[name]
        command.make_context(name, arguments)  # raises on an unknown or missing option


def test_gpu_workers_keep_the_engines_that_they_build_in_a_volume(compose: dict[str, Any]) -> None:
    gpu = {name: s for name, s in workers(compose).items() if name.endswith("gpu")}
    assert len(gpu) == 2
    for service in gpu.values():
        assert "--build-if-missing" in service["command"]
        cache = service["environment"]["CLIPFLEET_ENGINE_CACHE"]
        (volume,) = [v for v in service["volumes"] if v.endswith(f":{cache}")]
        assert volume.partition(":")[0] in compose["volumes"]
        assert service["environment"]["CLIPFLEET_REDIS_URL"]
        assert service["read_only"]
    # The engine's folder is in the image, and its user's: so is then a new volume.
    stage = (ROOT / "Dockerfile").read_text().partition("AS gpu")[2].partition("\nFROM ")[0]
    assert f"--owner clipfleet {cache}" in stage
    assert f"ENV CLIPFLEET_ENGINE_CACHE={cache}\n" in stage


def test_a_gpu_worker_whose_engine_cannot_be_built_is_not_started_for_ever(
    compose: dict[str, Any],
) -> None:
    restarts = {name: service["restart"] for name, service in workers(compose).items()}
    gpu = {"img-worker-gpu", "txt-worker-gpu"}
    assert {name for name, restart in restarts.items() if restart == "on-failure:3"} == gpu
    assert {restarts[name] for name in set(restarts) - gpu} == {"unless-stopped"}


def test_gpu_workers_see_the_folders_that_the_others_see(compose: dict[str, Any]) -> None:
    def folders(name: str) -> set[str]:
        volumes = compose["services"][name]["volumes"]
        return {re.sub(r":\?[^}]*", "", volume) for volume in volumes}

    for tower in ("img", "txt"):
        assert folders(f"{tower}-worker-gpu") - folders(f"{tower}-worker") == {"engines:/engines"}
        assert folders(f"{tower}-worker") < folders(f"{tower}-worker-gpu")


def test_every_variable_is_a_setting_or_in_the_example(compose: dict[str, Any]) -> None:
    text = COMPOSE.read_text()
    interpolated = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert interpolated == example_variables()
    fields = {f"CLIPFLEET_{name.upper()}" for name in Settings.model_fields}
    for service in compose["services"].values():
        for variable in service.get("environment", {}):
            assert variable in fields | example_variables(), variable


def test_redis_keeps_its_data_asks_for_a_password_and_stays_on_loopback(
    compose: dict[str, Any],
) -> None:
    redis = compose["services"]["redis"]
    script = redis["command"][-1]
    assert "appendonly yes" in script
    assert "requirepass" in script
    assert all(port.startswith("127.0.0.1:") for port in redis["ports"])


def test_workers_read_images_below_the_items_folder_only(compose: dict[str, Any]) -> None:
    for service in workers(compose).values():
        assert re.match(r"\$\{ITEMS_DIR\b", service["environment"]["CLIPFLEET_INPUT_ROOTS"])
        assert any(re.match(r"\$\{ITEMS_DIR\b.*:ro$", volume) for volume in service["volumes"])


def test_workers_are_told_of_what_may_be_fetched_and_of_the_key(compose: dict[str, Any]) -> None:
    for service in workers(compose).values():
        for name in ("URL_HOSTS", "URL_PRIVATE_HOSTS", "URL_SCHEMES", "MESSAGE_KEY"):
            assert service["environment"][f"CLIPFLEET_{name}"] is None  # passed on, if it is there


def test_images_run_as_a_user_without_rights() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    assert {re.search(r"AS (\w+)", stage)[1] for stage in stages} == {"cpu", "gpu", "flower"}  # type: ignore[index]
    for stage in stages:
        users = re.findall(r"^USER (\w+)", stage, flags=re.MULTILINE)
        assert users[-1] == "clipfleet"


def test_every_service_is_without_rights_on_a_file_system_that_it_cannot_write(
    compose: dict[str, Any],
) -> None:
    assert len(compose["services"]) >= 6
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"privileged", "cap_add", "pid", "network_mode", "ipc"}.isdisjoint(service), name
        # The others' user is their image's, see above.
        assert service.get("user") == ("redis" if "image" in service else None), name
        assert not [v for v in service.get("volumes", []) if "docker.sock" in v]
