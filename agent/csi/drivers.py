"""The storage drivers of this node: who they are, told to the API (CSINode, labels and annotation of the Node).

Sources: https://kubernetes-csi.github.io/docs/csi-node-object.html,
https://github.com/container-storage-interface/spec/blob/master/spec.md
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from agent.csi import csi_pb2 as csi
from agent.csi import csi_pb2_grpc
from agent.metrics import Metrics
from agent.plugins.watcher import OPTIONS, RegistrationError
from machinery.api.resources import CSI_NODES, NODES
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import AlreadyExists, APIError, Conflict, NotFound

_INFO_SECONDS = 30.0
_ATTEMPTS = 5
_ANNOTATION = "csi.volume.kubernetes.io/nodeid"


class CsiDrivers:
    """The drivers that are registered, by name."""

    def __init__(self, client: Client, node_name: str, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        self._node_name = node_name
        self._endpoints: dict[str, str] = {}
        self._lock = asyncio.Lock()

    async def register(self, name: str, endpoint: str, versions: list[str]) -> None:
        """Take a driver in once it has said which node this is to it. Raises: RegistrationError."""
        if not any(one.removeprefix("v").startswith("1.") or one == "1" for one in versions):
            raise RegistrationError(f"driver {name}: no supported version among {', '.join(versions)}; v1 is")
        try:
            async with self._node(endpoint) as stub:
                info = await stub.NodeGetInfo(csi.NodeGetInfoRequest(), timeout=_INFO_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise RegistrationError(f"driver {name}: NodeGetInfo failed: {error.details()}") from error
        segments = dict(info.accessible_topology.segments)
        entry: dict[str, Any] = {"name": name, "nodeID": info.node_id, "topologyKeys": sorted(segments) or None}
        if info.max_volumes_per_node > 0:
            entry["allocatable"] = {"count": info.max_volumes_per_node}
        try:
            await self._tell_node({name: info.node_id}, segments)
            await self._tell_csi_node(name, {key: value for key, value in entry.items() if value is not None})
        except (APIError, ConnectionFailed) as error:
            raise RegistrationError(f"driver {name} can't be told to the API: {error}") from error
        self._endpoints[name] = endpoint

    async def deregister(self, name: str) -> None:
        """A driver is gone: volumes of it can't be had here any more."""
        self._endpoints.pop(name, None)
        await self._tell_node({name: None}, {})
        await self._tell_csi_node(name, None)

    async def _tell_node(self, ids: Mapping[str, str | None], labels: Mapping[str, str]) -> None:
        node = await self._client.get(NODES, self._node_name)
        known = json.loads((node["metadata"].get("annotations") or {}).get(_ANNOTATION) or "{}")
        known.update(ids)
        text = json.dumps({key: value for key, value in sorted(known.items()) if value is not None})
        patch = {"metadata": {"annotations": {_ANNOTATION: text if text != "{}" else None}, "labels": dict(labels)}}
        await self._client.patch(NODES, self._node_name, patch)

    async def _tell_csi_node(self, name: str, entry: Mapping[str, Any] | None) -> None:
        async with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    found = await self._client.get(CSI_NODES, self._node_name)
                    others = [one for one in found["spec"].get("drivers") or () if one["name"] != name]
                    found["spec"]["drivers"] = [*others, entry] if entry else others
                    await self._client.update(CSI_NODES, found)
                except NotFound:
                    if entry is None or await self._create_csi_node(entry):
                        return
                except Conflict:
                    continue
                else:
                    return

    async def _create_csi_node(self, entry: Mapping[str, Any]) -> bool:
        node = await self._client.get(NODES, self._node_name)
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node_name, "uid": node["metadata"]["uid"]}
        body = {
            "kind": "CSINode", "apiVersion": "storage.k8s.io/v1", "spec": {"drivers": [entry]},
            "metadata": {"name": self._node_name, "ownerReferences": [owner]},
        }  # fmt: skip
        try:
            await self._client.create(CSI_NODES, body)
        except AlreadyExists:
            return False
        return True

    def has(self, name: str) -> bool:
        """Whether a driver is registered."""
        return name in self._endpoints

    @asynccontextmanager
    async def node_service(self, name: str) -> AsyncIterator[Any]:
        """Yield a stub of a driver's Node service. Raises: KeyError for one that isn't registered."""
        async with self._node(self._endpoints[name]) as stub:
            yield _Timed(stub, name, self._metrics)

    @asynccontextmanager
    async def _node(self, endpoint: str) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(f"unix:{endpoint}", options=OPTIONS) as channel:
            yield csi_pb2_grpc.NodeStub(channel)


class _Timed:
    """A driver's stub whose calls are timed."""

    def __init__(self, stub: Any, driver: str, metrics: Metrics) -> None:
        self._stub = stub
        self._driver = driver
        self._metrics = metrics

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._stub, method)

        async def timed(request: Any, **options: Any) -> Any:
            began, code = time.perf_counter(), "OK"
            try:
                return await call(request, **options)
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                raise
            finally:
                labels = (self._driver, code, f"/csi.v1.Node/{method}", "false")
                self._metrics.observe("csi_operations_seconds", time.perf_counter() - began, *labels)

        return timed
