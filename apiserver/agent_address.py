"""Where the agent of a node is reached."""

from collections.abc import Mapping
from typing import Any

from machinery import errors

_AGENT_PORT = 10250


def agent_address(node: Mapping[str, Any]) -> tuple[str, int]:
    """Return the host and port of a node's agent, as its status tells them.

    Raises: InternalError for a node that tells no internal address.
    """
    status = node.get("status") or {}
    known = status.get("addresses") or ()
    host = next((one["address"] for one in known if one["type"] == "InternalIP"), "")
    if not host:
        told = " ".join(f"{{{one['type']} {one['address']}}}" for one in known)
        raise errors.InternalError(f"no preferred addresses found; known addresses: [{told}]")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or _AGENT_PORT
    return host, int(port)


def agent_authority(node: Mapping[str, Any]) -> str:
    """Return the same as it stands in a URL. Raises: InternalError."""
    host, port = agent_address(node)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
