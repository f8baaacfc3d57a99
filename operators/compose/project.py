"""What a Compose object asks for: its objects, service by service. Pure: nothing here talks to the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from machinery.api.meta import Resource
from machinery.api.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, PERSISTENT_VOLUME_CLAIMS, SECRETS, SERVICES
from machinery.compose.manifests import service_objects, shared_objects
from machinery.compose.project import dependencies, in_order, loads

COMPOSES = Resource("wherry.dev", "v1alpha1", "composes", "Compose")
OWNER = "wherry.dev/compose"
KINDS = {one.kind: one for one in (DEPLOYMENTS, JOBS, SERVICES, CONFIG_MAPS, SECRETS, PERSISTENT_VOLUME_CLAIMS)}
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A service: its objects, the first of them its workload, and what it waits for."""

    name: str
    objects: list[Object]
    waits_for: Mapping[str, str] = field(default_factory=dict)


def parts_of(owner: Mapping[str, Any], text: str, source: str) -> list[Part]:
    """Return what a project comes to: first what services share, then they, each after those it waits for.

    Args:
        owner: the Compose object.
        text: the project's file.
        source: what mistakes call it.

    Raises: ComposeError.
    """
    project = loads(text, name=owner["metadata"]["name"], source=source)
    shared = [one for one in shared_objects(project) if one["kind"] != "Namespace"]
    services = [
        Part(name, service_objects(project, name), dependencies(project.services[name])) for name in in_order(project)
    ]
    found = [Part("", shared), *services]
    for part in found:
        for obj in part.objects:
            _owned(obj, owner)
    return found


def _owned(obj: Object, owner: Mapping[str, Any]) -> None:
    """Put an object beside its owner: who deletes that one leaves the rest to the garbage collector."""
    meta = owner["metadata"]
    obj["metadata"] |= {
        "namespace": meta["namespace"],
        "labels": {**obj["metadata"]["labels"], OWNER: meta["name"]},
        "ownerReferences": [
            {
                "apiVersion": COMPOSES.api_version, "kind": COMPOSES.kind, "name": meta["name"], "uid": meta["uid"],
                "controller": True,
            }
        ],
    }  # fmt: skip


def is_met(workload: Mapping[str, Any] | None, condition: str) -> bool:
    """Whether a workload is as one that waits for it needs it: service_started, _healthy, _completed_successfully."""
    status = (workload or {}).get("status") or {}
    if workload is None:
        return False
    if workload["kind"] == JOBS.kind:
        done = bool(status.get("succeeded"))
        return done or (condition == "service_started" and bool(status.get("active")))
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return False
    count = status.get("replicas" if condition == "service_started" else "readyReplicas", 0)
    return bool(count >= workload["spec"].get("replicas", 1))
