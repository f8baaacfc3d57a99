"""Manifests of a folder read as the pods of this node; static_pods.py runs them.

What the API server does to other pods is done here: defaults the agent counts on, the class of quality, the priority of
the classes every cluster has. Source: https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from agent.pod_state import GROUPS, HASH, SOURCE
from machinery.api.meta import now
from machinery.api.quantity import parse_quantity

log = logging.getLogger(__name__)

Object = dict[str, Any]
SEEN = "kubernetes.io/config.seen"
_SUFFIXES = (".yaml", ".yml", ".json")
_PRIORITIES = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}
# Volumes made of what the API holds, and as which resource a refusal names it.
_API_VOLUMES = {
    "secret": "secrets", "configMap": "configmaps", "persistentVolumeClaim": "persistentvolumeclaims",
    "ephemeral": "persistentvolumeclaims",
}  # fmt: skip
_API_SOURCES = {
    "secret": "secrets", "configMap": "configmaps", "serviceAccountToken": "serviceaccounts",
    "clusterTrustBundle": "clustertrustbundles", "podCertificate": "podcertificates",
}  # fmt: skip


def read_manifests(folder: Path, node_name: str) -> dict[Path, Object]:
    """Return the pods of a folder by their files; bad files are told of and left out. Blocks."""
    found: dict[Path, Object] = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix not in _SUFFIXES or path.name.startswith("."):
            continue
        try:
            found[path] = read_manifest(path, node_name)
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            log.warning("%s is no pod manifest: %s", path, error)
    return found


def read_manifest(path: Path, node_name: str) -> Object:
    """Return the pod of one file. Raises: OSError, ValueError, and what a body of another shape leads to."""
    import yaml

    try:
        pod = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if pod.get("kind") != "Pod":
        raise ValueError(f"kind is {pod.get('kind')}, not Pod")
    if not pod["spec"]["containers"]:
        raise ValueError("it has no containers")
    if resource := next(_references(pod["spec"]), ""):
        raise ValueError(f"static pods may not reference {resource}")
    return _of_node(pod, path, node_name)


def _references(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the resources of the API a pod needs: it must be able to run without one."""
    for field, resource in (("serviceAccountName", "serviceaccounts"), ("resourceClaims", "resourceclaims")):
        if spec.get(field):
            yield resource
    for volume in spec.get("volumes") or ():
        yield from (resource for source, resource in _API_VOLUMES.items() if source in volume)
        for part in (volume.get("projected") or {}).get("sources") or ():
            yield from (resource for source, resource in _API_SOURCES.items() if source in part)
    for container in (one for group in GROUPS for one in spec.get(group) or ()):
        for variables in container.get("envFrom") or ():
            yield from (f"{kind.lower()}s" for kind in ("configMap", "secret") if f"{kind}Ref" in variables)
        for variable in container.get("env") or ():
            known = variable.get("valueFrom") or {}
            yield from (f"{kind.lower()}s" for kind in ("configMap", "secret") if f"{kind}KeyRef" in known)
    if spec.get("imagePullSecrets"):
        yield "secrets"


def _of_node(pod: Mapping[str, Any], path: Path, node_name: str) -> Object:
    text = orjson.dumps([node_name, str(path), pod], option=orjson.OPT_SORT_KEYS, default=str)
    metadata = dict(pod["metadata"])
    uid = metadata["uid"] = str(metadata.get("uid") or hashlib.sha256(text).hexdigest()[:32])
    metadata["name"] = f"{metadata['name']}-{node_name.lower()}"
    metadata["namespace"] = metadata.get("namespace") or "default"
    metadata["annotations"] = {**(metadata.get("annotations") or {}), HASH: uid, SOURCE: "file", SEEN: now()}
    metadata["creationTimestamp"] = metadata["annotations"][SEEN]
    spec = _with_defaults(pod["spec"], node_name)
    status = {"phase": "Pending", "qosClass": _quality(spec)}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status}


def _with_defaults(given: Mapping[str, Any], node_name: str) -> Object:
    spec = {
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True, "securityContext": {}, **given, "nodeName": node_name,
    }  # fmt: skip
    spec["tolerations"] = [*(given.get("tolerations") or ()), {"operator": "Exists", "effect": "NoExecute"}]
    if "priority" not in spec and given.get("priorityClassName") in _PRIORITIES:
        spec["priority"] = _PRIORITIES[given["priorityClassName"]]
    for group in ("initContainers", "containers"):
        if given.get(group):
            spec[group] = [_container(one, host_network=bool(given.get("hostNetwork"))) for one in given[group]]
    return spec


def _container(given: Mapping[str, Any], *, host_network: bool) -> Object:
    container = {"terminationMessagePolicy": "File", **given}
    tag = "" if "@" in given["image"] else given["image"].rpartition("/")[2].partition(":")[2] or "latest"
    container.setdefault("imagePullPolicy", "Always" if tag == "latest" else "IfNotPresent")
    resources = dict(given.get("resources") or {})
    if limits := resources.get("limits"):
        resources["requests"] = {**limits, **(resources.get("requests") or {})}
    container["resources"] = resources
    if host_network and "ports" in given:
        container["ports"] = [{"hostPort": one.get("containerPort"), **one} for one in given["ports"]]
    return container


def _quality(spec: Mapping[str, Any]) -> str:
    is_guaranteed, is_any = True, False
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        for name in ("cpu", "memory"):
            limit, request = (
                parse_quantity(str((resources.get(which) or {}).get(name, "0"))) for which in ("limits", "requests")
            )
            is_any = is_any or bool(limit or request)
            is_guaranteed = is_guaranteed and bool(limit) and request in (0, limit)
    if not is_any:
        return "BestEffort"
    return "Guaranteed" if is_guaranteed else "Burstable"
