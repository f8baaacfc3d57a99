"""Requests are classified, wait their turn, and are refused when there are too many.

https://kubernetes.io/docs/concepts/cluster-administration/flow-control/
"""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from apiserver.app import APIServer
from apiserver.auth.user import User
from apiserver.request import RequestInfo
from machinery import errors
from machinery.api.resources import FLOW_SCHEMAS, PRIORITY_LEVELS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.client.tls import ssl_context
from tests.support.server import client_config
from tests.support.waiting import until_one


async def headers(config: ClientConfig, path: str) -> tuple[str, str]:
    """Return the UIDs of the schema and the level that an answer names."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl_context(config))) as session,
        session.get(config.server + path) as answer,
    ):
        return answer.headers["X-Kubernetes-PF-FlowSchema-UID"], answer.headers["X-Kubernetes-PF-PriorityLevel-UID"]


async def names(client: Client, schema: str, level: str) -> tuple[str, str]:
    found = [await client.get(FLOW_SCHEMAS, schema), await client.get(PRIORITY_LEVELS, level)]
    return found[0]["metadata"]["uid"], found[1]["metadata"]["uid"]


async def make_level(client: Client, user: str, **limited: Any) -> None:
    limited = {
        "nominalConcurrencyShares": 1,
        "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
        **limited,
    }
    await client.create(PRIORITY_LEVELS, {"metadata": {"name": "own"}, "spec": {"type": "Limited", "limited": limited}})
    rule = {
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }
    spec = {"matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "own"}, "rules": [rule]}
    await client.create(FLOW_SCHEMAS, {"metadata": {"name": "own"}, "spec": spec})


async def test_answers_say_how_a_request_was_classified(
    client: Client, server: APIServer, config: ClientConfig, tmp_path: Path
) -> None:
    assert await headers(config, "/version") == await names(client, "exempt", "exempt")
    bob = client_config(tmp_path, server.config, user="bob", groups=())
    assert await headers(bob, "/version") == await names(client, "global-default", "global-default")
    assert await headers(bob, "/api/v1/pods") == await names(
        client, "global-default", "global-default"
    )  # refused, and told
    node = client_config(tmp_path, server.config, user="system:node:n", groups=("system:nodes",))
    assert await headers(node, "/api/v1/nodes/n") == await names(client, "system-node-high", "node-high")
    await make_level(client, "bob")
    assert await headers(bob, "/version") == await names(client, "own", "own")


async def test_too_many_are_refused_with_the_time_to_come_again(
    client: Client, server: APIServer, config: ClientConfig, tmp_path: Path
) -> None:
    await make_level(client, "bob", nominalConcurrencyShares=0)
    bob = client_config(tmp_path, server.config, user="bob", groups=())
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl_context(bob))) as session,
        session.get(config.server + "/version") as answer,
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        assert (await answer.json())["reason"] == "TooManyRequests"
    assert b'apiserver_flowcontrol_rejected_requests_total{priority_level="own"} 1.0' in await client.request(
        "GET", "/metrics"
    )


async def test_those_who_wait_are_served_in_the_end(client: Client, server: APIServer, tmp_path: Path) -> None:
    queuing = {"queues": 4, "handSize": 1, "queueLengthLimit": 100}
    await make_level(client, "bob", limitResponse={"type": "Queue", "queuing": queuing})
    # A change of schemas shares the seats out anew: that of the server's own condition must be over.
    await until_one(client, FLOW_SCHEMAS, "own", lambda one: (one.get("status") or {}).get("conditions"))
    async with Client(client_config(tmp_path, server.config, user="bob", groups=())) as bob:
        await bob.request("GET", "/version")
        level = server.flow.levels["own"]
        level.seats = 1
        assert level.take()
        waiting = [asyncio.create_task(bob.request("GET", "/version")) for _ in range(10)]
        async with asyncio.timeout(5):
            while level.waiting < 10:  # noqa: ASYNC110 - the server's own state, which nobody tells of
                await asyncio.sleep(0.01)
        level.release()
        assert all(b"gitVersion" in answer for answer in await asyncio.gather(*waiting))
        assert (level.in_use, level.waiting) == (0, 0)


async def test_a_level_borrows_what_others_lend(client: Client, server: APIServer) -> None:
    await make_level(client, "bob", nominalConcurrencyShares=0, borrowingLimitPercent=None)
    server.flow.classify(User("bob", ()), RequestInfo("get", "/version"))
    level = server.flow.levels["own"]
    lent = sum(one.lendable for one in server.flow.levels.values())
    assert level.seats == 0
    assert sum(level.take() for _ in range(1000)) == lent > 0


async def test_a_schema_without_its_level_says_so(client: Client) -> None:
    spec = {"matchingPrecedence": 60, "priorityLevelConfiguration": {"name": "none"}, "rules": []}
    await client.create(FLOW_SCHEMAS, {"metadata": {"name": "lost"}, "spec": spec})

    def dangling(status: str) -> Any:
        return lambda one: any(c["status"] == status for c in (one.get("status") or {}).get("conditions") or ())

    found = await until_one(client, FLOW_SCHEMAS, "lost", dangling("True"))
    assert found["status"]["conditions"][0]["reason"] == "NotFound"
    await client.create(PRIORITY_LEVELS, {"metadata": {"name": "none"}, "spec": {"type": "Exempt"}})
    await until_one(client, FLOW_SCHEMAS, "lost", dangling("False"))


async def test_what_must_be_there_comes_with_the_cluster(client: Client) -> None:
    levels = {one["metadata"]["name"] for one in (await client.list(PRIORITY_LEVELS))["items"]}
    assert {
        "exempt",
        "catch-all",
        "system",
        "node-high",
        "leader-election",
        "workload-high",
        "workload-low",
        "global-default",
    } <= levels
    with pytest.raises(errors.Invalid):
        await client.create(PRIORITY_LEVELS, {"metadata": {"name": "x"}, "spec": {"type": "Other"}})
