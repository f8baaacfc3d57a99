"""Pods and their volumes: where a volume can be used, which one a claim gets, what is said when there is none."""

from typing import Any

import pytest

from scheduler.cluster import Cluster
from scheduler.plugins.volume_binding import VolumeBinding
from scheduler.pods import Pod
from scheduler.schedule_one import Unschedulable
from scheduler.table import NodeTable
from tests.unit.scheduler.builders import HOSTNAME, ZONE, choose, chooser, node, pod, table

BOUND = {"pv.kubernetes.io/bind-completed": "yes"}


def claim(name: str, size: str = "1Gi", *, volume: str = "", cls: str = "late", **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "n", "name": name, "uid": name, "annotations": BOUND if volume else {}}
    spec = {
        "storageClassName": cls, "accessModes": more.pop("modes", ["ReadWriteOnce"]),
        "resources": {"requests": {"storage": size}}, **({"volumeName": volume} if volume else {}),
    }  # fmt: skip
    return {"metadata": {**metadata, **more}, "spec": spec, "status": {"phase": "Bound" if volume else "Pending"}}


def volume(name: str, size: str = "1Gi", *, on: str = "", cls: str = "late", **spec: Any) -> dict[str, Any]:
    labels = spec.pop("labels", {})
    if on:
        rules = [{"key": HOSTNAME, "operator": "In", "values": on.split()}]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": rules}]}}
    spec = {"storageClassName": cls, "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], **spec}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"phase": "Available"}}


def storage_class(name: str, provisioner: str = "kubernetes.io/no-provisioner", **more: Any) -> dict[str, Any]:
    mode = more.pop("mode", "WaitForFirstConsumer")
    return {"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode, **more}


def cluster(*objects: dict[str, Any], **lookups: Any) -> Cluster:
    claims = {(one["metadata"].get("namespace"), one["metadata"]["name"]): one for one in objects if "status" in one}
    volumes = [one for one in objects if "capacity" in one.get("spec", {})]
    classes = [
        storage_class("late"),
        storage_class("now", mode="Immediate"),
        *(o for o in objects if "provisioner" in o),
    ]
    return Cluster(
        claim=lambda namespace, name: claims.get((namespace, name)),
        volume={one["metadata"]["name"]: one for one in volumes}.get,
        volumes=lambda: volumes,
        storage_class={one["metadata"]["name"]: one for one in classes}.get,
        **lookups,
    )


def using(*claims: str, name: str = "p", **given: Any) -> Pod:
    volumes = [{"name": f"v{at}", "persistentVolumeClaim": {"claimName": one}} for at, one in enumerate(claims)]
    return pod(name, volumes=volumes, **given)


def refusal(nodes: NodeTable, one: Pod, seen: Cluster) -> str:
    with pytest.raises(Unschedulable) as caught:
        choose(nodes, one, seen)
    return str(caught.value)


NODES = (node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}))


@pytest.mark.parametrize(
    ("objects", "text"),
    [
        ([], 'persistentvolumeclaim "c" not found'),
        ([claim("c", cls="now")], "pod has unbound immediate PersistentVolumeClaims"),
        ([{**claim("c", volume="gone"), "status": {"phase": "Lost"}}],
         'persistentvolumeclaim "c" bound to non-existent persistentvolume "gone"'),
        ([claim("c", deletionTimestamp="2026-01-01T00:00:00Z")], 'persistentvolumeclaim "c" is being deleted'),
    ],
    ids=["absent", "immediate", "lost", "going"],
)  # fmt: skip
def test_claims_that_cannot_be_used_are_told_at_once(objects: list[Any], text: str) -> None:
    assert refusal(table(*NODES), using("c"), cluster(*objects)) == f"0/2 nodes are available: {text}."


def test_a_bound_volume_decides_where_its_pod_goes() -> None:
    seen = cluster(claim("c", volume="v"), volume("v", on="b"))
    assert choose(table(*NODES), using("c"), seen) == "b"
    only_a = table(NODES[0])
    assert "1 node(s) didn't match PersistentVolume's node affinity" in refusal(only_a, using("c"), seen)
    assert "1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)" in refusal(
        only_a, using("c"), cluster(claim("c", volume="v"))
    )


def test_a_claim_that_waits_gets_the_smallest_volume_that_reaches_the_node() -> None:
    plugin = VolumeBinding()
    seen = cluster(
        claim("c", "2Gi"), volume("small", "1Gi"), volume("large", "9Gi", on="b"), volume("fits", "3Gi", on="b")
    )
    nodes = table(*NODES)
    assert choose(nodes, using("c"), seen) == "b"
    cycle = chooser(nodes, seen).cycle(using("c"))
    plugin.pre_filter(cycle)
    plugin.filter(cycle)
    plugin.reserve(cycle, nodes.by_name["b"])
    assert [name for _, name in cycle.memo["volumes.decided"]] == ["fits"]
    other = chooser(nodes, cluster(claim("d", "2Gi"), volume("fits", "3Gi", on="b"))).cycle(using("d"))
    plugin.pre_filter(other)
    codes = plugin.filter(other)
    assert codes is not None
    assert codes.all()  # it is promised already
    plugin.unreserve(cycle, nodes.by_name["b"])
    codes = plugin.filter(other)
    assert codes is not None
    assert codes.tolist() == [2, 0]


def test_two_claims_need_two_volumes_on_one_node() -> None:
    seen = cluster(claim("c"), claim("d"), volume("v", on="a"), volume("w", on="b"))
    assert refusal(table(*NODES), using("c", "d"), seen).startswith(
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
    )
    seen = cluster(claim("c"), claim("d"), volume("v", on="a"), volume("w", on="a b"))
    assert choose(table(*NODES), using("c", "d"), seen) == "a"


def test_a_provisioner_makes_a_volume_where_its_class_allows() -> None:
    topology = [{"matchLabelExpressions": [{"key": ZONE, "values": ["2"]}]}]
    made = storage_class("made", "example.com/csi", allowedTopologies=topology)
    assert choose(table(*NODES), using("c"), cluster(claim("c", cls="made"), made)) == "b"


def test_a_driver_that_tells_its_capacity_must_have_enough() -> None:
    capacities = [
        {"storageClassName": "made", "capacity": size, "nodeTopology": {"matchLabels": {ZONE: zone}}}
        for zone, size in (("1", "1Gi"), ("2", "10Gi"))
    ]
    seen = cluster(
        claim("c", "5Gi", cls="made"),
        storage_class("made", "example.com/csi"),
        csi_driver=lambda name: {"spec": {"storageCapacity": True}},
        capacities=lambda: capacities,
    )
    assert choose(table(*NODES), using("c"), seen) == "b"
    assert "1 node(s) did not have enough free storage" in refusal(table(NODES[0]), using("c"), seen)


def test_a_zoned_volume_keeps_its_pod_in_the_zone() -> None:
    seen = cluster(claim("c", volume="v"), volume("v", labels={ZONE: "2__3"}))
    assert choose(table(*NODES), using("c"), seen) == "b"
    assert "1 node(s) had no available volume zone" in refusal(table(NODES[0]), using("c"), seen)
    assert choose(table(node("nowhere")), using("c"), seen) == "nowhere"


def test_a_claim_for_one_pod_is_used_by_one() -> None:
    seen = cluster(claim("c", volume="v", modes=["ReadWriteOncePod"]), volume("v"))
    nodes = table(*NODES)
    nodes.put_pod(using("c", name="first"), "a")
    assert "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod" in refusal(
        nodes, using("c", name="second"), seen
    )
    nodes.remove_pod("a", "first")
    choose(nodes, using("c", name="second"), seen)


def test_a_disk_is_on_one_node_at_a_time_unless_all_only_read() -> None:
    def disk(name: str, *, read: bool) -> Pod:
        return pod(name, volumes=[{"name": "d", "gcePersistentDisk": {"pdName": "x", "readOnly": read}}])

    nodes = table(NODES[0])
    nodes.put_pod(disk("reader", read=True), "a")
    assert choose(nodes, disk("another", read=True)) == "a"
    assert "1 node(s) had no available disk" in refusal(nodes, disk("writer", read=False), cluster())


def test_a_node_takes_as_many_volumes_as_its_driver_says() -> None:
    csi = {"driver": "example.com", "volumeHandle": "1"}
    objects = [claim("c", volume="v"), volume("v", csi=csi), claim("d", volume="w")]
    objects.append(volume("w", csi={**csi, "volumeHandle": "2"}))
    limits = {"spec": {"drivers": [{"name": "example.com", "allocatable": {"count": 1}}]}}
    seen = cluster(*objects, csi_node=lambda name: limits)
    nodes = table(NODES[0])
    nodes.put_pod(using("c", name="there"), "a")
    assert choose(nodes, using("c"), seen) == "a"  # the same volume counts once
    assert "1 node(s) exceed max volume count" in refusal(nodes, using("d"), seen)
    # What is still attached counts, too, though its pod is gone.
    attached = {"spec": {"nodeName": "a", "source": {"persistentVolumeName": "v"}}}
    empty, still = table(NODES[0]), cluster(*objects, csi_node=lambda name: limits, attachments=lambda: [attached])
    assert choose(empty, using("d"), seen) == "a"
    assert "1 node(s) exceed max volume count" in refusal(empty, using("d"), still)


def test_an_ephemeral_volume_waits_for_its_claim_and_must_be_the_pods_own() -> None:
    one = pod("p", volumes=[{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}])
    text = 'waiting for ephemeral volume controller to create the persistentvolumeclaim "p-scratch"'
    assert text in refusal(table(*NODES), one, cluster())
    assert "PVC n/p-scratch was not created for pod n/p (pod is not owner)" in refusal(
        table(*NODES), one, cluster(claim("p-scratch"), volume("v"))
    )
    owned = claim("p-scratch", ownerReferences=[{"uid": "p", "controller": True}])
    assert choose(table(*NODES), one, cluster(owned, volume("v", on="b"))) == "b"
