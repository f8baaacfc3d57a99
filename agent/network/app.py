"""The node's network, put together: reads top to bottom as what happens when a node starts."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

from agent.config import AgentConfig
from agent.cri.client import Runtime, RuntimeFailure
from agent.network import wireguard
from agent.network.announcer import Announcer
from agent.network.enforcer import PolicyEnforcer
from agent.network.links import Links, Me
from agent.network.proxy import ServiceProxy
from agent.network.troubles import Troubles
from agent.network.views import Node
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from machinery.api.meta import ObjectKey
from machinery.api.resources import ENDPOINT_SLICES, NODES
from machinery.client.informer import Informer
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError

log = logging.getLogger(__name__)

Object = dict[str, Any]
_RETRY_SECONDS = 0.5


async def run(node: NodeServices, services: Informer[Object], pods: PodManager) -> None:
    """Keep this node's network until cancelled."""
    config, client, runtime = node.config, node.client, node.runtime
    nodes: Informer[Node] = Informer(client, NODES, Node)
    slices: Informer[Object] = Informer(client, ENDPOINT_SLICES, dict)
    async with asyncio.TaskGroup() as group:
        group.create_task(nodes.run())
        group.create_task(slices.run())
        policies = PolicyEnforcer(client, config.bridge, pods, slices)
        node.network_gate = policies.wait_for
        config = replace(config, pod_cidr=await pod_cidr(config, nodes, runtime))
        troubles = _troubles(node)
        proxy = ServiceProxy(config, services, slices, nodes, pods, lambda wrong: troubles.put("services", wrong))
        ranges = [part.strip() for part in f"{config.pod_cidr},{config.service_cidr}".split(",") if part.strip()]
        group.create_task(troubles.watch_machine(config.bridge, ranges))

        def changed() -> None:
            proxy.note()
            policies.note()

        pods.on_network_change = changed
        group.create_task(proxy.run())
        group.create_task(policies.run())
        cidrs = tuple(part.strip() for part in config.pod_cidr.split(","))
        device, private = f"{config.bridge}-vx", ""
        if config.node_network == "wireguard":
            device, private = f"{config.bridge}-wg", await _show_key(config, node.client)
        me = Me(config.node_name, config.node_ip, cidrs, device, config.node_network, private)
        if config.load_balancer:
            group.create_task(Announcer(config, services, slices, nodes).run())
        if config.node_network != "none":
            group.create_task(Links(me, nodes, lambda wrong: troubles.put("links", wrong)).run())


def _troubles(node: NodeServices) -> Troubles:
    # An agent's events about its node bear the node's name for its uid, as the kubelet's do.
    name = node.config.node_name
    itself = {"kind": "Node", "apiVersion": "v1", "name": name, "uid": name}

    async def tell(reason: str, text: str) -> None:
        await node.recorder.event(itself, "Warning", reason, text)

    return Troubles(node.client, name, tell)


async def _show_key(config: AgentConfig, client: Client) -> str:
    """Tell the other nodes this node's public key. Return the private one."""
    private, public = await asyncio.to_thread(wireguard.key_pair, config.data_dir / "wireguard.key")
    patch = {"metadata": {"annotations": {wireguard.KEY_ANNOTATION: public}}}
    while True:
        try:
            await client.patch(NODES, config.node_name, patch)
        except (APIError, ConnectionFailed) as error:
            log.info("the node's key was not told yet: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return private


async def pod_cidr(config: AgentConfig, nodes: Informer[Node], runtime: Runtime) -> str:
    """Return the ranges of this node's pods: those given at the start, else those the cluster gives the node."""
    if config.pod_cidr:
        return config.pod_cidr
    given = asyncio.Event()

    def look(_: Node | None, new: Node | None) -> None:
        if new is not None and new.metadata.name == config.node_name and new.pod_cidrs:
            given.set()

    nodes.add_handler(look)
    await given.wait()
    node = nodes.get(ObjectKey("", config.node_name))
    found = ",".join(node.pod_cidrs) if node is not None else ""
    log.info("this node's pods are given addresses of %s", found)
    while True:
        try:
            await runtime.set_pod_cidr(found)
        except RuntimeFailure as error:
            log.warning("the runtime was not told the pods' range: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return found
