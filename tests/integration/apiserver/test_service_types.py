"""Services that change their type, and what they hold meanwhile, as the upstream tests of test/e2e/network/service.go ask.

Behaviour: https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apiserver.app import serving
from apiserver.storage.sqlite import SQLiteStore
from machinery import errors
from machinery.api.resources import SERVICE_CIDRS, SERVICES
from machinery.client.rest import Client
from tests.support.server import client_config, server_config

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


async def test_what_load_balancers_alone_have_goes_with_the_type_unless_it_is_set_anew(client: Client) -> None:
    await make(client, "was-lb", type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerClass="example.com/a")
    spec = await change(client, "was-lb", type="ClusterIP")
    gone = {"externalTrafficPolicy", "healthCheckNodePort", "loadBalancerClass", "allocateLoadBalancerNodePorts"}
    assert not gone & set(spec)
    assert "nodePort" not in spec["ports"][0]
    with pytest.raises(errors.Invalid, match="may only be set for externally-accessible services"):
        await change(client, "was-lb", externalTrafficPolicy="Local")
    await change(client, "was-lb", type="NodePort")
    with pytest.raises(errors.Invalid, match="may not be used when `type` is 'ClusterIP'"):
        await change(client, "was-lb", type="ClusterIP", ports=[{**PORT, "nodePort": 32767}])


async def test_one_stack_has_no_second_address(client: Client) -> None:
    spec = await make(client, "s", ipFamilyPolicy="PreferDualStack")
    assert (spec["ipFamilies"], len(spec["clusterIPs"])) == (["IPv4"], 1)
    with pytest.raises(errors.Invalid, match="this cluster is not configured for dual-stack services"):
        await make(client, "t", ipFamilyPolicy="RequireDualStack")
    with pytest.raises(errors.Invalid, match="not configured on this cluster"):
        await make(client, "t", ipFamilies=["IPv6"])


async def test_service_cidrs_add_ranges(client: Client) -> None:
    with pytest.raises(errors.Invalid, match="does not match the current range"):
        await make(client, "s", clusterIP="10.196.196.77")
    await client.create(SERVICE_CIDRS, {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.196.196.0/24"]}})
    assert (await make(client, "s", clusterIP="10.196.196.77"))["clusterIPs"] == ["10.196.196.77"]
    with pytest.raises(errors.Invalid, match="already allocated"):
        await make(client, "t", clusterIP="10.196.196.77")


async def test_two_stacks_give_both_addresses(tmp_path: Path) -> None:
    config = replace(server_config(tmp_path), service_cidr="10.96.0.0/16,fd00:96::/112")
    store = SQLiteStore(tmp_path / "store.sqlite")
    try:
        async with (
            serving(store, config, sole_writer=True) as server,
            Client(client_config(tmp_path, config)) as client,
        ):
            async with asyncio.timeout(10):
                await server.health.bootstrapped.wait()
            spec = await make(client, "both", ipFamilyPolicy="RequireDualStack")
            assert spec["ipFamilies"] == ["IPv4", "IPv6"]
            assert spec["clusterIPs"][1].startswith("fd00:96::")
            assert (await make(client, "six", ipFamilies=["IPv6"]))["clusterIP"].startswith("fd00:96::")
            assert (await make(client, "one"))["ipFamilies"] == ["IPv4"]
            spec = await change(client, "one", ipFamilyPolicy="PreferDualStack")
            assert (spec["ipFamilies"], len(spec["clusterIPs"])) == (["IPv4", "IPv6"], 2)
            spec = await change(client, "one", ipFamilyPolicy="SingleStack")
            assert (spec["ipFamilies"], len(spec["clusterIPs"])) == (["IPv4"], 1)
            spec = await make(client, "none", clusterIP="None", ipFamilyPolicy="PreferDualStack", selector={"a": "b"})
            assert (spec["clusterIPs"], spec["ipFamilies"]) == (["None"], ["IPv4", "IPv6"])
    finally:
        await store.close()
