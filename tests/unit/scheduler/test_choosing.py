"""Where pods are placed, and what is said when nothing fits. Reasons are kube-scheduler's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.queue import SchedulingQueue
from scheduler.schedule_one import Chooser, Unschedulable
from scheduler.table import NodeTable, PlacedPod, requests_of


def node(
    name: str, *, cpu: str = "4", pods: str = "10", labels: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    room = {"cpu": cpu, "memory": "8Gi", "pods": pods}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": {"allocatable": room}}


def pod(name: str = "p", cpu: str = "", ports: list[dict[str, Any]] | None = None, **given: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "c", "ports": ports or []}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    labels = given.pop("labels", {})
    return {
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": labels},
        "spec": {"containers": [container], **given},
    }


def table(*nodes: dict[str, Any]) -> NodeTable:
    found = NodeTable()
    for one in nodes:
        found.put_node(one)
    return found


def put(nodes: NodeTable, where: str, one: dict[str, Any]) -> None:
    nodes.put_pod(PlacedPod(one, requests_of(one), where))


def test_the_emptier_node_is_chosen() -> None:
    nodes = table(node("a"), node("b"))
    put(nodes, "a", pod("busy", "3"))
    assert Chooser(nodes).choose(pod(cpu="500m")) == "b"


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("nodes", "asked", "reason"),
    [
        ([node("a", cpu="1")], pod(cpu="2"), "1 Insufficient cpu"),
        ([node("a", pods="0")], pod(), "1 Too many pods"),
        ([node("a", unschedulable=True)], pod(), "1 node(s) were unschedulable"),
        ([node("a", taints=[TAINT])], pod(), "1 node(s) had untolerated taint(s)"),
        ([node("a")], pod(nodeSelector={"x": "y"}), "1 node(s) didn't match Pod's node affinity/selector"),
        ([node("a", cpu="1"), node("b", taints=[TAINT]), node("c", cpu="1")], pod(cpu="2"),
         "1 node(s) had untolerated taint(s), 2 Insufficient cpu"),
    ],
    ids=["cpu", "pods", "cordon", "taint", "selector", "several"],
)  # fmt: skip
def test_what_fits_nowhere_says_why_per_reason(nodes: list[Any], asked: dict[str, Any], reason: str) -> None:
    count = len(nodes)
    with pytest.raises(Unschedulable) as caught:
        Chooser(table(*nodes)).choose(asked)
    assert str(caught.value).startswith(f"0/{count} nodes are available: {reason}.")


def test_without_nodes_that_is_said() -> None:
    with pytest.raises(Unschedulable, match="^no nodes available to schedule pods$"):
        Chooser(NodeTable()).choose(pod())


def test_a_toleration_or_a_matching_affinity_opens_a_node() -> None:
    nodes = table(
        node("a", taints=[TAINT]), node("b", labels={"zone": "1"}, unschedulable=True), node("c", labels={"zone": "2"})
    )
    assert Chooser(nodes).choose(pod(tolerations=[{"key": "gpu", "operator": "Exists"}], nodeSelector={})) in ("a", "c")
    terms = [{"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["1"]}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    assert Chooser(nodes).choose(pod(affinity=affinity)) == "c"


def test_a_host_port_is_given_once_a_node() -> None:
    nodes = table(node("a"))
    taken = [{"containerPort": 80, "hostPort": 80}]
    put(nodes, "a", pod("other", ports=taken))
    with pytest.raises(Unschedulable, match="didn't have free ports for the requested pod ports"):
        Chooser(nodes).choose(pod(ports=taken))


def test_spread_constraints_keep_domains_level() -> None:
    nodes = table(*(node(f"n{zone}{at}", labels={"zone": zone}) for zone in "ab" for at in range(2)))
    constraint = {
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}},
    }  # fmt: skip
    chooser, counts = Chooser(nodes), {"a": 0, "b": 0}
    for number in range(6):
        one = pod(f"p{number}", labels={"app": "x"}, topologySpreadConstraints=[constraint])
        where = chooser.choose(one)
        put(nodes, where, one)
        counts[where[1]] += 1
        assert abs(counts["a"] - counts["b"]) <= 1


def test_pods_of_one_owner_are_kept_apart() -> None:
    nodes = table(*(node(f"n{at}") for at in range(4)))
    chooser, used = Chooser(nodes), []
    for number in range(4):
        one = pod(f"p{number}", "100m")
        one["metadata"]["ownerReferences"] = [{"uid": "rs", "controller": True}]
        used.append(chooser.choose(one))
        put(nodes, used[-1], one)
    assert len(set(used)) == 4


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "remove", "node", "drop"]), st.integers(0, 3), st.integers(0, 5)), max_size=40
    )
)
def test_the_table_always_sums_what_is_on_its_nodes(steps: list[tuple[str, int, int]]) -> None:
    nodes = table(*(node(f"n{at}") for at in range(4)))
    for what, at, number in steps:
        name = f"n{at}"
        if what == "put" and name in nodes.rows:
            put(nodes, name, pod(f"p{number}", f"{number + 1}00m"))
        elif what == "remove":
            nodes.remove_pod(name, f"p{number}")
        elif what == "node":
            nodes.put_node(node(name, cpu=str(number + 1)))
        elif what == "drop":
            nodes.remove_node(name)
        for row_name, row in nodes.rows.items():
            assert nodes.names[row.index] == row_name
            assert nodes.requested[row.index][0] == sum(one.requests.get("cpu", 0) for one in row.pods.values())


def test_the_queue_puts_priority_first_then_order() -> None:
    queue = SchedulingQueue()
    for name, priority in (("a", 0), ("b", 10), ("c", 0)):
        queue.put(pod(name, priority=priority))
    order = [found["metadata"]["name"] for _ in range(3) if (found := queue.pop(0.0)) is not None]
    assert order == ["b", "a", "c"]
    queue.validate_state()


def test_what_was_put_aside_comes_back_after_a_change_and_its_back_off() -> None:
    queue = SchedulingQueue()
    queue.put(pod("a"))
    first = queue.pop(0.0)
    assert first is not None
    from machinery.api.meta import key_of

    queue.put_aside(key_of(first), 0.0)
    assert queue.pop(50.0) is None
    queue.something_changed(50.0)
    assert queue.pop(50.0) is not None
    queue.back_off(key_of(first), 50.0)
    assert queue.pop(51.0) is None
    assert queue.pop(52.0) is not None  # the second attempt waits two seconds
    queue.validate_state()
