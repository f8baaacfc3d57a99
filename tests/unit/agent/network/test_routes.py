"""Which endpoints stand behind which address.

Behaviour: https://kubernetes.io/docs/reference/networking/virtual-ips/,
https://kubernetes.io/docs/concepts/services-networking/service-traffic-policy/
"""

from typing import Any

import pytest

from agent.network.routes import (
    Affinity,
    Backend,
    Frontend,
    Place,
    Route,
    host_port_routes,
    local_count,
    routes_of,
)

HERE = Place("node-a", "zone-1")


def service(**spec: Any) -> dict[str, Any]:
    given = {"clusterIP": "10.96.0.9", "type": "ClusterIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    labels = spec.pop("labels", {})
    status = spec.pop("status", {})
    return {
        "metadata": {"name": "web", "namespace": "default", "labels": labels}, "spec": {**given, **spec}, "status": status,
    }  # fmt: skip


def endpoint(ip: str, node: str = "node-a", **more: Any) -> dict[str, Any]:
    hints = more.pop("hints", {})
    return {"addresses": [ip], "conditions": more, "nodeName": node, "hints": hints}


def slice_of(*endpoints: dict[str, Any], kind: str = "IPv4", port: int = 8080) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "web"}
    ports = [{"name": "http", "port": port}]
    metadata = {"namespace": "default", "labels": labels}
    return {"metadata": metadata, "addressType": kind, "ports": ports, "endpoints": list(endpoints)}


def behind(spec: dict[str, Any], *endpoints: dict[str, Any], family: int = 4) -> dict[Frontend, Route]:
    kind = f"IPv{family}"
    return {route.frontend: route for route in routes_of(spec, [slice_of(*endpoints, kind=kind)], HERE, family)}


def ips(backends: tuple[Backend, ...] | None) -> list[str]:
    return [one.ip for one in backends or ()]


VIP = Frontend("10.96.0.9", "tcp", 80)


def test_ready_endpoints_of_all_slices_are_behind_a_port() -> None:
    slices = [
        slice_of(endpoint("10.0.0.2", ready=True)),
        slice_of(endpoint("10.0.0.1"), endpoint("10.0.0.3", ready=False)),
    ]
    (route,) = routes_of(service(), slices, HERE, 4)
    assert route == Route(VIP, (Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080)))


def test_terminating_endpoints_serve_when_no_other_is_left() -> None:
    leaving = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
    assert ips(behind(service(), leaving)[VIP].backends) == ["10.0.0.1"]
    assert ips(behind(service(), leaving, endpoint("10.0.0.2"))[VIP].backends) == ["10.0.0.2"]
    dead = endpoint("10.0.0.1", ready=False, serving=False, terminating=True)
    assert not behind(service(), dead)[VIP].has_any


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None"}, {"clusterIP": ""}, {"type": "ExternalName"},
        {"labels": {"service.kubernetes.io/service-proxy-name": "other"}},
        {"labels": {"service.kubernetes.io/headless": ""}},
    ],
)  # fmt: skip
def test_services_that_are_not_ours_to_route_have_no_routes(spec: dict[str, Any]) -> None:
    assert behind(service(**spec), endpoint("10.0.0.1")) == {}


def test_each_address_of_a_load_balancer_is_a_frontend() -> None:
    ports = [{"name": "http", "port": 80, "protocol": "UDP", "nodePort": 30080}]
    ingress = [{"ip": "192.0.2.5"}, {"ip": "192.0.2.6", "ipMode": "Proxy"}, {"hostname": "lb.example"}]
    spec = service(
        type="LoadBalancer", ports=ports, externalIPs=["198.51.100.1", "2001:db8::1"],
        loadBalancerSourceRanges=["10.0.0.0/8", "10.1.0.0/16"], status={"loadBalancer": {"ingress": ingress}},
    )  # fmt: skip
    found = behind(spec, endpoint("10.0.0.1"))
    addresses = {(one.address, one.port) for one in found}
    assert addresses == {("10.96.0.9", 80), ("198.51.100.1", 80), ("192.0.2.5", 80), ("", 30080)}
    assert found[Frontend("192.0.2.5", "udp", 80)].sources == ("10.0.0.0/8",)
    assert found[Frontend("", "udp", 30080)].sources == ()


def test_policy_local_takes_endpoints_of_this_node() -> None:
    here, there = endpoint("10.0.0.1"), endpoint("10.0.1.1", "node-b")
    ports = [{"name": "http", "port": 80, "nodePort": 30080}]
    found = behind(service(type="NodePort", ports=ports, externalTrafficPolicy="Local"), here, there)
    node_port = found[Frontend("", "tcp", 30080)]
    assert (ips(node_port.backends), ips(node_port.outside)) == (["10.0.0.1", "10.0.1.1"], ["10.0.0.1"])
    assert (ips(found[VIP].backends), found[VIP].outside) == (["10.0.0.1", "10.0.1.1"], None)
    inner = behind(service(internalTrafficPolicy="Local"), there)[VIP]
    assert (inner.backends, inner.has_any) == ((), True)
    assert local_count([slice_of(here, there, endpoint("10.0.0.3", ready=False))], "node-a") == 1


def test_hints_keep_traffic_in_the_zone_or_on_the_node_when_all_endpoints_have_them() -> None:
    zone_1 = {"forZones": [{"name": "zone-1"}]}
    zone_2 = {"forZones": [{"name": "zone-2"}]}
    one, two = endpoint("10.0.0.1", "b", hints=zone_1), endpoint("10.0.0.2", "c", hints=zone_2)
    assert ips(behind(service(), one, two)[VIP].backends) == ["10.0.0.1"]
    assert ips(behind(service(), one, two, endpoint("10.0.0.3"))[VIP].backends) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert ips(behind(service(), two)[VIP].backends) == ["10.0.0.2"]  # none for this zone
    on_node = {**zone_2, "forNodes": [{"name": "node-a"}]}
    other = {**zone_1, "forNodes": [{"name": "node-b"}]}
    found = behind(service(), endpoint("10.0.0.1", hints=on_node), endpoint("10.0.0.2", "b", hints=other))
    assert ips(found[VIP].backends) == ["10.0.0.1"]


def test_affinity_has_its_time_and_one_name_for_all_addresses_of_a_port() -> None:
    spec = {"sessionAffinity": "ClientIP", "externalIPs": ["198.51.100.1"]}
    config = {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}}
    found = behind(service(**spec, **config), endpoint("10.0.0.1"))
    assert {route.affinity for route in found.values()} == {Affinity("default/web:http/tcp", 7)}
    assert behind(service(**spec), endpoint("10.0.0.1"))[VIP].affinity == Affinity("default/web:http/tcp", 10800)


def test_the_families_of_a_dual_stack_service_are_apart() -> None:
    spec = service(clusterIPs=["10.96.0.9", "fd00:96::9"])
    assert list(behind(spec, endpoint("10.0.0.1"))) == [VIP]
    assert list(behind(spec, endpoint("fd00:1::1"), family=6)) == [Frontend("fd00:96::9", "tcp", 80)]


def test_host_ports_are_bound_to_the_address_they_name() -> None:
    ports = [
        {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "hostIP": "127.0.0.1", "protocol": "UDP"},
        {"containerPort": 81}, {"containerPort": 82, "hostPort": 82, "hostIP": "0.0.0.0"},
    ]  # fmt: skip
    pod = {"spec": {"containers": [{"ports": ports}]}}
    assert [(one.frontend, one.backends[0].port) for one in host_port_routes(pod, "10.0.0.1")] == [
        (Frontend("", "tcp", 8080), 80), (Frontend("127.0.0.1", "udp", 53), 53), (Frontend("", "tcp", 82), 82),
    ]  # fmt: skip
    assert list(host_port_routes({"spec": {**pod["spec"], "hostNetwork": True}}, "10.0.0.1")) == []
