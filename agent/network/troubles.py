"""What is wrong with this node's network, told as the Node's condition NetworkProblem and, when new, by an event.

Parts of the network say what is wrong with them (`put`); what others did to this machine is looked at now and then
(`foreign`, pure). A node without troubles has no such condition until it has had one.
"""

import asyncio
import ipaddress
import json
import logging
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from machinery.api.meta import now
from machinery.api.resources import NODES
from machinery.client.rest import Client, ConnectionFailed, PatchType
from machinery.errors import APIError

log = logging.getLogger(__name__)

CONDITION = "NetworkProblem"
_LOOK_SECONDS = 30.0
Object = dict[str, Any]
Tell = Callable[[str, str], Awaitable[None]]


class Troubles:
    """All that is wrong at present, by who says so; each reason has a message."""

    def __init__(self, client: Client, node: str, tell: Tell) -> None:
        """Args: `tell` writes reason and message as an event about this node."""
        self._client, self._node, self._tell = client, node, tell
        self._wrong: dict[str, dict[str, str]] = {}
        self._shown: dict[str, str] | None = None  # None: an agent before us may have told of something

    async def put(self, source: str, wrong: Mapping[str, str]) -> None:
        """Take what a part of the network says is wrong with it now; nothing when it is fine."""
        before = self._wrong.get(source, {})
        self._wrong[source] = dict(wrong)
        for reason, text in wrong.items():
            if before.get(reason) != text:
                log.error("%s", text)
                await self._tell(reason, text)
        await self._show()

    async def _show(self) -> None:
        every = {reason: text for wrong in self._wrong.values() for reason, text in wrong.items()}
        if every == self._shown:
            return
        try:
            if every or self._shown or await self._was_told():
                await self._write(every)
        except (APIError, ConnectionFailed) as error:
            log.info("the node's condition %s was not written: %s", CONDITION, error)
        else:
            self._shown = every

    async def _was_told(self) -> bool:
        if self._shown is not None:
            return False
        conditions = ((await self._client.get(NODES, self._node)).get("status") or {}).get("conditions") or ()
        return any(one["type"] == CONDITION and one["status"] == "True" for one in conditions)

    async def _write(self, every: Mapping[str, str]) -> None:
        reason = next(iter(sorted(every)), "NoProblem")
        message = "; ".join(every[one] for one in sorted(every)) or "nothing is known to be wrong with the network"
        stamp, status = now(), str(bool(every))
        condition = {
            "type": CONDITION, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": stamp,
            **({"lastTransitionTime": stamp} if bool(every) != bool(self._shown) else {}),
        }  # fmt: skip
        body = {"status": {"conditions": [condition]}}
        await self._client.patch(NODES, self._node, body, type=PatchType.STRATEGIC, subresource="status")

    async def watch_machine(self, bridge: str, ranges: Sequence[str]) -> None:
        """Look at what others do to this machine, until cancelled.

        Args: `ranges` are those of this node's pods and of services.
        """
        while True:
            routes, chains = await asyncio.to_thread(_look)
            await self.put("machine", foreign(routes, chains, bridge, ranges))
            await asyncio.sleep(_LOOK_SECONDS)


def _look() -> tuple[list[Object], list[Object]]:
    """Return this machine's routes and nftables' base chains, as `ip -j` and `nft -j` tell them."""
    routes: list[Object] = []
    for version in ("-4", "-6"):
        routes += json.loads(_output("ip", "-j", version, "route", "show") or "[]")
    told = json.loads(_output("nft", "-j", "list", "chains") or '{"nftables": []}')
    return routes, [one["chain"] for one in told["nftables"] if "chain" in one]


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # it is not installed
        return ""


def foreign(
    routes: Sequence[Mapping[str, Any]], chains: Sequence[Mapping[str, Any]], bridge: str, ranges: Sequence[str]
) -> dict[str, str]:
    """Return what of others is in our way, reason to message.

    A route takes our addresses only if it is as narrow as our range, or narrower: the narrowest wins.
    """
    found: dict[str, str] = {}
    ours = [ipaddress.ip_network(part, strict=False) for part in ranges]
    for route in routes:
        device = str(route.get("dev") or "")
        if device == "lo" or device.startswith(bridge) or route.get("dst") in (None, "default"):
            continue
        there = ipaddress.ip_network(route["dst"], strict=False)
        taken = next((one for one in ours if _within(there, one)), None)
        if taken is not None:
            found["AddressRangeInUse"] = f"the route to {there} by {device} takes addresses of this cluster's {taken}"
    for chain in chains:
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["table"] != bridge:
            name = f"{chain['family']} {chain['table']} {chain['name']}"
            text = f"the chain {name} drops what it does not know on its way to and from pods; let it accept {bridge}"
            found["ForeignRulesDrop"] = text
    return found


def _within(one: Any, other: Any) -> bool:
    return bool(one.version == other.version) and one.subnet_of(other)
