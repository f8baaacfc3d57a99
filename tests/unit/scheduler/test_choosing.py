"""Where pods are placed, and what is said when nothing fits. Reasons are kube-scheduler's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cluster import Cluster
from scheduler.plugins.image_locality import ImageLocality
from scheduler.pods import Pod
from scheduler.schedule_one import Unschedulable
from scheduler.table import NodeTable
from tests.unit.scheduler.builders import READER, ZONE, choose, chooser, node, pod, pod_object, table


def test_the_emptier_node_is_chosen() -> None:
    nodes = table(node("a"), node("b"))
    nodes.put_pod(pod("busy", "3"), "a")
    assert choose(nodes, pod(cpu="500m")) == "b"


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
NAMED = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]},
            ]
        }
    }
}
APP = {"labelSelector": {"matchLabels": {"app": "x"}}}
BY_ZONE = {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", **APP}


def required(kind: str, **term: Any) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ZONE, **APP, **term}]}}


@pytest.mark.parametrize(
    ("nodes", "asked", "reason"),
    [
        ([node("a", cpu="1")], pod(cpu="2"), "1 Insufficient cpu"),
        ([node("a", pods="0")], pod(), "1 Too many pods"),
        ([node("a", cpu="1", pods="0")], pod(cpu="2"), "1 Insufficient cpu, 1 Too many pods"),
        ([node("a", unschedulable=True)], pod(), "1 node(s) were unschedulable"),
        ([node("a", taints=[TAINT])], pod(), "1 node(s) had untolerated taint(s)"),
        ([node("a")], pod(nodeSelector={"x": "y"}), "1 node(s) didn't match Pod's node affinity/selector"),
        ([node("a", cpu="1"), node("b", taints=[TAINT]), node("c", cpu="1")], pod(cpu="2"),
         "1 node(s) had untolerated taint(s), 2 Insufficient cpu"),
        ([node("a", cpu="1"), node("b")], pod(cpu="2", affinity=NAMED),
         "1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]"),
        ([node("a")], pod(labels={"app": "x"}, topologySpreadConstraints=[BY_ZONE]),
         "1 node(s) didn't match pod topology spread constraints (missing required label)"),
        ([node("a", labels={ZONE: "1"})], pod(affinity=required("podAffinity")),
         "1 node(s) didn't match pod affinity rules"),
    ],
    ids=["cpu", "pods", "both", "cordon", "taint", "selector", "several", "named", "zone", "affinity"],
)  # fmt: skip
def test_what_fits_nowhere_says_why_per_reason(nodes: list[Any], asked: Pod, reason: str) -> None:
    count = len(nodes)
    with pytest.raises(Unschedulable) as caught:
        choose(table(*nodes), asked)
    assert str(caught.value).startswith(f"0/{count} nodes are available: {reason}.")


def test_without_nodes_that_is_said() -> None:
    with pytest.raises(Unschedulable, match="^no nodes available to schedule pods$"):
        choose(NodeTable(), pod())


def test_terms_that_name_no_common_node_are_a_conflict() -> None:
    fields = [{"key": "metadata.name", "operator": "In", "values": [name]} for name in ("a", "b")]
    terms = {"nodeSelectorTerms": [{"matchFields": fields}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    with pytest.raises(Unschedulable, match="^0/2 nodes are available: pod affinity terms conflict.$"):
        choose(table(node("a"), node("b")), pod(affinity=affinity))


def test_a_toleration_or_a_matching_affinity_opens_a_node() -> None:
    nodes = table(
        node("a", taints=[TAINT]), node("b", labels={"zone": "1"}, unschedulable=True), node("c", labels={"zone": "2"})
    )
    assert choose(nodes, pod(tolerations=[{"key": "gpu", "operator": "Exists"}], nodeSelector={})) in ("a", "c")
    terms = [{"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["1"]}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    assert choose(nodes, pod(affinity=affinity)) == "c"


def test_a_host_port_is_given_once_a_node() -> None:
    nodes = table(node("a"))
    taken = [{"containerPort": 80, "hostPort": 80}]
    nodes.put_pod(pod("other", ports=taken), "a")
    with pytest.raises(Unschedulable, match="didn't have free ports for the requested pod ports"):
        choose(nodes, pod(ports=taken))
    assert choose(nodes, pod(ports=[{"containerPort": 80, "hostPort": 80, "protocol": "UDP"}])) == "a"


def test_addresses_of_one_port_may_be_shared_out() -> None:
    nodes = table(node("a"))
    nodes.put_pod(pod("other", ports=[{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}]), "a")
    assert choose(nodes, pod(ports=[{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.2"}])) == "a"
    with pytest.raises(Unschedulable):
        choose(nodes, pod(ports=[{"containerPort": 80, "hostPort": 80}]))


def test_spread_constraints_keep_domains_level() -> None:
    nodes = table(*(node(f"n{zone}{at}", labels={ZONE: zone}) for zone in "ab" for at in range(2)))
    places, counts = chooser(nodes), {"a": 0, "b": 0}
    for number in range(6):
        one = pod(f"p{number}", labels={"app": "x"}, topologySpreadConstraints=[BY_ZONE])
        where = nodes.nodes[places.choose(one)].name
        nodes.put_pod(one, where)
        counts[where[1]] += 1
        assert abs(counts["a"] - counts["b"]) <= 1


def test_min_domains_count_what_is_not_there_as_empty() -> None:
    nodes = table(node("a", labels={ZONE: "1"}))
    constraint = {**BY_ZONE, "minDomains": 2}
    nodes.put_pod(pod("there", labels={"app": "x"}), "a")
    with pytest.raises(Unschedulable, match="1 node.s. didn't match pod topology spread constraints[.]"):
        choose(nodes, pod(labels={"app": "x"}, topologySpreadConstraints=[constraint]))
    assert choose(nodes, pod(labels={"app": "x"}, topologySpreadConstraints=[BY_ZONE])) == "a"


def test_pods_of_one_workload_are_kept_apart_by_default() -> None:
    from machinery.api.selectors import from_labels

    cluster = Cluster(workload=lambda kind, namespace, name: from_labels({"app": "x"}))
    nodes = table(*(node(f"n{at}") for at in range(4)))
    places, used = chooser(nodes, cluster), []
    owner = [{"uid": "rs", "kind": "ReplicaSet", "name": "rs", "controller": True}]
    for number in range(4):
        one = pod(f"p{number}", "100m", labels={"app": "x"}, ownerReferences=owner)
        used.append(nodes.nodes[places.choose(one)].name)
        nodes.put_pod(one, used[-1])
    assert len(set(used)) == 4


def test_the_first_of_a_group_that_wants_to_be_together_may_go_anywhere_and_the_others_follow() -> None:
    nodes = table(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}), node("c"))
    together = {"labels": {"app": "x"}, "affinity": required("podAffinity")}
    first = choose(nodes, pod("p0", **together))
    assert first in ("a", "b")  # c has no zone at all
    nodes.put_pod(pod("p0", **together), first)
    assert choose(nodes, pod("p1", **together)) == first


def test_anti_affinity_works_both_ways() -> None:
    apart = {"affinity": required("podAntiAffinity")}
    nodes = table(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}))
    nodes.put_pod(pod("web", labels={"app": "x"}), "a")
    assert choose(nodes, pod("apart", **apart)) == "b"
    nodes.put_pod(pod("apart", **apart), "b")
    with pytest.raises(Unschedulable) as caught:
        choose(nodes, pod("apart-2", labels={"app": "x"}, **apart))
    assert "1 node(s) didn't match pod anti-affinity rules" in str(caught.value)
    assert "1 node(s) didn't satisfy existing pods anti-affinity rules" in str(caught.value)


def test_affinity_reaches_other_namespaces_by_name_and_by_their_labels() -> None:
    nodes = table(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}))
    nodes.put_pod(pod("web", labels={"app": "x"}, namespace="other"), "b")
    with pytest.raises(Unschedulable):
        choose(nodes, pod(affinity=required("podAffinity")))
    assert choose(nodes, pod(affinity=required("podAffinity", namespaces=["other"]))) == "b"
    by_label = {"matchLabels": {"kubernetes.io/metadata.name": "other"}}
    assert choose(nodes, pod(affinity=required("podAffinity", namespaceSelector=by_label))) == "b"
    assert choose(nodes, pod(affinity=required("podAffinity", namespaceSelector={}))) == "b"


def test_match_label_keys_narrow_a_term_to_the_pods_own_value() -> None:
    nodes = table(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}))
    nodes.put_pod(pod("old", labels={"app": "x", "hash": "1"}), "a")
    apart = required("podAntiAffinity", matchLabelKeys=["hash"])
    same = pod("same", labels={"app": "x", "hash": "1"}, affinity=apart)
    assert choose(nodes, same) == "b"
    nodes.put_pod(pod("busy", "3500m"), "b")
    other = pod("other", "1", labels={"app": "x", "hash": "2"}, affinity=apart)
    assert choose(nodes, other) == "a"


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "remove", "node", "drop"]), st.integers(0, 3), st.integers(0, 5)), max_size=40
    )
)
def test_the_table_always_sums_what_is_on_its_nodes(steps: list[tuple[str, int, int]]) -> None:
    nodes = table(*(node(f"n{at}") for at in range(4)))
    counts = nodes.tallies.matching_all(())
    for what, at, number in steps:
        name = f"n{at}"
        if what == "put":
            nodes.put_pod(pod(f"p{number}", f"{number + 1}00m"), name)
        elif what == "remove":
            nodes.remove_pod(name, f"p{number}")
        elif what == "node":
            nodes.put_node(node(name, cpu=str(number + 1)))
        elif what == "drop":
            nodes.remove_node(name)
        for row_name, row in nodes.by_name.items():
            assert nodes.nodes[row.row] is row
            assert row.name == row_name
            asked = [one.shape.needs.requests.get("cpu", 0) for one in row.pods.values()]
            assert nodes.requested("cpu")[row.row] == sum(asked)
            assert counts[row.row] == len(asked)
        assert nodes.count == sum(row.object is not None for row in nodes.by_name.values())


def test_a_pod_that_waits_for_others_is_woken_only_by_those_it_is_about() -> None:
    from scheduler.framework.plugin import Happening

    nodes = table(node("a", labels={ZONE: "1"}))
    plugin = next(one for one in chooser(nodes).profile.cluster_plugins if one.name == "InterPodAffinity")
    near = pod("near", affinity=required("podAffinity"))
    away = pod("away", labels={"app": "y"}, affinity=required("podAntiAffinity"))
    like, unlike = pod("like", labels={"app": "x"}), pod("unlike", labels={"app": "z"})

    def helps(waiting: Pod, action: str, other: Pod) -> bool:
        old, new = (other, None) if action == "delete" else (None, other)
        return plugin.helped_by(Happening("AssignedPod", action, old, new, 0), waiting, nodes)

    assert helps(near, "add", like)
    assert not helps(near, "add", unlike)
    assert not helps(near, "delete", like)
    assert helps(away, "delete", like)
    assert not helps(away, "delete", unlike)
    assert helps(like, "delete", away)  # it is that pod's own term that kept it away


def test_pods_no_question_is_about_cost_nothing() -> None:
    nodes = table(node("a", labels={ZONE: "1"}))
    spread = pod("new", labels={"app": "x"}, topologySpreadConstraints=[BY_ZONE])
    choose(nodes, spread)  # from now on pods of app=x are counted
    like, unlike = pod("like", labels={"app": "x"}), pod("unlike", labels={"app": "y"})
    for one in (like, unlike):
        nodes.put_pod(one, "a")
    classes = {one.labels["app"]: one for one in nodes.tallies.classes()}
    assert len(classes["x"].tallies) == 1
    assert not classes["y"].tallies


MB = 1024 * 1024


@pytest.mark.parametrize(
    ("images", "scores"),
    [
        (["gcr.io/40", "gcr.io/250"], [0, 5]),  # 40 MB on one of two nodes is too little to count; (250/2-23)/(2*1000-23)
        (["gcr.io/40", "gcr.io/300"], [7, 0]),
        (["gcr.io/2000", "gcr.io/10"], [49, 0]),
        (["gcr.io/2000:latest"], [100, 0]),  # the tag may be left out
        (["gcr.io/2000:other"], [0, 0]),
        (["gcr.io/both"], [79, 79]),  # what every node has counts whole
        (["gcr.io/both", "gcr.io/none", "gcr.io/none"], [26, 26]),
        ([], [0, 0]),
    ],
    ids=["small", "sum", "large", "tag", "other-tag", "spread", "shared-out", "unknown"],
)  # fmt: skip
def test_images_that_are_there_count_by_their_size_and_spread(images: list[str], scores: list[int]) -> None:
    """The first three are kube-scheduler's own cases (image_locality_test.go)."""
    held = [{"gcr.io/40": 40, "gcr.io/300": 300, "gcr.io/2000": 2000, "gcr.io/both": 800},
            {"gcr.io/250": 250, "gcr.io/10": 10, "gcr.io/both": 800}]  # fmt: skip
    nodes = [node("a"), node("b")]
    for one, sizes in zip(nodes, held, strict=True):
        one["status"]["images"] = [
            {"names": [f"{name}:latest"], "sizeBytes": size * MB} for name, size in sizes.items()
        ]
    given = pod_object()
    given["spec"]["containers"] = [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]
    found = ImageLocality().score(READER.read_object(given).shape.needs, table(*nodes), slice(None))
    assert found is not None
    assert [int(score) for score in found[:2]] == scores


def test_an_init_containers_image_counts_too() -> None:
    nodes = [node("a"), node("b")]
    nodes[1]["status"]["images"] = [{"names": ["gcr.io/2000:latest"], "sizeBytes": 2000 * MB}]
    given = pod_object(initContainers=[{"name": "i", "image": "gcr.io/2000"}])
    assert choose(table(*nodes), READER.read_object(given)) == "b"
