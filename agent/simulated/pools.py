"""Simulated nodes that somebody else asks for: whoever writes a Node with the label gets one that lives.

Kept apart from nodes.py, where how many there are is said at the start.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from agent.objects import ObjectSource
from agent.pod_manager import PodManager
from agent.simulated.nodes import SimulatedNode, Simulation, dispatch
from machinery.api.resources import NODES, PODS
from machinery.client.informer import Informer
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

log = logging.getLogger(__name__)
LABEL, CAPACITY = "wherry.dev/node-pool", "wherry.dev/simulated-capacity"
"""What operators/nodepool puts on its nodes: the pool's name; as an annotation, JSON of what the node has."""
Object = dict[str, Any]


async def run_pool_nodes(config: ClientConfig, simulation: Simulation) -> None:
    """Be the nodes of pools, as many as there are at any time, until cancelled."""
    async with Client(config, user_agent="wherry-simulated-nodes") as client:
        objects = ObjectSource(client, lambda _: None)
        nodes: Informer[Object] = Informer(client, NODES, dict, label_selector=LABEL)
        pods: Informer[Object] = Informer(client, PODS, dict)
        try:
            async with asyncio.TaskGroup() as group:
                fleet = _Fleet(config, client, objects, simulation, group, pods)
                nodes.add_handler(fleet.on_node)
                pods.add_handler(lambda old, new: dispatch(fleet.managers, old, new))
                group.create_task(nodes.run())
                group.create_task(pods.run())
        finally:
            await objects.close()


class _Fleet:
    """The nodes that are lived at present."""

    def __init__(
        self, config: ClientConfig, client: Client, objects: ObjectSource, simulation: Simulation,
        group: asyncio.TaskGroup, pods: Informer[Object],
    ) -> None:  # fmt: skip
        self.managers: dict[str, PodManager] = {}
        self._parts = (config, client, objects)
        self._simulation, self._group, self._pods = simulation, group, pods
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = 0

    def on_node(self, old: Object | None, new: Object | None) -> None:
        """Begin a node that is new, end one that is gone."""
        meta = (new or old or {})["metadata"]
        name = meta["name"]
        if new is None:
            if (task := self._tasks.pop(name, None)) is not None:
                self.managers.pop(name, None)
                task.cancel()
        elif name not in self._tasks:
            self._tasks[name] = self._group.create_task(self._live(name, meta.get("annotations") or {}))

    async def _live(self, name: str, annotations: Mapping[str, str]) -> None:
        self._numbers += 1
        simulation = _sized(self._simulation, annotations.get(CAPACITY, ""))
        node = SimulatedNode(*self._parts, simulation, self._numbers, name=name, registers=False)
        self.managers[name] = node.pods
        try:
            for pod in self._pods.list():  # those that came before their node did
                dispatch({name: node.pods}, None, pod)
            async with asyncio.TaskGroup() as group:
                group.create_task(node.reporter.run())
                group.create_task(node.pods.follow_runtime())
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await node.close()


def _sized(simulation: Simulation, text: str) -> Simulation:
    """Return what a node is like with what its annotation says it has; what can't be read counts as nothing said."""
    from dataclasses import replace

    try:
        asked = {str(name): str(value) for name, value in json.loads(text or "{}").items()}
        int(asked.get("pods", "0"))
    except (ValueError, AttributeError):
        log.warning("a node's annotation %s can't be read: %s", CAPACITY, text)
        return simulation
    return replace(simulation, resources={**simulation.resources, **asked})
