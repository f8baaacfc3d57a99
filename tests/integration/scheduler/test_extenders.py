"""A scheduler that asks another process which nodes suit, and has it bind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from machinery.api.resources import PODS, PRIORITY_CLASSES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from scheduler.config import from_object
from tests.integration.scheduler.conftest import make_node, make_pod, placed, scheduling
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def extender(client: Client, asked: list[tuple[str, Any]]) -> AsyncIterator[str]:
    """Serve one that takes no node named "never", likes "liked" best, and binds; yields its address."""

    async def answer(request: web.Request) -> web.Response:
        verb, given = request.match_info["verb"], await request.json()
        asked.append((verb, given))
        if verb == "preempt":
            kept = {name: one for name, one in given["nodeNameToMetaVictims"].items() if name != "spared"}
            return web.json_response({"nodeNameToMetaVictims": kept})
        if verb == "filter":
            names = [name for name in given["nodenames"] if name != "never"]
            return web.json_response({"nodenames": names, "failedNodes": {"never": "never is never taken"}})
        if verb == "prioritize":
            return web.json_response([{"host": "liked", "score": 10}])
        binding = {
            "metadata": {"name": given["podName"], "uid": given["podUID"]}, "target": {"kind": "Node", "name": given["node"]}
        }  # fmt: skip
        await client.create(PODS, binding, given["podNamespace"], subresource="binding", name=given["podName"])
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/scheduler/{verb}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/scheduler"
    finally:
        await runner.cleanup()


async def make_priorities(client: Client) -> None:
    for name, value in (("some", 5), ("more", 10)):
        await client.create(PRIORITY_CLASSES, {"metadata": {"name": name}, "value": value})


async def test_an_extender_filters_scores_and_binds(config: ClientConfig, client: Client) -> None:
    asked: list[tuple[str, Any]] = []
    async with extender(client, asked) as url:
        one = {
            "urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "prioritize", "bindVerb": "bind", "weight": 5,
            "nodeCacheCapable": True,
        }  # fmt: skip
        async with scheduling(config, settings=from_object({"extenders": [one]})):
            await make_node(client, "never", cpu="1")
            await make_pod(client, "p", cpu="1")
            text = "0/1 nodes are available: 1 never is never taken."
            await until_one(client, PODS, "p", lambda pod: text in str(pod["status"]), namespace="default")
            await make_node(client, "plain", cpu="9")
            await make_node(client, "liked", cpu="1")
            await until(client, PODS, placed)
            await make_pod(client, "q", cpu="1")
            await until(client, PODS, lambda pods: len(placed(pods)) == 2)
    assert {"filter", "prioritize", "bind"} <= {verb for verb, _ in asked}
    assert asked[0][1]["pod"]["metadata"]["name"] == "p"


async def test_an_extender_has_a_say_in_who_is_preempted(config: ClientConfig, client: Client) -> None:
    asked: list[tuple[str, Any]] = []
    async with extender(client, asked) as url:
        one = {"urlPrefix": url, "filterVerb": "filter", "preemptVerb": "preempt", "nodeCacheCapable": True}
        async with scheduling(config, settings=from_object({"extenders": [one]})):
            await make_priorities(client)
            await make_node(client, "never", cpu="4")  # it is refused, which is no reason not to preempt elsewhere
            await make_node(client, "spared", cpu="1")
            await make_pod(client, "least", cpu="1")
            await until(client, PODS, placed)
            await make_node(client, "other", cpu="1")
            await make_pod(client, "less", cpu="1", priorityClassName="some")
            await until(client, PODS, lambda pods: len(placed(pods)) == 2)
            await make_pod(client, "more", cpu="1", priorityClassName="more")
            await until(client, PODS, lambda pods: placed(pods).get("more") == "other")
            assert placed((await client.list(PODS))["items"]) == {"least": "spared", "more": "other"}
    offered = next(given["nodeNameToMetaVictims"] for verb, given in asked if verb == "preempt")
    assert set(offered) == {"spared", "other"}
    assert [set(one) for one in offered["other"]["pods"]] == [{"uid"}]


async def test_where_an_extender_spares_all_there_is_no_preemption(config: ClientConfig, client: Client) -> None:
    asked: list[tuple[str, Any]] = []
    async with extender(client, asked) as url:
        one = {"urlPrefix": url, "preemptVerb": "preempt", "nodeCacheCapable": True}
        async with scheduling(config, settings=from_object({"extenders": [one]})):
            await make_priorities(client)
            await make_node(client, "spared", cpu="1")
            await make_pod(client, "least", cpu="1")
            await until(client, PODS, placed)
            await make_pod(client, "more", cpu="1", priorityClassName="more")
            text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: no candidate node for preemption"
            await until_one(client, PODS, "more", lambda pod: text in str(pod["status"]), namespace="default")
            assert placed((await client.list(PODS))["items"]) == {"least": "spared"}


async def test_a_pod_whose_nominated_node_is_refused_goes_elsewhere(config: ClientConfig, client: Client) -> None:
    async with extender(client, []) as url:
        one = {"urlPrefix": url, "filterVerb": "filter", "nodeCacheCapable": True}
        await make_node(client, "never")
        await make_node(client, "plain")
        await make_pod(client, "p", cpu="3")
        nomination = {"status": {"nominatedNodeName": "never"}}
        await client.patch(PODS, "p", nomination, "default", subresource="status")
        async with scheduling(config, settings=from_object({"extenders": [one]})):
            found = await until(client, PODS, placed)
    assert placed(found) == {"p": "plain"}


async def test_one_that_does_not_answer_matters_unless_it_is_ignorable(config: ClientConfig, client: Client) -> None:
    gone = {"urlPrefix": "http://127.0.0.1:9/x", "filterVerb": "filter", "ignorable": False}
    await make_node(client, "n")
    async with scheduling(config, settings=from_object({"extenders": [gone]})):
        await make_pod(client, "p")
        await until_one(client, PODS, "p", lambda pod: "extender http" in str(pod["status"]), namespace="default")
    ignorable = from_object({"extenders": [{**gone, "ignorable": True}]})
    async with scheduling(config, settings=ignorable):
        await until(client, PODS, placed)


async def test_only_pods_of_its_resources_are_shown_to_it(config: ClientConfig, client: Client) -> None:
    one = {
        "urlPrefix": "http://127.0.0.1:9/x", "filterVerb": "filter",
        "managedResources": [{"name": "example.com/gpu", "ignoredByScheduler": True}],
    }  # fmt: skip
    await make_node(client, "n")
    async with scheduling(config, settings=from_object({"extenders": [one]})):
        async with asyncio.timeout(10):
            await make_pod(client, "p")
            await until(client, PODS, placed)
