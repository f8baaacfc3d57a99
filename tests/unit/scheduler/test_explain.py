"""Why a pod is where it is, and what would become of others."""

from typing import Any

from machinery.api.meta import Resource
from machinery.api.resources import NODES, PODS, PRIORITY_CLASSES
from scheduler.config import default_profile
from scheduler.explain import explain
from scheduler.simulate import simulate
from scheduler.snapshot import Snapshot
from scheduler.thought import InThought
from tests.unit.scheduler.builders import ZONE, chooser, node, pod, pod_object, table


def why(nodes: Any, one: Any) -> dict[str, Any]:
    return explain(chooser(nodes), nodes, one)


def test_each_rule_says_how_many_nodes_it_took_and_what_would_bring_one_back() -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    nodes = table(
        node("small", cpu="1"), node("smaller", cpu="500m"), node("tainted", taints=[taint]),
        node("cordoned", unschedulable=True), node("both", cpu="1", unschedulable=True),
    )  # fmt: skip
    found = why(nodes, pod("new", "1200m"))
    assert (found["nodes"], found["fits"], found["best"]) == (5, 0, [])
    counts = {(one["plugin"], one["reason"]): one["count"] for one in found["rejected"]}
    assert counts == {
        ("NodeUnschedulable", "node(s) were unschedulable"): 2,
        ("TaintToleration", "node(s) had untolerated taint(s)"): 1,
        ("NodeResourcesFit", "Insufficient cpu"): 2,
    }
    assert set(found["changes"]) == {
        "needs 200m more cpu on small", "tolerate taint gpu=yes:NoSchedule (1 node)", "uncordon cordoned"
    }  # fmt: skip
    assert found["message"].startswith("0/5 nodes are available: ")


def test_a_selector_nobody_meets_is_named() -> None:
    nodes = table(node("a", labels={"disk": "ssd"}))
    found = why(nodes, pod(nodeSelector={"disk": "ssd", "arch": "arm"}))
    assert found["changes"] == ["drop nodeSelector arch=arm, or label a node with it (1 node)"]


def test_a_pod_that_runs_is_judged_without_itself_and_the_table_stays_as_it_was() -> None:
    nodes = table(node("a"), node("b", cpu="2"))
    one = pod("here", "2", nodeName="a")
    nodes.put_pod(one, "a")
    found = why(nodes, one)
    assert (found["node"], found["fits"]) == ("a", 2)
    assert [best["node"] for best in found["best"]] == ["a", "b"]
    assert found["best"][0]["scores"]["NodeResourcesFit"] > found["best"][1]["scores"]["NodeResourcesFit"]
    assert sum(found["best"][0]["scores"].values()) == found["best"][0]["total"]
    assert nodes.requested("cpu")[0] == 2000
    assert one.node == "a"


def snapshot(nodes: list[Any], pods: list[Any] = [], classes: list[Any] = []) -> Snapshot:  # noqa: B006
    known = {NODES: nodes, PODS: pods, PRIORITY_CLASSES: classes}

    def list_all(resource: Resource) -> list[Any]:
        return known.get(resource, [])

    return Snapshot(list_all)


DEPLOYMENT = {
    "kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"},
    "spec": {"replicas": 5, "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
    }},
}  # fmt: skip


def test_a_deployment_is_placed_in_thought_beside_what_is_there() -> None:
    seen = snapshot([node("a", cpu="2"), node("b", cpu="2")], [pod_object("old", "1", nodeName="a")])
    found = simulate(seen, default_profile(), in_thought(DEPLOYMENT))
    assert found["by_node"] == {"b": 2, "a": 1}
    assert [name for name, _ in found["failed"]] == ["default/web-3", "default/web-4"]
    assert "Insufficient cpu" in found["failed"][0][1]


def test_it_says_how_many_nodes_more_are_needed() -> None:
    seen = snapshot([node("a", cpu="2", labels={ZONE: "1"})])
    found = simulate(seen, default_profile(), in_thought(DEPLOYMENT), like="a")
    assert (found["nodes_added"], found["failed"], len(found["placed"])) == (2, [], 5)
    found = simulate(snapshot([node("a", cpu="2")]), default_profile(), in_thought(DEPLOYMENT), like="a", more=9)
    assert (found["nodes_added"], len(found["by_node"])) == (0, 5)


def test_no_number_of_nodes_helps_a_pod_that_is_too_large() -> None:
    seen = snapshot([node("a", cpu="500m")])
    found = simulate(seen, default_profile(), in_thought(DEPLOYMENT, replicas=1), like="a")
    assert (found["nodes_added"], len(found["failed"])) == (0, 1)
    assert set(seen.table.by_name) == {"a"}


def test_pods_are_placed_with_what_the_manifests_say_beside_them() -> None:
    """Claims of volumes and of devices that only the manifests know; a daemon on each node that takes it."""
    metadata = {"name": "db"}
    container = {"name": "c", "image": "i:1"}
    manifests = [
        {"kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": "x", "volumeBindingMode": "Immediate"},
        {"kind": "StatefulSet", "metadata": metadata, "spec": {
            "replicas": 2, "template": {"spec": {"containers": [container]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"storageClassName": "fast"}}],
        }},
        {"kind": "DeviceClass", "metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}},
        {"kind": "ResourceSlice", "metadata": {"name": "b"}, "spec": {
            "driver": "d", "nodeName": "b", "pool": {"name": "b", "resourceSliceCount": 1}, "devices": [{"name": "0"}],
        }},
        {"kind": "ResourceClaimTemplate", "metadata": {"name": "one"}, "spec": {"spec": {
            "devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]},
        }}},
        {"kind": "Job", "metadata": {"name": "train"}, "spec": {"parallelism": 3, "template": {"spec": {
            "resourceClaims": [{"name": "g", "resourceClaimTemplateName": "one"}], "containers": [container],
        }}}},
        {"kind": "DaemonSet", "metadata": {"name": "log"}, "spec": {"template": {"spec": {"containers": [container]}}}},
        {"kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}}},
    ]  # fmt: skip
    nodes = [node("a"), node("b"), node("c", taints=[{"key": "k", "effect": "NoSchedule"}])]
    thought, pods = _thought(nodes, *manifests)
    found = simulate(Snapshot(thought.listed), default_profile(), pods)
    where = dict(found["placed"])
    assert where.keys() == {"default/db-0", "default/db-1", "default/train-0", "default/log-a", "default/log-b"}
    assert (where["default/train-0"], where["default/log-a"], where["default/log-b"]) == ("b", "a", "b")
    assert [name for name, _ in found["failed"]] == ["default/train-1", "default/train-2"]
    thought, pods = _thought(nodes, *manifests)
    found = simulate(Snapshot(thought.listed), default_profile(), pods, like="b")
    assert (found["nodes_added"], found["failed"]) == (2, []), "more nodes bring more devices"


def _thought(nodes: list[Any], *manifests: Any) -> tuple[InThought, list[Any]]:
    thought = InThought(lambda resource: nodes if resource == NODES else [], "default")
    for one in manifests:
        thought.take(one)
    pods = [pod for one in manifests for pod in thought.completed(one, thought.pods_of(one))]
    thought.settle()
    return thought, pods


def in_thought(obj: Any, replicas: int | None = None) -> list[Any]:
    return InThought(lambda _: [], "default").pods_of(obj, replicas)
