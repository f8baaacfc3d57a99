"""Nodes, pods and tables for tests of the scheduler."""

from typing import Any

from scheduler.cluster import Cluster
from scheduler.config import default_profile
from scheduler.pods import Pod, PodReader
from scheduler.schedule_one import Chooser
from scheduler.table import NodeTable

READER = PodReader()
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def node(
    name: str, *, cpu: str = "4", pods: str = "10", labels: dict[str, str] | None = None, more: Any = None, **spec: Any
) -> dict[str, Any]:
    room = {"cpu": cpu, "memory": "8Gi", "pods": pods, **(more or {})}
    labels = {HOSTNAME: name, **(labels or {})}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": room}}


def pod_object(name: str = "p", cpu: str = "", ports: list[dict[str, Any]] | None = None, **given: Any) -> Any:
    container: dict[str, Any] = {"name": "c", "image": "i:1", "ports": ports or []}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    metadata = {"name": name, "namespace": given.pop("namespace", "n"), "uid": given.pop("uid", name)}
    for field in ("labels", "ownerReferences", "deletionTimestamp", "annotations"):
        if field in given:
            metadata[field] = given.pop(field)
    status = given.pop("status", {})
    return {"metadata": metadata, "spec": {"containers": [container], **given}, "status": status}


def pod(name: str = "p", cpu: str = "", **given: Any) -> Pod:
    return READER.read_object(pod_object(name, cpu, **given))


def table(*nodes: dict[str, Any]) -> NodeTable:
    found = NodeTable()
    for one in nodes:
        found.put_node(one)
    for namespace in ("n", "other"):
        found.tallies.set_namespace(namespace, {"kubernetes.io/metadata.name": namespace})
    return found


def chooser(nodes: NodeTable, cluster: Cluster | None = None) -> Chooser:
    return Chooser(nodes, default_profile(), cluster)


def choose(nodes: NodeTable, one: Pod, cluster: Cluster | None = None) -> str:
    return nodes.nodes[chooser(nodes, cluster).choose(one)].name
