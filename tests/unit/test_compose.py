"""docker-compose.yml and the Dockerfile name only commands, queues and variables that exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipfleet.cli.main import command_line
from clipfleet.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
# Of images from elsewhere; the users of our own are in the Dockerfile.
USERS = {"redis": "redis", "prometheus": "nobody", "grafana": "472"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return parsed


def example_variables() -> set[str]:
    """Return the variables of the example, also those that a user may fill in."""
    return set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", EXAMPLE.read_text(), flags=re.MULTILINE))


def mappings(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    """Yield every mapping of a document, before any merge."""
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from mappings(value)


def merged_keys(mapping: yaml.MappingNode) -> Iterator[str]:
    """Yield the keys of a mapping, once for each mapping that has it, merged ones included."""
    for key, value in mapping.value:
        if key.value != "<<":
            yield key.value
            continue
        merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for other in merged:
            yield from merged_keys(other)


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


def test_no_key_is_merged_twice() -> None:
    # Libraries differ in which one wins: PyYAML 6.0.4 takes the last mapping, others the first.
    document = yaml.compose(COMPOSE.read_text())
    assert document is not None
    merging = [m for m in mappings(document) if any(key.value == "<<" for key, _ in m.value)]
    assert len(merging) >= 6
    for mapping in merging:
        keys = list(merged_keys(mapping))
        assert len(keys) == len(set(keys)), mapping.start_mark


def test_each_worker_is_built_from_the_image_of_its_machine(compose: dict[str, Any]) -> None:
    for name, service in workers(compose).items():
        assert service["build"]["target"] == ("gpu" if name.endswith("gpu") else "cpu")


def test_every_worker_command_is_accepted_by_the_command_line(compose: dict[str, Any]) -> None:
    group: Any = command_line()
    for service in [
        *workers(compose).values(),
        *(compose["services"][name] for name in ("convert", "metrics")),
    ]:
        name, *arguments = service["command"]
        command = group.commands[name]
        command.make_context(name, arguments)  # raises on an unknown or missing option


def test_gpu_workers_keep_the_engines_that_they_build_in_a_volume(compose: dict[str, Any]) -> None:
    gpu = {name: s for name, s in workers(compose).items() if name.endswith("gpu")}
    assert len(gpu) == 2
    for service in gpu.values():
        assert "--build-if-missing" in service["command"]
        cache = "/engines"
        (volume,) = [v for v in service["volumes"] if v.endswith(f":{cache}")]
        assert volume.partition(":")[0] in compose["volumes"]
        assert service["environment"]["CLIPFLEET_REDIS_URL"]
        assert service["read_only"]
    # The engine's folder is in the image, and its user's: so is then a new volume.
    stage = (ROOT / "Dockerfile").read_text().partition("AS gpu")[2].partition("\nFROM ")[0]
    assert f"--owner clipfleet {cache}" in stage
    assert f"ENV CLIPFLEET_ENGINE_CACHE={cache}\n" in stage


def test_workers_wait_for_the_models_that_one_service_converts(compose: dict[str, Any]) -> None:
    convert = compose["services"]["convert"]
    assert convert["build"]["target"] == "convert"
    assert "restart" not in convert
    assert "profiles" not in convert
    _, _, prefix, *options = convert["command"]
    assert prefix == "/models/${CLIP_MODEL}"
    assert "--if-missing" in options
    [models] = convert["volumes"]
    assert models == "${MODELS_DIR:-models}:/models"
    assert "models" in compose["volumes"]
    for name, service in workers(compose).items():
        waits_for = {key: value["condition"] for key, value in service["depends_on"].items()}
        assert waits_for == {
            "redis": "service_healthy",
            "convert": "service_completed_successfully",
        }
        model = service["command"][service["command"].index("--model") + 1]
        precision = "fp16" if name.endswith("gpu") else "fp32"
        assert model == f"{prefix}.{name[:3]}.{precision}.onnx"
        assert f"{models}:ro" in service["volumes"]
    # The folder is in the image, and its user's: so is then a new volume.
    assert "--owner clipfleet /models" in (ROOT / "Dockerfile").read_text()


def test_a_gpu_worker_whose_engine_cannot_be_built_is_not_started_for_ever(
    compose: dict[str, Any],
) -> None:
    restarts = {name: service["restart"] for name, service in workers(compose).items()}
    gpu = {"img-worker-gpu", "txt-worker-gpu"}
    assert {name for name, restart in restarts.items() if restart == "on-failure:3"} == gpu
    assert {restarts[name] for name in set(restarts) - gpu} == {"unless-stopped"}


def test_metrics_are_served_inside_the_network_and_shown_on_loopback(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    for service in [*workers(compose).values(), services["metrics"]]:
        assert service["environment"]["CLIPFLEET_METRICS_HOST"] == "0.0.0.0"
        assert "ports" not in service
    port = services["img-worker"]["environment"]["CLIPFLEET_METRICS_PORT"]
    assert services["metrics"]["command"] == ["metrics", "--port", port]
    for name in ("metrics", "prometheus", "grafana"):
        assert services[name]["profiles"] == ["metrics"]
        assert all(one.startswith("127.0.0.1:") for one in services[name].get("ports", []))
    config = yaml.safe_load((ROOT / "examples/monitoring/prometheus.yml").read_text())
    queues, found = config["scrape_configs"]
    assert queues["static_configs"] == [{"targets": [f"metrics:{port}"]}]
    (by_name,) = found["dns_sd_configs"]
    assert set(by_name["names"]) == set(workers(compose))
    assert by_name["port"] == int(port)


def test_the_files_that_services_mount_are_there(compose: dict[str, Any]) -> None:
    volumes = [v for s in compose["services"].values() for v in s.get("volumes", [])]
    ours = [volume.partition(":")[0] for volume in volumes if volume.startswith("./")]
    assert len(ours) >= 6
    assert not [path for path in ours if not (ROOT / path).is_file()]


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
    assert interpolated <= example_variables()
    fields = {f"CLIPFLEET_{name.upper()}" for name in Settings.model_fields}
    passed_on = {v for s in compose["services"].values() for v in s.get("environment", {})}
    assert example_variables() <= interpolated | passed_on
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
    names = [
        name for stage in stages for name in re.findall(r"^\S+ AS (\w+)$", stage, re.MULTILINE)
    ]
    assert names == ["cpu", "gpu", "convert", "flower"]
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
        assert service.get("user") == USERS.get(name), name
        assert not [v for v in service.get("volumes", []) if "docker.sock" in v]
