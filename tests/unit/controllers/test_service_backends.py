"""Who stands behind a Service, in slices and in the old form."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers import endpoints, endpointslice
from controllers.endpointslice import slices_of
from controllers.service_backends import backends, target_port
from controllers.slice_plan import Slice, plan
from controllers.views import EndpointSlice, ServicePort
from tests.unit.controllers.builders import ago, metadata, pod, service

WEB = {"app": "web"}


def states(found: list[Any]) -> list[tuple[str, bool, bool, bool]]:
    return [(one.pod.metadata.name, one.ready, one.serving, one.terminating) for one in found]


def test_readiness_is_told_in_three_words() -> None:
    pods = [
        pod("up", labels=WEB),
        pod("down", labels=WEB, ready=False),
        pod("going", labels=WEB, deletionTimestamp=ago(1)),
        pod("gone", labels=WEB, ready=False, deletionTimestamp=ago(1)),
        pod("ended", labels=WEB, phase="Succeeded"),
        pod("unaddressed", labels=WEB, ip=""),
        pod("other", labels={"app": "db"}),
    ]
    assert states(backends(service(), pods)) == [
        ("down", False, False, False),
        ("going", False, True, True),
        ("gone", False, False, True),
        ("up", True, True, False),
    ]
    published = backends(service(publishNotReadyAddresses=True), pods)
    assert [one.ready for one in published] == [True] * 4


def test_a_named_port_is_looked_up_in_containers_and_sidecars() -> None:
    ports = [
        {"name": "web", "containerPort": 8080, "protocol": "TCP"},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
    ]
    spec = {
        "containers": [{"name": "m", "ports": ports}],
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9090}]},
            {"name": "once", "ports": [{"name": "setup", "containerPort": 1}]},
        ],
    }
    found = pod(spec=spec)
    lookup = {
        name: target_port(ServicePort(port=1, targetPort=name, protocol=protocol), found)
        for name, protocol in (("web", "TCP"), ("dns", "UDP"), ("metrics", "TCP"), ("setup", "TCP"), ("none", "TCP"))
    }
    assert lookup == {"web": 8080, "dns": 53, "metrics": 9090, "setup": None, "none": None}
    assert target_port(ServicePort(port=80, targetPort="dns", protocol="TCP"), found) is None
    assert target_port(ServicePort(port=80), found) == 80


def test_slices_are_parted_by_family() -> None:
    both = msgspec.structs.replace(pod("a", labels=WEB), status=msgspec.convert(
        {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, type(pod().status)
    ))  # fmt: skip
    found = slices_of(service(ipFamilies=["IPv4", "IPv6"]), backends(service(), [both]), lambda node: "zone-1")
    assert [(one.address_type, one.endpoints[0]["addresses"]) for one in found] == [
        ("IPv4", ["10.0.0.1"]),
        ("IPv6", ["fd00::1"]),
    ]
    assert found[0].endpoints[0]["zone"] == "zone-1"


def test_a_pod_with_a_hostname_in_the_services_subdomain_is_named() -> None:
    named = pod("a", labels=WEB, spec={"hostname": "db-0", "subdomain": "web"})
    stranger = pod("b", labels=WEB, spec={"hostname": "db-1", "subdomain": "other"})
    [found] = slices_of(service(), backends(service(), [named, stranger]), lambda node: "")
    assert [one.get("hostname") for one in found.endpoints] == ["db-0", None]


def test_the_old_form_parts_ready_from_not_ready_and_leaves_out_the_dying() -> None:
    pods = [
        pod("up", labels=WEB, ip="10.0.0.1"),
        pod("down", labels=WEB, ready=False, ip="10.0.0.2"),
        pod("going", labels=WEB, deletionTimestamp=ago(1), ip="10.0.0.3"),
    ]
    [subset] = endpoints.subsets_of(service(), backends(service(), pods))
    assert [one["ip"] for one in subset["addresses"]] == ["10.0.0.1"]
    assert [one["ip"] for one in subset["notReadyAddresses"]] == ["10.0.0.2"]
    assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    published = service(publishNotReadyAddresses=True)
    [subset] = endpoints.subsets_of(published, backends(published, pods))
    assert len(subset["addresses"]) == 3


def test_the_old_form_stops_at_a_thousand_addresses() -> None:
    pods = [pod(f"p{at:04}", labels=WEB) for at in range(1001)]
    [subset] = endpoints.subsets_of(service(), backends(service(), pods))
    assert len(subset["addresses"]) == endpoints.MAX_ADDRESSES


@pytest.mark.parametrize("spec", [{}, {"clusterIP": "None"}])
def test_labels_say_who_manages_and_whether_it_is_headless(spec: dict[str, str]) -> None:
    found = service(**spec)
    for labels in (endpoints.labels_of(found), endpointslice.labels_of(found)):
        assert ("service.kubernetes.io/headless" in labels) is bool(spec)


def present(name: str, contents: Slice, **more: Any) -> EndpointSlice:
    full = {
        "metadata": metadata(name, labels={"l": "1"}, **more),
        "addressType": contents.address_type,
        "endpoints": contents.endpoints,
        "ports": contents.ports,
    }
    return msgspec.convert(full, EndpointSlice)


def contents(*uids: str, family: str = "IPv4") -> Slice:
    return Slice(family, [{"port": 80}], [{"targetRef": {"uid": uid}} for uid in uids])


def test_slices_that_are_right_are_left_alone() -> None:
    steps = plan(
        [contents("a"), contents("b")], [present("s2", contents("b")), present("s1", contents("a"))], {"l": "1"}
    )
    assert steps == ([], [], [])


def test_a_slice_becomes_the_one_it_has_most_in_common_with() -> None:
    first, second = present("s1", contents("a", "b")), present("s2", contents("c", "d"))
    wanted = [contents("c", "d", "e"), contents("a")]
    assert plan(wanted, [first, second], {"l": "1"}) == ([], [(second, wanted[0]), (first, wanted[1])], [])


def test_the_type_of_a_slice_never_changes_and_a_dying_one_is_not_used() -> None:
    old, dying = present("s1", contents("a", family="IPv6")), present("s2", contents("a"), deletionTimestamp=ago(1))
    wanted = [contents("a")]
    assert plan(wanted, [old, dying], {"l": "1"}) == (wanted, [], [old])


def test_new_labels_alone_are_a_reason_to_write() -> None:
    old = present("s1", contents("a"))
    assert plan([contents("a")], [old], {"l": "2"}).update == [(old, contents("a"))]


@given(count=st.integers(0, 350))
def test_each_pod_is_in_exactly_one_slice_of_at_most_a_hundred(count: int) -> None:
    pods = [pod(f"p{at:03}", labels=WEB) for at in range(count)]
    found = slices_of(service(), backends(service(), pods), lambda node: "")
    names = [endpoint["targetRef"]["name"] for one in found for endpoint in one.endpoints]
    assert names == [f"p{at:03}" for at in range(count)]
    assert len(found) == max(1, -(-count // 100))


def test_a_service_that_prefers_what_is_near_gives_hints_for_ready_endpoints_only() -> None:
    found = backends(
        service(trafficDistribution="PreferSameNode"), [pod("a", labels=WEB), pod("b", labels=WEB, ready=False)]
    )
    one, two = slices_of(service(trafficDistribution="PreferSameNode"), found, lambda _: "z1")[0].endpoints
    assert one["hints"] == {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}
    assert "hints" not in two
    [near] = slices_of(service(trafficDistribution="PreferClose"), found[:1], lambda _: "z1")[0].endpoints
    assert near["hints"] == {"forZones": [{"name": "z1"}]}
