"""Get, list and watch: selectors, pages, versions, tables, bookmarks.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

import asyncio
import gzip
import json
from typing import Any

import pytest

from apiserver.app import APIServer
from machinery import errors
from machinery.api.meta import Resource, now_micro
from machinery.api.resources import CONFIG_MAPS, LEASES, NODES, PODS
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import pod

TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


async def make_maps(client: Client, count: int) -> None:
    await asyncio.gather(
        *(
            client.create(CONFIG_MAPS, {"metadata": {"name": f"m{n:02}", "labels": {"odd": str(n % 2)}}}, "default")
            for n in range(count)
        )
    )


def names(listing: dict[str, Any]) -> list[str]:
    return [one["metadata"]["name"] for one in listing["items"]]


async def test_a_list_is_in_order_and_of_one_version(client: Client) -> None:
    await make_maps(client, 5)
    listing = await client.list(CONFIG_MAPS, "default")
    assert names(listing) == ["m00", "m01", "m02", "m03", "m04"]
    assert listing["kind"] == "ConfigMapList"
    assert int(listing["metadata"]["resourceVersion"]) >= max(
        int(one["metadata"]["resourceVersion"]) for one in listing["items"]
    )


@pytest.mark.parametrize(
    ("selector", "count"), [("odd=1", 2), ("odd!=1", 3), ("odd in (0,1)", 5), ("!odd", 0), ("odd,odd notin (0)", 2)]
)
async def test_label_selectors_choose(client: Client, selector: str, count: int) -> None:
    await make_maps(client, 5)
    assert len((await client.list(CONFIG_MAPS, "default", label_selector=selector))["items"]) == count


async def test_field_selectors_choose(client: Client) -> None:
    await client.create(PODS, pod("a", nodeName="n1"), "default")
    await client.create(PODS, pod("b"), "default")
    assert names(await client.list(PODS, field_selector="spec.nodeName=n1")) == ["a"]
    assert names(await client.list(PODS, field_selector="spec.nodeName!=n1,status.phase=Pending")) == ["b"]
    assert names(await client.list(PODS, field_selector="metadata.name=b")) == ["b"]


async def test_pages_are_stable_though_writes_go_on(client: Client) -> None:
    await make_maps(client, 5)
    path = CONFIG_MAPS.path("default")
    first = json.loads(await client.request("GET", path, params={"limit": "2"}))
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["m00", "m01"], 3)
    await client.delete(CONFIG_MAPS, "m03", "default")
    await client.create(CONFIG_MAPS, {"metadata": {"name": "m02b"}}, "default")
    token = first["metadata"]["continue"]
    rest = json.loads(await client.request("GET", path, params={"limit": "10", "continue": token}))
    assert names(rest) == ["m02", "m03", "m04"]
    assert "continue" not in rest["metadata"]


async def test_pages_of_a_selection_hold_only_what_is_selected(client: Client) -> None:
    await make_maps(client, 9)
    path = CONFIG_MAPS.path("default")
    found: list[str] = []
    token = ""
    while True:
        params = {"limit": "2", "labelSelector": "odd=1"} | ({"continue": token} if token else {})
        page = json.loads(await client.request("GET", path, params=params))
        found += names(page)
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert found == ["m01", "m03", "m05", "m07"]


async def test_an_exact_version_shows_the_past(client: Client) -> None:
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"n": "1"}}, "default")
    await client.patch(CONFIG_MAPS, "a", {"data": {"n": "2"}}, "default")
    params = {"resourceVersion": made["metadata"]["resourceVersion"], "resourceVersionMatch": "Exact"}
    past = json.loads(await client.request("GET", CONFIG_MAPS.path("default"), params=params))
    assert past["items"][0]["data"] == {"n": "1"}


async def test_a_read_shows_every_write_that_was_answered(client: Client) -> None:
    for number in range(30):
        await client.create(CONFIG_MAPS, {"metadata": {"name": f"m{number}"}}, "default")
        assert (await client.get(CONFIG_MAPS, f"m{number}", "default"))["metadata"]["name"] == f"m{number}"


async def watched(client: Client, count: int, **given: Any) -> list[tuple[str, str]]:
    found = []
    async with asyncio.timeout(5):
        async for event in client.watch(CONFIG_MAPS, "default", **given):
            if event.type != "BOOKMARK":
                found.append((event.type, event.decode()["metadata"]["name"]))
            if len(found) == count:
                return found
    raise AssertionError(f"the watch ended after {found}")


async def test_a_watch_tells_of_changes_after_its_version_once_and_in_order(client: Client) -> None:
    first = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    await client.patch(CONFIG_MAPS, "a", {"data": {"n": "1"}}, "default")
    await client.create(CONFIG_MAPS, {"metadata": {"name": "b"}}, "default")
    await client.delete(CONFIG_MAPS, "a", "default")
    events = await watched(client, 3, resource_version=first["metadata"]["resourceVersion"])
    assert events == [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")]


async def test_a_watch_without_version_begins_with_what_is_there(client: Client) -> None:
    await make_maps(client, 2)
    assert await watched(client, 2) == [("ADDED", "m00"), ("ADDED", "m01")]


async def test_an_object_that_begins_or_ceases_to_match_comes_or_goes(client: Client) -> None:
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": {"x": "y"}}}, "default")
    await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": None}}, "default")
    version = made["metadata"]["resourceVersion"]
    assert await watched(client, 2, resource_version=version, label_selector="x=y") == [
        ("ADDED", "a"),
        ("DELETED", "a"),
    ]


async def test_a_watch_from_too_long_ago_is_gone(client: Client, server: APIServer) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    server.cache.collection("configmaps")._forgotten = server.cache.revision  # as after many changes
    with pytest.raises(errors.Expired, match="too old resource version: 1"):
        await watched(client, 1, resource_version="1")


async def test_a_streaming_list_ends_its_first_part_with_a_marked_bookmark(client: Client) -> None:
    await make_maps(client, 2)
    params = {
        "watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true", "timeoutSeconds": "1",
    }  # fmt: skip
    body = await client.request("GET", CONFIG_MAPS.path("default"), params=params)
    events = [json.loads(line) for line in body.splitlines()]
    assert [event["type"] for event in events[:3]] == ["ADDED", "ADDED", "BOOKMARK"]
    assert events[2]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_watch_ends_after_its_time_with_a_bookmark(client: Client) -> None:
    params = {"watch": "true", "timeoutSeconds": "1", "allowWatchBookmarks": "true", "resourceVersion": "0"}
    body = await client.request("GET", NODES.path(), params=params)
    assert [json.loads(line)["type"] for line in body.splitlines()] == ["BOOKMARK"]


async def test_a_table_has_the_columns_kubectl_prints(client: Client) -> None:
    await client.create(PODS, pod("web"), "default")
    table = json.loads(await client.request("GET", PODS.path("default"), headers=TABLE))
    shown = [column["name"] for column in table["columnDefinitions"] if not column["priority"]]
    assert shown == ["Name", "Ready", "Status", "Restarts", "Age"]
    (row,) = table["rows"]
    assert row["cells"][:4] == ["web", "0/1", "Pending", "0"]
    assert row["object"]["kind"] == "PartialObjectMetadata"


async def test_metadata_alone_may_be_asked_for(client: Client) -> None:
    await client.create(PODS, pod("web"), "default")
    accept = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
    listing = json.loads(await client.request("GET", PODS.path("default"), headers=accept))
    assert listing["kind"] == "PartialObjectMetadataList"
    assert set(listing["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_a_form_nobody_has_is_not_acceptable(client: Client) -> None:
    with pytest.raises(errors.NotAcceptable):
        await client.request("GET", PODS.path("default"), headers={"Accept": "text/html"})


async def test_a_page_of_a_state_that_is_forgotten_can_be_followed_by_the_rest_as_it_is_now(
    client: Client, server: APIServer
) -> None:
    for number in range(6):
        await client.create(CONFIG_MAPS, {"metadata": {"name": f"c{number}"}}, "default")
    path = "/api/v1/namespaces/default/configmaps"
    first = json.loads(await client.request("GET", path, params={"limit": "2"}))
    await client.create(CONFIG_MAPS, {"metadata": {"name": "c7"}}, "default")
    await server.cache.store.compact(server.cache.revision)
    with pytest.raises(errors.Expired, match="The provided continue parameter is too old") as caught:
        await client.request("GET", path, params={"limit": "2", "continue": first["metadata"]["continue"]})
    assert isinstance(caught.value, errors.Expired)
    token = caught.value.continue_token
    rest = json.loads(await client.request("GET", path, params={"limit": "10", "continue": token}))
    seen = [item["metadata"]["name"] for item in [*first["items"], *rest["items"]]]
    assert [name for name in seen if name.startswith("c")] == ["c0", "c1", "c2", "c3", "c4", "c5", "c7"]
    assert int(rest["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])


async def test_long_answers_are_compressed_for_clients_that_say_so(client: Client) -> None:
    await asyncio.gather(
        *(
            client.create(CONFIG_MAPS, {"metadata": {"name": f"long-{n}"}, "data": {"k": "x" * 50_000}}, "default")
            for n in range(4)
        )
    )
    found = {}
    for limit in ("1", "0"):
        path = "/api/v1/namespaces/default/configmaps"
        plain = await client.request("GET", path, params={"limit": limit})
        async with client.stream("GET", path, params={"limit": limit}, headers={"Accept-Encoding": "gzip"}) as response:
            body = await response.read()
            found[limit] = response.headers.get("content-encoding")
        assert (gzip.decompress(body) if found[limit] else body) == plain
    assert found == {"1": None, "0": "gzip"}


async def test_a_selector_may_be_long(client: Client) -> None:
    names = ",".join(f"value-{number:04}" for number in range(2000))
    found = await client.request("GET", "/api/v1/pods", params={"labelSelector": f"app in ({names})"})
    assert json.loads(found)["items"] == []


async def test_components_are_well_while_their_leases_are_renewed(client: Client) -> None:
    components = Resource("", "v1", "componentstatuses", "ComponentStatus", namespaced=False)
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": now_micro()}
    await client.create(LEASES, {"metadata": {"name": "kube-scheduler"}, "spec": spec}, "kube-system")
    listed = await client.list(components)
    told = {one["metadata"]["name"]: one["conditions"][0] for one in listed["items"]}
    well = {"type": "Healthy", "status": "True", "message": "ok"}
    nobody = {"type": "Healthy", "status": "False", "error": "nobody holds its lease"}
    assert told == {"controller-manager": nobody, "etcd-0": well, "scheduler": well}
    spec["renewTime"] = "2020-01-01T00:00:00.000000Z"
    lease = await client.get(LEASES, "kube-scheduler", "kube-system")
    await client.update(LEASES, {**lease, "spec": spec})
    late = (await client.get(components, "scheduler"))["conditions"][0]
    assert late["error"] == "its lease was not renewed since 2020-01-01T00:00:00.000000Z"
    with pytest.raises(errors.NotFound):
        await client.get(components, "coffee")
    with pytest.raises(errors.MethodNotAllowed):
        await client.delete(components, "scheduler")


@pytest.mark.parametrize("query", [{}, {"watch": "1", "timeoutSeconds": "1"}])
async def test_who_uses_a_deprecated_kind_is_told(client: Client, query: dict[str, str]) -> None:
    async with client.stream("GET", "/api/v1/endpoints", params=query) as response:
        told = response.headers["warning"]
    assert told == '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'


async def test_answers_are_indented_for_those_who_read_them(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    path = "/api/v1/namespaces/default/configmaps/a"
    plain = await client.request("GET", path)
    assert b"\n" not in plain
    for params, headers in (({"pretty": "true"}, {}), ({}, {"User-Agent": "curl/8.0"})):
        shown = await client.request("GET", path, params=params, headers=headers)
        assert shown.startswith(b'{\n  "kind": "ConfigMap",\n')
        assert json.loads(shown) == json.loads(plain)
    assert await client.request("GET", path, params={"pretty": "0"}, headers={"User-Agent": "curl/8.0"}) == plain


AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


async def test_documents_are_sent_once_and_named_by_their_hash(client: Client) -> None:
    """As clients that cache them ask: by ETag, and /openapi/v3 by the hash in its links."""
    links = json.loads(await client.request("GET", "/openapi/v3"))["paths"]
    assert {"api/v1", "apis/apps/v1", "apis/batch/v1"} <= set(links)
    link = links["apis/apps/v1"]["serverRelativeURL"]
    assert link.startswith("/openapi/v3/apis/apps/v1?hash=")
    place, _, name = link.partition("?hash=")
    async with client.stream("GET", place, params={"hash": name}) as response:
        assert (response.status, response.headers["cache-control"]) == (200, "public, immutable")
    async with client.stream("GET", place, params={"hash": "OLD"}) as response:
        assert (response.status, response.headers["location"]) == (301, link)
    for path, accept in (
        (place, "application/json"),
        ("/openapi/v2", "application/json"),
        ("/apis", AGGREGATED),
        ("/api", AGGREGATED),
    ):
        headers = {"Accept": accept}
        async with client.stream("GET", path, headers=headers) as response:
            assert response.status == 200
            etag, body = response.headers["etag"], await response.read()
        async with client.stream("GET", path, headers={**headers, "If-None-Match": etag}) as response:
            assert (response.status, await response.read()) == (304, b"")
        if accept == AGGREGATED:
            versions = [one for group in json.loads(body)["items"] for one in group["versions"]]
            assert {one["freshness"] for one in versions} == {"Current"}
