"""Views for tests of decisions: what matters is said, the rest is plain."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from controllers.views import Deployment, Node, Pod, ReplicaSet, Service

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
_serial = itertools.count(1)


def ago(seconds: float) -> str:
    """Return a time so long before NOW, as the API writes it."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def metadata(name: str, **fields: Any) -> dict[str, Any]:
    plain = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(next(_serial))}
    return {**plain, "creationTimestamp": ago(1000), **fields}


def pod(
    name: str = "p",
    *,
    node: str = "n1",
    phase: str = "Running",
    ready: bool = True,
    ready_seconds: float = 100,
    restarts: int = 0,
    spec: dict[str, Any] | None = None,
    ip: str = "10.0.0.1",
    **meta: Any,
) -> Pod:
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "lastTransitionTime": ago(ready_seconds),
    }
    status = {
        "phase": phase,
        "podIP": ip,
        "conditions": [condition],
        "containerStatuses": [{"name": "m", "restartCount": restarts}],
    }
    full = {"metadata": metadata(name, **meta), "spec": {"nodeName": node, **(spec or {})}, "status": status}
    return msgspec.convert(full, Pod)


def template(image: str = "one", **meta: Any) -> dict[str, Any]:
    labels = {"labels": {"app": "web"}}
    return {"metadata": {**labels, **meta}, "spec": {"containers": [{"name": "m", "image": image}]}}


def replica_set(
    name: str = "rs",
    replicas: int = 0,
    *,
    available: int | None = None,
    actual: int | None = None,
    image: str = "one",
    status: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **meta: Any,
) -> ReplicaSet:
    counts = {
        "replicas": replicas if actual is None else actual,
        "readyReplicas": replicas if available is None else available,
        "availableReplicas": replicas if available is None else available,
    }
    full = {
        "metadata": metadata(name, **meta),
        "spec": {"replicas": replicas, "template": template(image), **(spec or {})},
        "status": {**counts, **(status or {})},
    }
    return msgspec.convert(full, ReplicaSet)


def deployment(
    replicas: int = 3,
    *,
    surge: int | str = 1,
    unavailable: int | str = 0,
    strategy: str = "RollingUpdate",
    image: str = "one",
    status: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
    **spec: Any,
) -> Deployment:
    rolling = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    full = {
        "metadata": metadata("web", **(meta or {})),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(image),
            "strategy": {"type": strategy, **(rolling if strategy == "RollingUpdate" else {})},
            **spec,
        },
        "status": status or {},
    }
    return msgspec.convert(full, Deployment)


def service(**spec: Any) -> Service:
    plain = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    return msgspec.convert({"metadata": metadata("web"), "spec": {**plain, **spec}}, Service)


def node(name: str = "n1", *, ready: str = "True", taints: Any = (), unschedulable: bool = False, **more: str) -> Node:
    conditions = [{"type": kind, "status": status} for kind, status in {"Ready": ready, **more}.items() if status]
    spec = {"taints": list(taints), "unschedulable": unschedulable}
    full = {"metadata": metadata(name), "spec": spec, "status": {"conditions": conditions}}
    return msgspec.convert(full, Node)
