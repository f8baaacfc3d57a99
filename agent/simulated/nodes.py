"""Many nodes in one process: the agent's own code, each over a runtime in memory.

One connection and one watch of pods serve all of them. Nothing of them is on disk or in the kernel: volumes are not
made, probes succeed, nothing is told by events.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config import AgentConfig
from agent.id_ranges import IdRanges
from agent.images import ImagePuller
from agent.metrics import Metrics
from agent.node import VERSION, NodeReporter, architecture, declared_features
from agent.node_services import NodeServices
from agent.objects import ObjectSource, TokenSource
from agent.pod_manager import PodManager
from agent.resizes import Resizes
from agent.settings import Settings
from agent.simulated.runtime import Behaviour, SimulatedRuntime
from agent.volumes.manager import VolumeManager
from agent.volumes.sources import FileSources
from machinery.api.resources import PODS
from machinery.client.events import EventRecorder, EventType
from machinery.client.informer import Informer
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

log = logging.getLogger(__name__)

Object = dict[str, Any]
PREFIX = "sim-"
_NOWHERE = Path("/nonexistent/simulated")
_LABEL = "wherry/simulated"
_METRICS = Metrics()  # shared: nobody can ask simulated nodes for theirs


@dataclass(frozen=True, slots=True)
class Simulation:
    """What the nodes are like.

    Attributes:
        count: how many there are; they are named sim-0, sim-1, …
        resources: what each has.
        tell_events: whether pods' steps are told by events; three writes more for each pod.
    """

    count: int
    behaviour: Behaviour = field(default_factory=Behaviour)
    resources: Mapping[str, str] = field(
        default_factory=lambda: {"cpu": "32", "memory": "256Gi", "pods": "256", "ephemeral-storage": "1Ti"}
    )
    tell_events: bool = False


class _NoVolumes(VolumeManager):
    """Every volume is there at once, and nowhere."""

    async def prepare(self, pod: Mapping[str, Any], sources: FileSources) -> bool:
        """There is nothing to do."""
        return False

    def mounts(self, pod: Mapping[str, Any], container: Mapping[str, Any], environment: Mapping[str, str]) -> list[Any]:
        """Nothing is mounted."""
        return []

    async def remove(self, uid: str) -> None:
        """There is nothing to remove."""

    def known(self) -> Sequence[str]:
        """No pod has a folder."""
        return ()


class _Quiet(EventRecorder):
    """Tells nobody."""

    async def event(self, obj: Mapping[str, Any], type: EventType, reason: str, message: str) -> None:
        """Say nothing."""


class _Reporter(NodeReporter):
    """Tells of a node that isn't."""

    def __init__(self, config: AgentConfig, client: Client, runtime: SimulatedRuntime, simulation: Simulation) -> None:
        super().__init__(config, client, runtime, "simulated://1", capacity=dict(simulation.resources))

    async def _status(self) -> Object:
        self._put("Ready", "True", "KubeletReady", "kubelet is posting ready status")
        info = {
            "kubeletVersion": VERSION, "operatingSystem": "linux", "architecture": architecture(),
            "osImage": "simulated", "containerRuntimeVersion": "simulated://1", "kernelVersion": "simulated",
            "machineID": self._config.node_name, "systemUUID": self._config.node_name,
            "bootID": self._config.node_name, "kubeProxyVersion": "",
        }  # fmt: skip
        addresses = [
            {"type": "InternalIP", "address": self._config.node_ip},
            {"type": "Hostname", "address": self._config.node_name},
        ]
        return {
            "declaredFeatures": declared_features(self._config),
            "addresses": [{"$patch": "replace"}, *addresses], "capacity": self.capacity,
            "allocatable": self.allocatable, "conditions": list(self._conditions.values()), "nodeInfo": info,
        }  # fmt: skip


class _Guest(_Reporter):
    """Tells of a node that somebody else has made, and will remove."""

    async def _register(self) -> None:
        """It is not ours to make."""


async def run_simulated_nodes(config: ClientConfig, simulation: Simulation) -> None:
    """Be these nodes until cancelled."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config, user_agent="wherry-simulated-nodes"))
        objects = ObjectSource(client, lambda _: None)
        stack.push_async_callback(objects.close)
        nodes = [SimulatedNode(config, client, objects, simulation, number) for number in range(simulation.count)]
        for node in nodes:
            stack.push_async_callback(node.close)
        managers = {node.name: node.pods for node in nodes}
        informer: Informer[Object] = Informer(client, PODS, dict)
        informer.add_handler(lambda old, new: dispatch(managers, old, new))
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(node.reporter.run())
                group.create_task(node.pods.follow_runtime())
            group.create_task(informer.run())


def dispatch(managers: Mapping[str, PodManager], old: Object | None, new: Object | None) -> None:
    """Hand news of a pod to the node it is bound to."""
    pod = new or old
    manager = managers.get(pod["spec"].get("nodeName", "")) if pod is not None else None
    if manager is not None:
        manager.on_pod(old if old is not None and old["spec"].get("nodeName") else None, new)


class SimulatedNode:
    """One node: the parts of an agent, over a runtime in memory."""

    def __init__(
        self, config: ClientConfig, client: Client, objects: ObjectSource, simulation: Simulation, number: int, *,
        name: str = "", registers: bool = True,
    ) -> None:  # fmt: skip
        """Args: `registers` is False where the Node is somebody else's to make."""
        self.name = name or f"{PREFIX}{number}"
        settings = AgentConfig(
            client=config, node_name=self.name, node_ip="127.0.0.1", data_dir=_NOWHERE, runtime_socket=_NOWHERE,
            cert_file=_NOWHERE, key_file=_NOWHERE, ca_file=_NOWHERE, pod_cidr="", labels={_LABEL: "true"}, proxy=False,
            settings=Settings(max_pods=int(simulation.resources.get("pods", "256"))),
        )  # fmt: skip
        self._runtime = SimulatedRuntime(simulation.behaviour, f"10.{200 + number // 256 % 55}.{number % 256}")
        self.reporter = (_Reporter if registers else _Guest)(settings, client, self._runtime, simulation)
        recorder = (EventRecorder if simulation.tell_events else _Quiet)(client, "kubelet", self.name)
        services = NodeServices(
            config=settings, client=client, runtime=self._runtime, recorder=recorder,
            volumes=_NoVolumes(_NOWHERE, metrics=_METRICS),
            puller=ImagePuller(self._runtime), objects=objects, tokens=TokenSource(client), services=lambda: (),
            admission_failure=lambda _: None, resizes=Resizes(_NOWHERE), ids=IdRanges(_NOWHERE),
            allocatable=self.reporter.allocatable, container_scheme="simulated://",
            metrics=_METRICS,
        )  # fmt: skip
        self.pods = PodManager(services)

    async def close(self) -> None:
        """Stop looking after pods."""
        await self.pods.close()
        await self._runtime.close()
