"""The objects every cluster begins with: namespaces, roles, the service `kubernetes`.

They are written when absent, and looked at again from time to time, so that a deleted one comes back. Default roles and
bindings are brought up to date when the server starts.
"""

import asyncio
import functools
import ipaddress
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from apiserver.admission.chain import IMMORTAL
from apiserver.aggregation.aggregator import HEADERS
from apiserver.bootstrap_rbac import marked, must_be_replaced, reconciled
from apiserver.registry.kind import Kind
from apiserver.registry.rest import WriteOptions
from apiserver.registry.scheduling import SYSTEM_PRIORITIES
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    FLOW_SCHEMAS,
    NAMESPACES,
    PRIORITY_CLASSES,
    PRIORITY_LEVELS,
    ROLE_BINDINGS,
    ROLES,
    SERVICES,
)

if TYPE_CHECKING:
    from apiserver.app import APIServer

log = logging.getLogger(__name__)

_RBAC = {one.kind: one for one in (CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, ROLES, ROLE_BINDINGS)}
_FLOW = {one.kind: one for one in (FLOW_SCHEMAS, PRIORITY_LEVELS)}
_MANIFESTS = Path(__file__).parents[1] / "manifests"
_RETRY_SECONDS = 0.5
_REPEAT_SECONDS = 30.0


async def run(server: "APIServer") -> None:
    """Keep the first objects there until cancelled."""
    while True:
        try:
            await server.cache.ready.wait()
            await _ensure_all(server)
            if not server.health.bootstrapped.is_set():
                await _reconcile_roles(server)
            server.health.bootstrapped.set()
            await asyncio.sleep(_REPEAT_SECONDS)
        except errors.APIError as error:
            log.warning("could not write the first objects: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)


async def _ensure_all(server: "APIServer") -> None:
    for name in IMMORTAL:
        await _ensure(server, NAMESPACES, "", {"metadata": {"name": name}})
    for document in await asyncio.to_thread(_documents, "bootstrap-flowcontrol.yaml"):
        await _ensure(server, _FLOW[document["kind"]], "", document)
    for document in await asyncio.to_thread(_documents, "bootstrap-rbac.yaml"):
        await _ensure(server, _RBAC[document["kind"]], document["metadata"].get("namespace", ""), marked(document))
    for name, value in SYSTEM_PRIORITIES.items():
        described = "Used for system critical pods that must " + (
            "not be moved from their current node." if "node" in name
            else "run in the cluster, but can be moved to another node if necessary."
        )  # fmt: skip
        await _ensure(
            server, PRIORITY_CLASSES, "", {"metadata": {"name": name}, "value": value, "description": described}
        )
    await _ensure_kubernetes_service(server)
    await _tell_proxies(server)


async def _reconcile_roles(server: "APIServer") -> None:
    """Give the default roles and bindings what they lack; once, so that what is taken away while we run stays away."""
    for document in await asyncio.to_thread(_documents, "bootstrap-rbac.yaml"):
        await _reconcile(server, _RBAC[document["kind"]], marked(document))


async def _reconcile(server: "APIServer", resource: Resource, wanted: dict[str, Any]) -> None:
    kind, metadata = _kind_of(server, resource), wanted["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    entry = server.cache.collection(resource.group_resource).get(kind.key(namespace, name))
    if entry is None:
        return
    present = entry.object()
    if must_be_replaced(present, wanted):
        log.info("%s %s led to another role and is made anew", resource.kind, name)
        await server.rest.delete(kind, namespace, name, {}, dry_run=False)
        await server.storage.refresh()
        await _ensure(server, resource, namespace, wanted)
    elif reconciled(present, wanted) != present:
        log.info("%s %s is brought up to date", resource.kind, name)
        await server.rest.update(kind, namespace, name, lambda old: reconciled(old, wanted), WriteOptions())


async def _tell_proxies(server: "APIServer") -> None:
    """Tell extension API servers whose certificates this cluster's clients and proxies show."""
    config = server.config
    data = {"client-ca-file": await asyncio.to_thread(config.client_ca_file.read_text)}
    if config.front_proxy_ca_file is not None:
        data["requestheader-client-ca-file"] = await asyncio.to_thread(config.front_proxy_ca_file.read_text)
        data["requestheader-allowed-names"] = json.dumps(list(config.front_proxy_names))
        data["requestheader-extra-headers-prefix"] = json.dumps(HEADERS["extra"])
        for what in ("username", "uid", "group"):
            data[f"requestheader-{what}-headers"] = json.dumps(HEADERS[what])
    body = {"metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}, "data": data}
    await _put(server, CONFIG_MAPS, body, "data")


@functools.cache
def _encoded(name: str) -> list[bytes]:
    """Return a file's documents as JSON: read often, and as YAML slowly."""
    import yaml

    from machinery.api.yamlload import PlainLoader

    text = (_MANIFESTS / name).read_text()
    return [orjson.dumps(document) for document in yaml.load_all(text, PlainLoader) if document]


def _documents(name: str) -> list[dict[str, Any]]:
    return [orjson.loads(document) for document in _encoded(name)]


def _kind_of(server: "APIServer", resource: Resource) -> Kind:
    kind = server.catalog.find(resource.group, resource.version, resource.plural)
    if kind is None:
        raise LookupError(resource.group_resource)
    return kind


async def _ensure(server: "APIServer", resource: Resource, namespace: str, obj: dict[str, Any]) -> None:
    kind = _kind_of(server, resource)
    if server.cache.collection(resource.group_resource).get(kind.key(namespace, obj["metadata"]["name"])):
        return
    try:
        await server.rest.create(kind, namespace, obj, WriteOptions())
        await server.storage.refresh()
    except errors.AlreadyExists:
        return


async def _ensure_kubernetes_service(server: "APIServer") -> None:
    """The service through which pods reach this server, at the first address of the range."""
    config = server.config
    address = str(ipaddress.ip_network(config.service_cidr.partition(",")[0])[1])
    labels = {"component": "apiserver", "provider": "kubernetes"}
    metadata = {"name": "kubernetes", "namespace": "default"}
    port = {"name": "https", "port": 443, "targetPort": config.port, "protocol": "TCP"}
    await _ensure(
        server, SERVICES, "default",
        {
            "metadata": {**metadata, "labels": labels},
            "spec": {"clusterIP": address, "type": "ClusterIP", "ports": [port]},
        },
    )  # fmt: skip
    endpoint_port = {"name": "https", "port": config.port, "protocol": "TCP"}
    subset = {"addresses": [{"ip": config.advertise_address}], "ports": [endpoint_port]}
    skip = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    await _put(server, ENDPOINTS, {"metadata": {**metadata, "labels": skip}, "subsets": [subset]}, "subsets")
    endpoint = {"addresses": [config.advertise_address], "conditions": {"ready": True}}
    await _put(
        server, ENDPOINT_SLICES,
        {
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4", "endpoints": [endpoint], "ports": [endpoint_port],
        },
        "endpoints", "ports",
    )  # fmt: skip


async def _put(server: "APIServer", resource: Resource, obj: dict[str, Any], *fields: str) -> None:
    """Create an object, or bring its fields up to date."""
    kind = _kind_of(server, resource)
    name, namespace = obj["metadata"]["name"], obj["metadata"]["namespace"]
    wanted = {field: obj[field] for field in fields}
    entry = server.cache.collection(resource.group_resource).get(kind.key(namespace, name))
    if entry is None:
        await _ensure(server, resource, namespace, obj)
    elif any(entry.object().get(field) != value for field, value in wanted.items()):
        await server.rest.update(kind, namespace, name, lambda old: {**old, **wanted}, WriteOptions())
