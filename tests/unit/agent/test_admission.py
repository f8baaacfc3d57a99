"""Which pods a node refuses, and in which words.

Source: the words of the kubelet's admission, https://kubernetes.io/docs/concepts/scheduling-eviction/
"""

from pathlib import Path
from typing import Any

import pytest

from agent.admission import refusal
from agent.config import AgentConfig
from agent.node import NodeReporter

FOO = "example.com/foo"
ALLOCATABLE = {"cpu": "2", "memory": "1Gi", "pods": "10"}
NODE = {
    "metadata": {"name": "n1", "labels": {"disk": "ssd"}},
    "spec": {"taints": [{"key": "gone", "value": "x", "effect": "NoExecute"}]},
    "status": {"allocatable": {**ALLOCATABLE, FOO: "3"}},
}
TOLERATED = [{"key": "gone", "operator": "Exists"}]


def pod(*, port: dict[str, Any] | None = None, requests: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "ports": [port] if port else [], "resources": {"requests": requests or {}}}
    return {"metadata": {"name": "p"}, "spec": {"containers": [container], "tolerations": TOLERATED, **spec}}


def in_affinity(key: str, value: str, part: str = "matchExpressions") -> dict[str, Any]:
    term = {part: [{"key": key, "operator": "In", "values": [value]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


PORT = {"hostPort": 21017, "containerPort": 21017, "protocol": "TCP"}
AFFINITY = ("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
PORTS = ("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [
        (pod(), [], None),
        (pod(port=PORT), [pod(port=PORT)], PORTS),
        (pod(port=PORT), [pod(port={**PORT, "protocol": "UDP"})], None),
        (pod(port={**PORT, "hostIP": "127.0.0.1"}), [pod(port={**PORT, "hostIP": "127.0.0.2"})], None),
        (pod(port={**PORT, "hostIP": "127.0.0.1"}), [pod(port={**PORT, "hostIP": "0.0.0.0"})], PORTS),
        (pod(nodeSelector={"disk": "ssd"}), [], None),
        (pod(nodeSelector={"disk": "hdd"}), [], AFFINITY),
        (pod(affinity=in_affinity("disk", "hdd")), [], AFFINITY),
        (pod(affinity=in_affinity("metadata.name", "n1", "matchFields")), [], None),
        (
            pod(tolerations=[]), [],
            ("TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"),
        ),
        (pod(requests={FOO: "3"}), [], None),
        (
            pod(requests={FOO: "2"}), [pod(requests={FOO: "2"})],
            (f"OutOf{FOO}", f"Node didn't have enough resource: {FOO}, requested: 2, used: 2, capacity: 3"),
        ),
        (pod(requests={"example.com/of-the-cluster": "5"}), [], None),
        (
            pod(requests={"cpu": "3"}), [],
            ("OutOfcpu", "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"),
        ),
    ],
    ids=[
        "plain", "port", "other-protocol", "other-address", "any-address", "selector", "other-selector", "affinity",
        "by-name", "taint", "extended", "too-much-extended", "of-the-cluster", "cpu",
    ],
)  # fmt: skip
def test_a_pod_is_taken_or_refused(
    asked: dict[str, Any], there: list[dict[str, Any]], expected: tuple[str, str] | None
) -> None:
    assert refusal(asked, there, ALLOCATABLE, NODE, apparmor=False) == expected


async def test_what_others_add_to_a_nodes_capacity_can_be_allocated_until_they_take_it_back(tmp_path: Path) -> None:
    class Silent:
        async def handlers(self) -> tuple[list[Any], dict[str, Any]]:
            return [], {}

        async def conditions(self) -> dict[str, Any]:
            return {}

        async def images(self) -> list[Any]:
            return []

    config = AgentConfig(
        client=None, node_name="n1", node_ip="127.0.0.1", data_dir=tmp_path, runtime_socket=tmp_path,  # type: ignore[arg-type]
        cert_file=tmp_path, key_file=tmp_path, ca_file=tmp_path, pod_cidr="",
    )  # fmt: skip
    reporter = NodeReporter(config, None, Silent(), "test://1", dict(ALLOCATABLE))  # type: ignore[arg-type]

    async def told(capacity: dict[str, str], allocatable: dict[str, str]) -> dict[str, Any]:
        reporter.on_node({"status": {"capacity": capacity, "allocatable": allocatable}})
        status = await reporter._status()
        assert status["capacity"] == ALLOCATABLE  # what others wrote is theirs
        return status["allocatable"]

    assert await told(ALLOCATABLE, ALLOCATABLE) == ALLOCATABLE
    assert await told({**ALLOCATABLE, FOO: "3"}, ALLOCATABLE) == {**ALLOCATABLE, FOO: "3"}
    assert await told({**ALLOCATABLE, FOO: "3"}, {**ALLOCATABLE, FOO: "3"}) == {**ALLOCATABLE, FOO: "3"}
    assert await told(ALLOCATABLE, {**ALLOCATABLE, FOO: "3"}) == {**ALLOCATABLE, FOO: None}
    assert await told(ALLOCATABLE, ALLOCATABLE) == ALLOCATABLE
