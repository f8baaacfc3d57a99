"""Serves the PodResources API on a socket for who monitors devices on this node.

Source: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent.dra.claims import ClaimError
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.pod_state import is_over, is_sidecar, specs
from agent.podresources import api_pb2 as api
from agent.podresources import api_pb2_grpc

SOCKET = "kubelet.sock"


class PodResourcesServer(api_pb2_grpc.PodResourcesListerServicer):
    """Tells which devices, CPUs and claims the containers of this node have."""

    def __init__(self, folder: Path, node: NodeServices, pods: PodManager) -> None:
        """Args: `folder` gets the socket."""
        self._folder = folder
        self._node = node
        self._pods = pods
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Begin to serve."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        path = self._folder / SOCKET
        path.unlink(missing_ok=True)
        self._server = grpc.aio.server()
        api_pb2_grpc.add_PodResourcesListerServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()

    async def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            await self._server.stop(grace=None)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
        """Tell of all pods that have not ended."""
        self._count("list")
        active = [one.pod for one in self._pods.runtimes() if not one.deleted and not is_over(one.pod)]
        return api.ListPodResourcesResponse(pod_resources=[self._of_pod(pod) for pod in active])

    async def Get(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
        """Tell of one pod."""
        self._count("get")
        found = self._pods.find(request.pod_namespace, request.pod_name)
        if found is None:
            self._node.metrics.add("kubelet_pod_resources_endpoint_errors_get", "v1")
            text = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
            await context.abort(grpc.StatusCode.UNKNOWN, text)
            raise AssertionError  # abort raises
        return api.GetPodResourcesResponse(pod_resources=self._of_pod(found.pod))

    async def GetAllocatableResources(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
        """Tell of all there is to be given."""
        self._count("get_allocatable")
        devices = self._node.devices.all() if self._node.devices is not None else {}
        cpus = self._node.cpus.allocatable() if self._node.cpus is not None else []
        found = [one for resource, ids in sorted(devices.items()) for one in self._devices(resource, ids)]
        return api.AllocatableResourcesResponse(devices=found, cpu_ids=cpus)

    def _count(self, what: str) -> None:
        self._node.metrics.add("kubelet_pod_resources_endpoint_requests_total", "v1")
        self._node.metrics.add(f"kubelet_pod_resources_endpoint_requests_{what}", "v1")

    def _of_pod(self, pod: Mapping[str, Any]) -> Any:
        lasting = [spec for spec in specs(pod, "initContainers") if is_sidecar(spec)]
        metadata = pod["metadata"]
        return api.PodResources(
            name=metadata["name"], namespace=metadata["namespace"],
            containers=[self._of_container(pod, spec) for spec in (*lasting, *specs(pod, "containers"))],
        )  # fmt: skip

    def _of_container(self, pod: Mapping[str, Any], spec: Mapping[str, Any]) -> Any:
        uid, name, node = pod["metadata"]["uid"], spec["name"], self._node
        held = node.devices.held_by(uid, name) if node.devices is not None else {}
        return api.ContainerResources(
            name=name, devices=[one for resource, ids in sorted(held.items()) for one in self._devices(resource, ids)],
            cpu_ids=node.cpus.exclusive(uid, name) if node.cpus is not None else [],
            dynamic_resources=self._claimed(pod, spec),
        )  # fmt: skip

    def _devices(self, resource: str, ids: Iterable[str]) -> Iterable[Any]:
        """Yield the devices of a resource, each by itself, for each is near to NUMA nodes of its own."""
        for one in ids:
            found = api.ContainerDevices(resource_name=resource, device_ids=[one])
            for number in self._node.devices.numa_nodes(resource, one) if self._node.devices is not None else ():
                found.topology.nodes.add(ID=number)
            yield found

    def _claimed(self, pod: Mapping[str, Any], spec: Mapping[str, Any]) -> list[Any]:
        claims: dict[str, Any] = {}
        try:
            given = list(self._node.claims.given(pod, spec)) if self._node.claims is not None else []
        except ClaimError:  # its claims have yet to be made
            return []
        for _, name, driver, device in given:
            namespace = pod["metadata"]["namespace"]
            claim = claims.setdefault(name, api.DynamicResource(claim_name=name, claim_namespace=namespace))
            claim.claim_resources.add(
                cdi_devices=[api.CDIDevice(name=one) for one in device["cdi"]], driver_name=driver,
                pool_name=device.get("pool", ""), device_name=device.get("device", ""),
            )  # fmt: skip
        return list(claims.values())
