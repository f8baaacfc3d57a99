"""The agent, put together: reads top to bottom as what happens when a node starts."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from agent.config import AgentConfig
from agent.cpu_manager import CpuManager
from agent.cri.client import Runtime
from agent.csi.storage import Storage
from agent.deviceplugin.manager import DevicePlugins
from agent.dra.claims import ResourceClaims
from agent.eviction import Evictor, ImageCollector
from agent.id_ranges import IdRanges
from agent.images import ImagePuller
from agent.network import app as network
from agent.node import NodeReporter
from agent.node_services import NodeServices
from agent.objects import ObjectSource, TokenSource
from agent.plugins.watcher import PluginWatcher
from agent.pod_manager import PodManager
from agent.resizes import Resizes
from agent.server import AgentServer
from agent.shutdown import NodeShutdown
from agent.static_pods import StaticPods
from agent.volumes.claims import Claims
from agent.volumes.manager import VolumeManager
from machinery.api.quantity import to_bytes
from machinery.api.resources import NODES, PODS, SERVICES
from machinery.client.events import EventRecorder
from machinery.client.informer import Informer
from machinery.client.rest import Client

log = logging.getLogger(__name__)

Object = dict[str, Any]


async def run(config: AgentConfig) -> None:
    """Run a node until cancelled; its containers go on when this ends."""
    for folder in (config.pods_dir, config.logs_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config.client, user_agent="wherry-agent"))
        runtime = Runtime(config.runtime_socket)
        stack.push_async_callback(runtime.close)
        version = await runtime.wait_until_up()
        reporter = NodeReporter(config, client, runtime, version)
        services: Informer[Object] = Informer(client, SERVICES, dict)
        objects = ObjectSource(client, lambda uid: pods.objects_changed(uid))  # noqa: PLW0108 - made below
        stack.push_async_callback(objects.close)
        tokens = TokenSource(client)
        storage = Storage(config, client, tokens)
        node = NodeServices(
            config=config, client=client, runtime=runtime, recorder=EventRecorder(client, "kubelet", config.node_name),
            volumes=VolumeManager(config.pods_dir, Claims(client), storage.volumes),
            puller=ImagePuller(runtime), objects=objects,
            tokens=tokens, services=services.list, admission_failure=lambda _: None,
            resizes=Resizes(config.pods_dir), ids=IdRanges(config.pods_dir),
            allocatable=reporter.allocatable, memory_bytes=to_bytes(reporter.capacity["memory"]), container_scheme=f"{version.partition('://')[0]}://",
        )  # fmt: skip
        node.claims = claims = ResourceClaims(client, config.data_dir)
        node.devices = devices = DevicePlugins(
            config.device_plugin_dir, lambda: reporter.set_devices(devices.capacity(), devices.allocatable())
        )
        await devices.start()
        stack.push_async_callback(devices.close)
        pods = PodManager(node, reporter.pressures)
        if config.cpu_manager_policy == "static":
            node.cpus = CpuManager(config.data_dir, -(-config.reserved_cpu_millis // 1000), pods.wake_all)
        stack.push_async_callback(pods.close)
        server = AgentServer(node, pods, _metrics(pods))
        await server.start()
        stack.push_async_callback(server.close)
        plugins = PluginWatcher(config.plugins_registry, {"CSIPlugin": storage, "DRAPlugin": claims})
        await _work(config, client, node, pods, reporter, services, plugins)


async def _work(
    config: AgentConfig, client: Client, node: NodeServices, pods: PodManager, reporter: NodeReporter,
    services: Informer[Object], plugins: PluginWatcher,
) -> None:  # fmt: skip
    selector = f"spec.nodeName={config.node_name}"
    wanted: Informer[Object] = Informer(client, PODS, dict, field_selector=selector)
    itself: Informer[Object] = Informer(client, NODES, dict, field_selector=f"metadata.name={config.node_name}")

    def on_node(_: Object | None, new: Object | None) -> None:
        pods.node = new or {}
        reporter.on_node(pods.node)

    itself.add_handler(on_node)
    async with asyncio.TaskGroup() as group:
        group.create_task(reporter.run())
        group.create_task(services.run())
        group.create_task(itself.run())
        group.create_task(pods.follow_runtime())
        group.create_task(plugins.run())
        group.create_task(NodeShutdown(node, pods, reporter.shut_down).run())
        group.create_task(Evictor(node, pods, reporter.pressures).run())
        group.create_task(ImageCollector(node, reporter.disk_percent).run())
        if config.proxy:
            group.create_task(network.run(node, services, pods))
        if config.static_pod_dir is not None:
            group.create_task(StaticPods(config, client).run())
        await services.synced()  # containers are told of services when they are made
        wanted.add_handler(pods.on_pod)
        group.create_task(wanted.run())
        await wanted.synced()
        await pods.end_orphans()


def _metrics(pods: PodManager) -> CollectorRegistry:
    registry = CollectorRegistry()
    running = Gauge("kubelet_running_pods", "Pods this node looks after.", registry=registry)
    running.set_function(lambda: sum(1 for _ in pods.pods()))
    containers = Gauge("kubelet_running_containers", "Containers that run.", registry=registry)
    containers.set_function(lambda: sum(_running(one) for one in pods.pods()))
    return registry


def _running(pod: Mapping[str, Any]) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return sum("running" in (one.get("state") or {}) for one in statuses)
