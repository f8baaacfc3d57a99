"""Endpoints and EndpointSlices of Services, on a real API server."""

import asyncio
from typing import Any

import pytest

from machinery.api.meta import ObjectKey
from machinery.api.resources import ENDPOINT_SLICES, ENDPOINTS, EVENTS, NODES, PODS, SERVICES
from machinery.client.rest import Client
from tests.support.agent import set_running
from tests.support.waiting import until, until_gone, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers", "account")]

LABELS = {"app": "web"}
SERVICE_LABEL = "kubernetes.io/service-name"


@pytest.fixture
async def account(client: Client, controllers: None) -> None:
    """Pods can be made once their service account is there."""
    from machinery.api.resources import SERVICE_ACCOUNTS

    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
    await client.create(NODES, {"metadata": {"name": "n1"}})


async def make_service(client: Client, *, name: str = "web", **spec: Any) -> dict[str, Any]:
    full = {"selector": LABELS, "ports": [{"name": "http", "port": 80, "targetPort": "web"}], **spec}
    return await client.create(SERVICES, {"metadata": {"name": name}, "spec": full}, "default")


async def make_pod(
    client: Client, name: str, ip: str, *, ready: bool = True, port: int = 8080, node: str = "n1"
) -> None:  # fmt: skip
    container = {"name": "m", "image": "i", "ports": [{"name": "web", "containerPort": port}]}
    pod = {"metadata": {"name": name, "labels": LABELS}, "spec": {"containers": [container], "nodeName": node}}
    await client.create(PODS, pod, "default")
    await set_running(client, ObjectKey("default", name), ready=ready, ip=ip)


def addresses(slices: list[dict[str, Any]], condition: str = "ready") -> set[str]:
    return {
        endpoint["addresses"][0]
        for found in slices
        if found["metadata"]["labels"].get(SERVICE_LABEL) == "web"
        for endpoint in found["endpoints"] or ()
        if endpoint["conditions"].get(condition)
    }


async def test_ready_pods_are_listed_with_their_named_ports(client: Client) -> None:
    await make_service(client)
    await make_pod(client, "a", "10.0.0.1")
    await make_pod(client, "b", "10.0.0.2", ready=False)
    await make_pod(client, "c", "10.0.0.3", port=9090)
    slices = await until(
        client, ENDPOINT_SLICES, lambda s: addresses(s) == {"10.0.0.1", "10.0.0.3"}, namespace="default"
    )
    slices = [found for found in slices if found["metadata"]["labels"].get(SERVICE_LABEL) == "web"]
    assert {port["port"] for found in slices for port in found["ports"]} == {8080, 9090}
    assert {found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] for found in slices} == {
        "endpointslice-controller.k8s.io"
    }
    endpoint = next(e for found in slices for e in found["endpoints"] if e["addresses"] == ["10.0.0.1"])
    assert endpoint["nodeName"] == "n1"
    assert endpoint["targetRef"]["name"] == "a"
    old = await until_one(
        client,
        ENDPOINTS,
        "web",
        lambda obj: sum(len(subset.get("addresses", ())) for subset in obj.get("subsets", ())) == 2,
        namespace="default",
    )
    first = next(subset for subset in old["subsets"] if subset["ports"][0]["port"] == 8080)
    assert [address["ip"] for address in first["addresses"]] == ["10.0.0.1"]
    assert [address["ip"] for address in first["notReadyAddresses"]] == ["10.0.0.2"]
    assert first["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]


async def test_a_pod_on_its_way_out_serves_but_is_not_ready(client: Client) -> None:
    await make_service(client)
    await make_pod(client, "a", "10.0.0.1")
    await until(client, ENDPOINT_SLICES, lambda slices: addresses(slices) == {"10.0.0.1"}, namespace="default")
    await client.delete(PODS, "a", "default")
    slices = await until(client, ENDPOINT_SLICES, lambda slices: addresses(slices, "terminating"), namespace="default")
    assert addresses(slices) == set()
    assert addresses(slices, "serving") == {"10.0.0.1"}
    await client.delete(PODS, "a", "default", options={"gracePeriodSeconds": 0})
    await until(client, ENDPOINT_SLICES, lambda slices: not addresses(slices, "terminating"), namespace="default")


async def test_a_service_without_pods_has_one_empty_slice_and_loses_it_with_its_life(client: Client) -> None:
    await make_service(client)

    def of_web(slices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [found for found in slices if found["metadata"]["labels"].get(SERVICE_LABEL) == "web"]

    slices = await until(client, ENDPOINT_SLICES, lambda slices: len(of_web(slices)) == 1, namespace="default")
    assert of_web(slices)[0]["endpoints"] in ([], None)
    await until_one(client, ENDPOINTS, "web", lambda _: True, namespace="default")
    await client.delete(SERVICES, "web", "default")
    await until_gone(client, ENDPOINTS, "web", namespace="default")
    await until(client, ENDPOINT_SLICES, lambda slices: not of_web(slices), namespace="default")


async def test_a_headless_service_may_publish_pods_that_are_not_ready(client: Client) -> None:
    await make_service(client, clusterIP="None", ports=[], publishNotReadyAddresses=True)
    await make_pod(client, "a", "10.0.0.1", ready=False)
    slices = await until(client, ENDPOINT_SLICES, lambda slices: addresses(slices) == {"10.0.0.1"}, namespace="default")
    found = next(one for one in slices if one["metadata"]["labels"].get(SERVICE_LABEL) == "web")
    assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


async def test_endpoints_written_by_hand_are_left_alone(client: Client) -> None:
    await make_service(client, selector=None)
    subsets = [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]
    await client.create(ENDPOINTS, {"metadata": {"name": "web"}, "subsets": subsets}, "default")
    await make_service(client, name="other")
    await until_one(client, ENDPOINTS, "other", lambda _: True, namespace="default")
    found = await client.get(ENDPOINTS, "web", "default")
    assert found["subsets"][0]["addresses"] == [{"ip": "192.0.2.1"}]


async def test_many_pods_are_spread_over_slices_of_a_hundred(client: Client) -> None:
    await make_service(client)
    await asyncio.gather(*(make_pod(client, f"p{at}", f"10.0.1.{at}") for at in range(105)))
    slices = await until(client, ENDPOINT_SLICES, lambda slices: len(addresses(slices)) == 105, namespace="default")
    sizes = [len(s["endpoints"]) for s in slices if s["metadata"]["labels"].get(SERVICE_LABEL) == "web"]
    assert sum(sizes) == 105, "no endpoint stands in two slices"
    assert max(sizes) <= 100


async def make_zone_node(client: Client, name: str, zone: str, cpu: str) -> None:
    await client.create(NODES, {"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}})
    status = {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch(NODES, name, {"status": status}, subresource="status")


def hints(slices: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["addresses"][0]: one.get("hints") for found in slices for one in found["endpoints"] or ()}


async def test_a_pod_whose_node_is_gone_is_not_listed(client: Client) -> None:
    await make_service(client)
    await make_pod(client, "a", "10.0.0.1")
    await make_pod(client, "b", "10.0.0.2", node="later")
    await until(client, ENDPOINT_SLICES, lambda slices: addresses(slices) == {"10.0.0.1"}, namespace="default")
    await client.create(NODES, {"metadata": {"name": "later"}})
    both = {"10.0.0.1", "10.0.0.2"}
    await until(client, ENDPOINT_SLICES, lambda slices: addresses(slices) == both, namespace="default")
    await client.delete(NODES, "n1")
    await until(client, ENDPOINT_SLICES, lambda slices: addresses(slices) == {"10.0.0.2"}, namespace="default")


async def test_what_is_near_is_told_as_the_service_prefers(client: Client) -> None:
    await make_zone_node(client, "n2", "east", "2")
    await make_pod(client, "a", "10.0.0.1", node="n2")
    zone, node = {"forZones": [{"name": "east"}]}, {"forNodes": [{"name": "n2"}]}
    await make_service(client, trafficDistribution="PreferClose")
    for preference, wanted in (("PreferClose", zone), ("PreferSameNode", {**zone, **node}), ("PreferSameZone", zone),
                               (None, None)):  # fmt: skip
        await client.patch(SERVICES, "web", {"spec": {"trafficDistribution": preference}}, "default")
        await until(
            client, ENDPOINT_SLICES, lambda slices, wanted=wanted: hints(slices) == {"10.0.0.1": wanted},
            namespace="default", label_selector=f"{SERVICE_LABEL}=web",
        )  # fmt: skip


async def test_endpoints_are_shared_out_among_zones_by_their_size_while_that_is_fair(client: Client) -> None:
    await make_zone_node(client, "e1", "east", "3")
    await make_zone_node(client, "w1", "west", "1")
    mode = {"service.kubernetes.io/topology-mode": "Auto"}
    spec = {"selector": LABELS, "ports": [{"port": 80}]}
    await client.create(SERVICES, {"metadata": {"name": "web", "annotations": mode}, "spec": spec}, "default")
    for number in range(4):
        await make_pod(client, f"p{number}", f"10.0.0.{number}", node="w1" if number > 1 else "e1")

    def zones(*wanted: str) -> Any:
        def met(slices: list[dict[str, Any]]) -> bool:
            found = [one["forZones"][0]["name"] if one else "" for one in hints(slices).values()]
            return sorted(found) == sorted(wanted)

        return met

    ours = f"{SERVICE_LABEL}=web"
    await until(
        client, ENDPOINT_SLICES, zones("east", "east", "east", "west"), namespace="default", label_selector=ours
    )
    await client.patch(NODES, "w1", {"metadata": {"labels": {"topology.kubernetes.io/zone": None}}})
    await until(client, ENDPOINT_SLICES, zones("", "", "", ""), namespace="default", label_selector=ours)
    await until(client, EVENTS, _told("TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled"))
    why = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
    await until(client, EVENTS, _told("TopologyAwareHintsDisabled", why))


def _told(reason: str, text: str) -> Any:
    wanted = reason, f"{text}, addressType: IPv4"
    return lambda events: wanted in {(event["reason"], event["message"]) for event in events}
