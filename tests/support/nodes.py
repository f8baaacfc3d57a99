"""Nodes for tests of what stands above them, where no node controller looks at their conditions."""

from typing import Any

from machinery.api.resources import NODES
from machinery.client.rest import Client


async def create_node(client: Client, node: dict[str, Any]) -> dict[str, Any]:
    """Create a node that takes pods at once: the taint that every new node is given is taken off again."""
    made = await client.create(NODES, node)
    taints = (node.get("spec") or {}).get("taints") or None
    return await client.patch(NODES, made["metadata"]["name"], {"spec": {"taints": taints}})
