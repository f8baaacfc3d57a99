"""Endpoints written by hand, mirrored into EndpointSlices, on a real API server."""

from typing import Any

import pytest

from machinery.api.resources import ENDPOINT_SLICES, ENDPOINTS, EVENTS, SERVICES
from machinery.client.rest import Client
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"


def endpoints(*addresses: str, away: tuple[str, ...] = (), port: int = 80, **metadata: Any) -> dict[str, Any]:
    subset: dict[str, Any] = {"ports": [{"name": "http", "port": port, "protocol": "TCP"}]}
    subset |= {"addresses": [{"ip": ip} for ip in addresses]} if addresses else {}
    subset |= {"notReadyAddresses": [{"ip": ip} for ip in away]} if away else {}
    return {"metadata": {"name": "out", **metadata}, "subsets": [subset]}


def mirrors(slices: list[dict[str, Any]]) -> dict[str, bool]:
    return {
        endpoint["addresses"][0]: endpoint["conditions"]["ready"]
        for found in slices
        if found["metadata"]["labels"].get(MANAGED_BY) == "endpointslicemirroring-controller.k8s.io"
        for endpoint in found["endpoints"] or ()
    }


async def make_service(client: Client, **spec: Any) -> None:
    body = {"metadata": {"name": "out"}, "spec": {"ports": [{"name": "http", "port": 80}], **spec}}
    await client.create(SERVICES, body, "default")


async def test_a_mirror_follows_its_endpoints(client: Client) -> None:
    await make_service(client)
    metadata = {"labels": {"team": "a"}, "annotations": {"note": "x", "endpoints.kubernetes.io/x": "y"}}
    await client.create(ENDPOINTS, endpoints("10.1.2.3", away=("10.1.2.4",), **metadata), "default")
    slices = await until(
        client, ENDPOINT_SLICES, lambda s: mirrors(s) == {"10.1.2.3": True, "10.1.2.4": False}, namespace="default"
    )
    [mirror] = [found for found in slices if mirrors([found])]
    assert mirror["metadata"]["labels"]["kubernetes.io/service-name"] == "out"
    assert mirror["metadata"]["labels"]["team"] == "a"
    assert mirror["metadata"]["annotations"]["note"] == "x"
    assert mirror["metadata"]["ownerReferences"][0]["kind"] == "Endpoints"
    assert [(port["name"], port["port"]) for port in mirror["ports"]] == [("http", 80)]
    await client.patch(ENDPOINTS, "out", endpoints("10.2.3.4", "fd00::1", port=8080), "default")
    slices = await until(
        client, ENDPOINT_SLICES, lambda s: mirrors(s) == {"10.2.3.4": True, "fd00::1": True}, namespace="default"
    )
    assert {found["addressType"] for found in slices if mirrors([found])} == {"IPv4", "IPv6"}
    assert {port["port"] for found in slices if mirrors([found]) for port in found["ports"]} == {8080}
    await client.delete(ENDPOINTS, "out", "default")
    await until(client, ENDPOINT_SLICES, lambda s: not mirrors(s), namespace="default")


async def test_what_asks_not_to_be_is_not_mirrored_any_more(client: Client) -> None:
    await make_service(client)
    await client.create(ENDPOINTS, endpoints("10.1.2.3"), "default")
    await until(client, ENDPOINT_SLICES, lambda s: mirrors(s) == {"10.1.2.3": True}, namespace="default")
    skip = {"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}
    await client.patch(ENDPOINTS, "out", skip, "default")
    await until(client, ENDPOINT_SLICES, lambda s: not mirrors(s), namespace="default")


async def test_what_is_not_mirrored_is_told(client: Client) -> None:
    addresses = [{"ip": f"10.{number // 256}.{number % 256}.1"} for number in range(1003)]
    await client.create(SERVICES, {"metadata": {"name": "many"}, "spec": {"ports": [{"port": 80}]}}, "default")
    subsets = [{"addresses": addresses, "ports": [{"port": 80}]}]
    await client.create(ENDPOINTS, {"metadata": {"name": "many"}, "subsets": subsets}, "default")
    why = "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 3 addresses were skipped"
    await until(
        client, EVENTS,
        lambda events: ("TooManyAddressesToMirror", why) in {(one["reason"], one["message"]) for one in events},
        namespace="default",
    )  # fmt: skip
