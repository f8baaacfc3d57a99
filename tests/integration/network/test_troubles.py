"""A node's network troubles, told by a condition of the Node on a real API server and by events."""

from pathlib import Path
from typing import Any

from agent.network.troubles import CONDITION, Troubles
from machinery.api.resources import NODES
from machinery.client.rest import Client
from tests.support.server import running_server


async def told(client: Client) -> tuple[str, str] | None:
    node: dict[str, Any] = await client.get(NODES, "n")
    found = [one for one in (node.get("status") or {}).get("conditions") or () if one["type"] == CONDITION]
    return (found[0]["status"], found[0]["reason"]) if found else None


async def test_what_is_wrong_is_a_condition_until_it_is_no_more(tmp_path: Path) -> None:
    events: list[str] = []

    async def tell(reason: str, _: str) -> None:
        events.append(reason)

    async with running_server(tmp_path) as (_, admin), Client(admin) as client:
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
        await client.create(NODES, {"metadata": {"name": "n"}})
        await client.patch(NODES, "n", {"status": {"conditions": [ready]}}, subresource="status")
        troubles = Troubles(client, "n", tell)
        await troubles.put("services", {})
        assert await told(client) is None
        await troubles.put("links", {"OverlappingPodCIDR": "a"})
        await troubles.put("machine", {"ForeignRulesDrop": "b"})
        await troubles.put("machine", {"ForeignRulesDrop": "b"})
        assert await told(client) == ("True", "ForeignRulesDrop")
        assert events == ["OverlappingPodCIDR", "ForeignRulesDrop"]
        after_restart = Troubles(client, "n", tell)
        await after_restart.put("links", {})
        assert await told(client) == ("False", "NoProblem")
        conditions = (await client.get(NODES, "n"))["status"]["conditions"]
        assert {one["type"] for one in conditions} == {CONDITION, "Ready"}
