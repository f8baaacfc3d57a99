"""Environment variables, and files that are swapped as one."""

import os
from pathlib import Path
from typing import Any

import pytest

from agent.environment import ConfigError, expand, field_value, make_environment, resource_value, service_variables
from agent.volumes.files import File, write_files
from machinery.errors import NotFound

FACTS = {"host_ip": "192.0.2.1", "pod_ip": "10.0.0.5", "allocatable": {"cpu": "4", "memory": "8Gi"}}
POD = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "1"}},
    "spec": {"nodeName": "node"},
}


@pytest.mark.parametrize(
    ("text", "result"),
    [("$(A)/x", "1/x"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$$$(A)", "$1")],
)
def test_references_are_expanded_as_upstream_does(text: str, result: str) -> None:
    assert expand(text, {"A": "1"}) == result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"), ("metadata.labels['a']", "1"), ("metadata.labels", 'a="1"\nb="2"'),
        ("spec.nodeName", "node"), ("status.podIP", "10.0.0.5"), ("status.hostIP", "192.0.2.1"),
    ],
)  # fmt: skip
def test_the_downward_api_tells_of_the_pod(path: str, value: str) -> None:
    assert field_value(POD, path, FACTS) == value


def test_a_field_nobody_knows_is_an_error() -> None:
    with pytest.raises(ConfigError, match="unsupported fieldPath"):
        field_value(POD, "spec.nothing", FACTS)


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [("limits.cpu", "1", "1"), ("limits.cpu", "1m", "250"), ("limits.memory", "1Mi", "64"), ("requests.cpu", "1", "0")],
)
def test_resources_are_told_in_units_of_the_divisor_rounded_up(resource: str, divisor: str, value: str) -> None:
    container = {"resources": {"limits": {"cpu": "250m", "memory": "64Mi"}}}
    assert resource_value(POD, container, {"resource": resource, "divisor": divisor}, FACTS) == value


def test_what_is_unlimited_has_the_nodes_room() -> None:
    assert resource_value(POD, {}, {"resource": "limits.cpu"}, FACTS) == "4"


async def fetch(plural: str, name: str) -> dict[str, Any]:
    if name == "there":
        return {"data": {"k": "djE=" if plural == "secrets" else "v1", "1st": "ab12", "a=b": "eA=="}}
    raise NotFound(f'{plural} "{name}" not found')


async def test_variables_come_from_maps_secrets_and_each_other() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "there"}, "prefix": "P_"}, {"secretRef": {"name": "none", "optional": True}}],
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "there", "key": "k"}}}, {"name": "B", "value": "$(A)-$(S)"},
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "there", "key": "none", "optional": True}}},
        ],
    }  # fmt: skip
    found = await make_environment(POD, container, {"S": "service"}, fetch, FACTS)
    assert found == {"S": "service", "P_k": "v1", "P_1st": "ab12", "A": "v1", "B": "v1-service"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "k"}}, '^configmap "none" not found$'),
        ({"secretKeyRef": {"name": "there", "key": "x"}}, "^couldn't find key x in Secret n/there$"),
    ],
)
async def test_a_reference_that_leads_nowhere_is_told_in_kubelets_words(source: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        await make_environment(POD, {"env": [{"name": "A", "valueFrom": source}]}, {}, fetch, FACTS)


def test_services_are_told_to_their_namespace_and_kubernetes_to_all() -> None:
    def service(name: str, namespace: str, address: str) -> dict[str, Any]:
        spec = {"clusterIP": address, "ports": [{"port": 80, "protocol": "TCP", "name": "http"}]}
        return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}

    services = [
        service("my-web", "n", "10.0.0.1"),
        service("kubernetes", "default", "10.0.0.2"),
        service("x", "m", "10.0.0.3"),
    ]
    found = service_variables(services, "n", links=True)
    assert found["MY_WEB_SERVICE_HOST"] == "10.0.0.1"
    assert found["MY_WEB_PORT_80_TCP"] == "tcp://10.0.0.1:80"
    assert found["MY_WEB_SERVICE_PORT_HTTP"] == "80"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.0.0.2"
    assert not any(name.startswith("X_") for name in found)
    assert "MY_WEB_SERVICE_HOST" not in service_variables(services, "n", links=False)


def test_files_are_swapped_as_one(tmp_path: Path) -> None:
    assert write_files(tmp_path, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}, None)
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "d/b").read_bytes()) == (b"1", b"2")
    before = os.readlink(tmp_path / "..data")
    assert not write_files(tmp_path, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}, None)
    assert write_files(tmp_path, {"a": File(b"3", 0o644)}, None)
    assert os.readlink(tmp_path / "..data") != before
    assert (tmp_path / "a").read_bytes() == b"3"
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("..")) == ["a"]
    assert len([path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()]) == 1
