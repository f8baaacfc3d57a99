"""DaemonSets on a real API server; nodes are registered and pods brought up as agents would."""

import asyncio
from typing import Any

import pytest

from machinery.api.meta import key_of
from machinery.api.resources import DAEMON_SETS, NODES, PODS
from machinery.client.rest import Client, PatchType
from tests.support.agent import pods_come_up, set_running
from tests.support.nodes import create_node
from tests.support.waiting import until, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]
LABELS = {"app": "log"}


def daemon_set(image: str = "one", *, pod: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    template = {
        "metadata": {"labels": LABELS},
        "spec": {"containers": [{"name": "main", "image": image}], **(pod or {})},
    }
    full = {"selector": {"matchLabels": LABELS}, "template": template, **spec}
    return {"metadata": {"name": "log", "namespace": "default"}, "spec": full}


async def make_nodes(client: Client, *names: str, **labels: str) -> None:
    for name in names:
        await create_node(client, {"metadata": {"name": name, "labels": labels}})


def target(pod: dict[str, Any]) -> str:
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    return str(terms[0]["matchFields"][0]["values"][0])


def on(*nodes: str) -> Any:
    return lambda pods: (
        sorted(target(pod) for pod in pods if not pod["metadata"].get("deletionTimestamp")) == sorted(nodes)
    )


def ready(count: int) -> Any:
    return lambda obj: obj["status"].get("numberAvailable") == count == obj["status"]["desiredNumberScheduled"]


async def test_each_node_gets_one_pod_and_new_nodes_too(client: Client) -> None:
    async with pods_come_up(client):
        await make_nodes(client, "n1", "n2")
        await client.create(DAEMON_SETS, daemon_set())
        await until(client, PODS, on("n1", "n2"), namespace="default")
        await make_nodes(client, "n3")
        await until(client, PODS, on("n1", "n2", "n3"), namespace="default")
        found = await until_one(client, DAEMON_SETS, "log", ready(3))
    assert found["status"]["currentNumberScheduled"] == found["status"]["updatedNumberScheduled"] == 3
    pods = (await client.list(PODS, "default"))["items"]
    keys = {one["key"] for one in pods[0]["spec"]["tolerations"] if one["operator"] == "Exists"}
    assert {"node.kubernetes.io/disk-pressure", "node.kubernetes.io/unschedulable"} <= keys


async def test_only_nodes_that_are_selected_count(client: Client) -> None:
    async with pods_come_up(client):
        await make_nodes(client, "n1")
        await make_nodes(client, "n2", disk="ssd")
        await client.create(DAEMON_SETS, daemon_set(pod={"nodeSelector": {"disk": "ssd"}}))
        await until(client, PODS, on("n2"), namespace="default")
        await client.patch(NODES, "n1", {"metadata": {"labels": {"disk": "ssd"}}})
        await until(client, PODS, on("n1", "n2"), namespace="default")
        await client.patch(NODES, "n2", {"metadata": {"labels": {"disk": "old"}}})
        await until(client, PODS, on("n1"), namespace="default")


async def test_a_tainted_node_is_left_out_unless_tolerated(client: Client) -> None:
    taint = {"key": "role", "value": "db", "effect": "NoSchedule"}
    await create_node(client, {"metadata": {"name": "n1"}, "spec": {"taints": [taint]}})
    await make_nodes(client, "n2")
    async with pods_come_up(client):
        await client.create(DAEMON_SETS, daemon_set())
        await until(client, PODS, on("n2"), namespace="default")
        tolerations = [{"key": "role", "operator": "Equal", "value": "db", "effect": "NoSchedule"}]
        await client.patch(
            DAEMON_SETS, "log", {"spec": {"template": {"spec": {"tolerations": tolerations}}}}, "default"
        )
        await until(client, PODS, on("n1", "n2"), namespace="default")


@pytest.mark.parametrize(
    "strategy", [{"maxUnavailable": 1}, {"maxUnavailable": 0, "maxSurge": 1}], ids=["unavailable", "surge"]
)
async def test_an_update_replaces_every_pod_within_its_bounds(client: Client, strategy: dict[str, int]) -> None:
    counts: list[int] = []

    def note(pods: list[dict[str, Any]]) -> bool:
        counts.append(
            sum(
                any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", ()))
                and not p["metadata"].get("deletionTimestamp")
                for p in pods
            )
        )
        return len(pods) == 3 and {p["spec"]["containers"][0]["image"] for p in pods} == {"two"} and counts[-1] == 3

    async with pods_come_up(client):
        await make_nodes(client, "n1", "n2", "n3")
        await client.create(
            DAEMON_SETS, daemon_set(updateStrategy={"type": "RollingUpdate", "rollingUpdate": strategy})
        )
        await until_one(client, DAEMON_SETS, "log", ready(3))
        container = [{"name": "main", "image": "two"}]
        await client.patch(DAEMON_SETS, "log", {"spec": {"template": {"spec": {"containers": container}}}}, "default")
        await until(client, PODS, note, namespace="default")
        await until_one(client, DAEMON_SETS, "log", lambda obj: obj["status"].get("updatedNumberScheduled") == 3)
    assert min(counts) >= 3 - strategy["maxUnavailable"]


async def test_a_failed_pod_is_replaced(client: Client) -> None:
    async with pods_come_up(client):
        await make_nodes(client, "n1")
        await client.create(DAEMON_SETS, daemon_set())
        await until_one(client, DAEMON_SETS, "log", ready(1))
        [pod] = (await client.list(PODS, "default"))["items"]
        await client.patch(
            PODS, pod["metadata"]["name"], {"status": {"phase": "Failed"}}, "default", subresource="status"
        )
        await until(
            client,
            PODS,
            lambda pods: [p["metadata"]["uid"] for p in pods] not in ([], [pod["metadata"]["uid"]]),
            namespace="default",
        )


async def test_a_node_that_fails_every_pod_gets_the_next_ever_later(client: Client) -> None:
    await make_nodes(client, "n1")
    made: dict[str, float] = {}

    def note(pods: list[dict[str, Any]]) -> bool:
        for pod in pods:
            made.setdefault(pod["metadata"]["uid"], asyncio.get_running_loop().time())
        return len(made) == 4

    async with pods_come_up(client, exit_code=lambda _: 1):
        await client.create(DAEMON_SETS, daemon_set())
        await until(client, PODS, note, namespace="default")
    _, second, third, fourth = made.values()  # the first is replaced at once
    assert third - second > 0.5
    assert fourth - third > 1.3


async def test_two_daemons_stand_beside_each_other_only_while_the_new_one_gets_ready(client: Client) -> None:
    await make_nodes(client, "n1")
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    ready_ones = {"one"}

    def of_image(pod: dict[str, Any]) -> str:
        return str(pod["spec"]["containers"][0]["image"])

    async with pods_come_up(client, which=lambda pod: of_image(pod) in ready_ones):
        await client.create(DAEMON_SETS, daemon_set(updateStrategy=strategy))
        await until_one(client, DAEMON_SETS, "log", ready(1), namespace="default")
        patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "two"}]
        await client.patch(DAEMON_SETS, "log", patch, "default", type=PatchType.JSON)
        pods = await until(client, PODS, lambda pods: len(pods) == 2, namespace="default")
        found = await until_one(
            client, DAEMON_SETS, "log", lambda obj: obj["status"]["observedGeneration"] == 2, namespace="default"
        )
        # It is the old one that is counted, until it is gone.
        assert found["status"].get("updatedNumberScheduled", 0) == 0
        assert found["status"]["numberAvailable"] == 1
        # An old one that does not serve is kept no longer.
        old = next(pod for pod in pods if of_image(pod) == "one")
        await set_running(client, key_of(old), ready=False)
        await until(client, PODS, lambda pods: [of_image(pod) for pod in pods] == ["two"], namespace="default")
