"""The agent, put together: reads top to bottom as what happens when a node starts."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent import cgroups
from agent.certificates import CertificateRotation, pairs_of, settle
from agent.checkpoint import Checkpoint
from agent.config import AgentConfig
from agent.config_follower import ConfigFollower
from agent.cpu_manager import CpuManager
from agent.cri.client import Runtime
from agent.csi.growth import VolumeGrowth
from agent.csi.storage import Storage
from agent.deviceplugin.manager import DevicePlugins
from agent.dra.claims import ResourceClaims
from agent.eviction import Evictor, ImageCollector
from agent.id_ranges import IdRanges
from agent.images import ImagePuller, pulled
from agent.log_rotation import LogRotator
from agent.metrics import Metrics
from agent.network import app as network
from agent.node import NodeReporter
from agent.node_services import NodeServices
from agent.objects import ObjectSource, TokenSource
from agent.plugins.watcher import PluginWatcher
from agent.pod_manager import PodManager
from agent.pod_state import is_mirror, is_static
from agent.podresources.server import PodResourcesServer
from agent.resizes import Resizes
from agent.server import AgentServer
from agent.shutdown import NodeShutdown
from agent.static_pods import StaticPods
from agent.volumes.claims import Claims
from agent.volumes.manager import VolumeManager
from machinery.api.quantity import cpu_millis, to_bytes
from machinery.api.resources import NODES, PODS, SERVICE_ACCOUNTS, SERVICES
from machinery.client.events import EventRecorder
from machinery.client.informer import Informer
from machinery.client.rest import Client

if TYPE_CHECKING:
    from agent.credential_providers import CredentialProviders

log = logging.getLogger(__name__)

Object = dict[str, Any]
# An API server that doesn't answer within this is away: pods are run as it told them last.
_API_SECONDS = 2.0


async def run(config: AgentConfig) -> None:
    """Run a node until cancelled; its containers go on when this ends."""
    for folder in (config.pods_dir, config.logs_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    if config.rotate_certificates:
        for pair in pairs_of(config):
            settle(pair)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config.client, user_agent="wherry-agent"))
        runtime, metrics = Runtime(config.runtime_socket), Metrics()
        _observe(client, runtime, metrics)
        stack.push_async_callback(runtime.close)
        version = await runtime.wait_until_up()
        reporter = NodeReporter(config, client, runtime, version)
        services: Informer[Object] = Informer(client, SERVICES, dict)
        objects = ObjectSource(client, lambda uid: pods.objects_changed(uid))  # noqa: PLW0108 - made below
        stack.push_async_callback(objects.close)
        tokens = TokenSource(client)
        storage = Storage(config, client, tokens, metrics)
        checkpoint = Checkpoint(config.data_dir / "checkpoint")
        node = NodeServices(
            config=config, client=client, runtime=runtime, recorder=EventRecorder(client, "kubelet", config.node_name),
            volumes=VolumeManager(config.pods_dir, Claims(client), storage.volumes, metrics),
            puller=ImagePuller(
                runtime, lambda seconds, size: pulled(metrics, seconds, size), state=config.data_dir / "pulled-images",
                providers=_providers(config, client, tokens), at_once=lambda: config.settings.max_pulls,
            ), objects=objects,
            tokens=tokens, services=_services(services, checkpoint), admission_failure=lambda _: None,
            resizes=Resizes(config.pods_dir), ids=IdRanges(config.pods_dir),
            allocatable=reporter.allocatable, memory_bytes=to_bytes(reporter.capacity["memory"]), container_scheme=f"{version.partition('://')[0]}://",
            metrics=metrics, keep_pod=lambda pod: checkpoint.note_pod(None, pod),
        )  # fmt: skip
        node.claims = claims = ResourceClaims(client, config.data_dir, config.node_name)

        def devices_changed() -> None:
            reporter.set_devices(devices.capacity(), devices.allocatable())
            pods.wake(devices.holders())

        node.devices = devices = DevicePlugins(config.device_plugin_dir, devices_changed, metrics)
        pods = PodManager(node, reporter.pressures)
        claims.on_health = pods.wake
        stack.push_async_callback(claims.health.close)
        await devices.start()
        stack.push_async_callback(devices.close)
        if config.cpu_manager_policy == "static":
            reserved = cpu_millis(config.settings.reserved.get("cpu", "0"))
            node.cpus = CpuManager(config.data_dir, -(-reserved // 1000), pods.wake_all)
        stack.push_async_callback(pods.close)
        lister = PodResourcesServer(config.pod_resources_dir, node, pods)
        await lister.start()
        stack.push_async_callback(lister.close)
        server = AgentServer(node, pods)
        await server.start()
        stack.push_async_callback(server.close)
        plugins = PluginWatcher(config.plugins_registry, {"CSIPlugin": storage, "DRAPlugin": claims})
        await _work(node, pods, reporter, services, plugins, checkpoint)


async def _work(
    node: NodeServices, pods: PodManager, reporter: NodeReporter, services: Informer[Object], plugins: PluginWatcher,
    checkpoint: Checkpoint,
) -> None:  # fmt: skip
    config, client = node.config, node.client
    await asyncio.to_thread(_bound_pods, reporter)
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
        group.create_task(VolumeGrowth(node, pods).run())
        group.create_task(LogRotator(pods.growing_logs, node.runtime.reopen_log, settings=config.settings).run())
        if node.claims is not None:
            group.create_task(node.claims.run())
        shutdown = NodeShutdown(node, pods, reporter.shut_down)
        if config.config_file is not None or config.config_dir is not None:

            def settings_changed(names: list[str]) -> None:
                reporter.settings_changed()
                _bound_pods(reporter)
                shutdown.settings_changed(names)
                pods.wake_all()

            group.create_task(ConfigFollower(config, node.recorder, settings_changed).run())
        group.create_task(shutdown.run())
        group.create_task(Evictor(node, pods, reporter.pressures).run())
        group.create_task(ImageCollector(node, reporter.disk_percent).run())
        if config.rotate_certificates:
            group.create_task(CertificateRotation(config, client, node.metrics).run())
        if config.proxy:
            group.create_task(network.run(node, services, pods))
        await _run_pods(group, node, pods, services, wanted, checkpoint)


async def _run_pods(
    group: asyncio.TaskGroup, node: NodeServices, pods: PodManager, services: Informer[Object],
    wanted: Informer[Object], checkpoint: Checkpoint,
) -> None:  # fmt: skip
    """Run static pods at once, and the others as the API tells them; as it told them last where it is away."""
    static = StaticPods(node.config, node.client, pods, checkpoint)
    await static.start()
    group.create_task(static.run())
    group.create_task(checkpoint.run())
    services.add_handler(lambda _, __: checkpoint.note_services(services.list))
    group.create_task(wanted.run())
    try:
        async with asyncio.timeout(_API_SECONDS):
            await asyncio.gather(services.synced(), wanted.synced())
    except TimeoutError:
        for pod in await asyncio.to_thread(checkpoint.pods):
            if not is_static(pod):
                pods.take(pod)
        # Containers are told of services when they are made, but those that run need looking after.
        await asyncio.gather(services.synced(), wanted.synced())
    wanted.add_handler(pods.on_pod)
    wanted.add_handler(lambda old, new: None if is_mirror(new or old or {}) else checkpoint.note_pod(old, new))
    known = {pod["metadata"]["uid"] for pod in wanted.list()}
    pods.keep_only(known)
    static.synced()
    checkpoint.keep_only(known | {one.uid for one in pods.runtimes() if is_static(one.pod)})
    await pods.end_orphans()


def _bound_pods(reporter: NodeReporter) -> None:
    """Keep all pods together within what the node does not keep for itself."""
    has, kept = reporter.capacity, reporter.reserved
    memory = to_bytes(has["memory"]) - kept("memory") if kept("memory") else 0
    cgroups.bound_pods(int(has["cpu"]) * 1000 - kept("cpu"), memory)


def _services(services: Informer[Object], checkpoint: Checkpoint) -> Callable[[], Sequence[Object] | None]:
    """Return what tells of all Services: as the API told them last, until it does so again."""
    before = checkpoint.services()
    return lambda: services.list() if services.is_synced else before


def _providers(config: AgentConfig, client: Client, tokens: TokenSource) -> "CredentialProviders | None":
    """Return the node's programs that know credentials for images; None for none. Raises: ProviderError."""
    if config.credential_providers is None:
        return None
    from agent.credential_providers import CredentialProviders, read_config

    async def account_token(pod: Mapping[str, Any], audience: str) -> tuple[str, Mapping[str, Any]]:
        name = pod["spec"].get("serviceAccountName") or "default"
        account = await client.get(SERVICE_ACCOUNTS, name, pod["metadata"]["namespace"])
        return await tokens.get(pod, {"audience": audience}), account

    path, folder = config.credential_providers
    return CredentialProviders(read_config(path), folder, account_token)


def _observe(client: Client, runtime: Runtime, metrics: Metrics) -> None:
    """Have requests to the API server and calls of the runtime counted and timed."""

    def of_runtime(operation: str, seconds: float, failed: bool) -> None:
        metrics.add("kubelet_runtime_operations_total", operation)
        metrics.observe("kubelet_runtime_operations_duration_seconds", seconds, operation)
        if failed:
            metrics.add("kubelet_runtime_operations_errors_total", operation)

    def of_api(method: str, code: str, host: str, seconds: float) -> None:
        metrics.add("rest_client_requests_total", code, method, host)
        metrics.observe("rest_client_request_duration_seconds", seconds, method, host)

    runtime.observe, client.observe = of_runtime, of_api
