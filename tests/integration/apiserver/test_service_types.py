"""Services that change their type, and what they hold meanwhile, as the upstream tests of test/e2e/network/service.go ask.

Behaviour: https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types
"""

from typing import Any

import pytest

from machinery import errors
from machinery.api.resources import SERVICES
from machinery.client.rest import Client

PORT = {"name": "http", "port": 80, "protocol": "TCP"}


async def make(client: Client, name: str, **spec: Any) -> dict[str, Any]:
    given = {"ports": [dict(PORT)], **spec}
    found = await client.create(SERVICES, {"metadata": {"name": name}, "spec": given}, "default")
    return dict(found["spec"])


async def change(client: Client, name: str, **spec: Any) -> dict[str, Any]:
    return dict((await client.patch(SERVICES, name, {"spec": spec}, "default"))["spec"])


async def test_a_service_gives_up_what_its_new_type_does_not_have(client: Client) -> None:
    spec = await make(client, "s", type="NodePort")
    number, address = spec["ports"][0]["nodePort"], spec["clusterIP"]
    assert spec["externalTrafficPolicy"] == "Cluster"
    spec = await change(client, "s", type="ExternalName", externalName="foo.example.com")
    assert "clusterIP" not in spec
    assert "externalTrafficPolicy" not in spec
    assert "nodePort" not in spec["ports"][0]
    # Another may have them at once.
    other = await make(client, "t", type="NodePort", clusterIP=address, ports=[{**PORT, "nodePort": number}])
    assert (other["clusterIP"], other["ports"][0]["nodePort"]) == (address, number)
    spec = await change(client, "s", type="NodePort", externalName=None)
    assert spec["clusterIP"] != address
    assert spec["ports"][0]["nodePort"] != number


async def test_a_node_port_is_kept_over_updates_and_freed_by_a_change_of_type(client: Client) -> None:
    number = (await make(client, "s", type="NodePort"))["ports"][0]["nodePort"]
    spec = await change(client, "s", ports=[{**PORT, "targetPort": 8080}])
    assert spec["ports"][0]["nodePort"] == number
    with pytest.raises(errors.Invalid, match="provided port is already allocated"):
        await make(client, "t", type="NodePort", ports=[{**PORT, "nodePort": number}])
    await change(client, "s", type="ClusterIP")
    assert (await make(client, "t", type="NodePort", ports=[{**PORT, "nodePort": number}]))["type"] == "NodePort"


async def test_protocols_of_one_service_may_share_a_node_port(client: Client) -> None:
    number = (await make(client, "probe", type="NodePort"))["ports"][0]["nodePort"]
    await client.delete(SERVICES, "probe", "default")
    ports = [{**PORT, "nodePort": number}, {**PORT, "name": "udp", "protocol": "UDP", "nodePort": number}]
    spec = await make(client, "s", type="NodePort", ports=ports)
    assert [port["nodePort"] for port in spec["ports"]] == [number, number]
    spec = await change(client, "s", selector={"app": "x"})
    assert [port["nodePort"] for port in spec["ports"]] == [number, number]


async def test_affinity_that_is_switched_off_leaves_no_settings(client: Client) -> None:
    spec = await make(client, "s", sessionAffinity="ClientIP")
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert "sessionAffinityConfig" not in await change(client, "s", sessionAffinity="None")


async def test_load_balancers_whose_traffic_stays_have_a_port_for_health_checks(client: Client) -> None:
    spec = await make(client, "s", type="LoadBalancer", externalTrafficPolicy="Local")
    number = spec["healthCheckNodePort"]
    assert number in range(30000, 32768)
    assert (await change(client, "s", selector={"app": "x"}))["healthCheckNodePort"] == number
    assert "healthCheckNodePort" not in await change(client, "s", externalTrafficPolicy="Cluster")
    assert (await make(client, "t", type="NodePort", ports=[{**PORT, "nodePort": number}]))["type"] == "NodePort"
