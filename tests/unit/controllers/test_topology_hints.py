"""For which zone's traffic endpoints are meant.

Source: https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/
"""

from collections import Counter
from typing import Any

import msgspec
import pytest

from controllers.topology_hints import ENABLED, add_hints, zone_shares
from controllers.views import Node


def node(name: str, zone: str | None, cpu: str | None, *, ready: str = "True", **labels: str) -> Node:
    zoned = {"topology.kubernetes.io/zone": zone} if zone else {}
    status: dict[str, Any] = {"conditions": [{"type": "Ready", "status": ready}]}
    status |= {"allocatable": {"cpu": cpu}} if cpu else {}
    return msgspec.convert(
        {"metadata": {"name": name, "uid": name, "labels": {**zoned, **labels}}, "status": status}, Node
    )


def endpoints(**zones: int) -> list[dict[str, Any]]:
    return [
        {"addresses": [f"{zone}-{n}"], "zone": zone, "conditions": {"ready": True}}
        for zone, count in zones.items()
        for n in range(count)
    ]


def hints(found: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(one["hints"]["forZones"][0]["name"] for one in found if "hints" in one))


def test_a_zone_counts_by_the_cpu_of_its_ready_nodes() -> None:
    control = node("c", None, "9", **{"node-role.kubernetes.io/control-plane": ""})
    nodes = [node("1", "a", "3"), node("2", "b", "500m"), node("3", "b", "500m"), node("4", "a", "8", ready="False")]
    assert zone_shares([*nodes, control]) == {"a": 0.75, "b": 0.25}


@pytest.mark.parametrize(
    "odd", [node("x", None, "1"), node("x", "b", None)], ids=["without-a-zone", "without-a-size"]
)  # fmt: skip
def test_one_node_that_tells_too_little_makes_all_unknown(odd: Node) -> None:
    assert zone_shares([node("1", "a", "1"), node("2", "b", "1"), odd]) == {}


def test_one_zone_alone_has_nobody_to_be_near_to() -> None:
    assert zone_shares([node("1", "a", "1"), node("2", "a", "1")]) == {}


@pytest.mark.parametrize(
    ("have", "shares", "wanted"),
    [
        ({"a": 2, "b": 2}, {"a": 0.5, "b": 0.5}, {"a": 2, "b": 2}),
        ({"a": 4, "b": 0}, {"a": 0.5, "b": 0.5}, {"a": 2, "b": 2}),
        ({"a": 5, "b": 1}, {"a": 0.5, "b": 0.5}, {"a": 3, "b": 3}),
        ({"a": 4, "b": 3}, {"a": 0.5, "b": 0.5}, {"a": 4, "b": 3}),
        ({"a": 1, "b": 9}, {"a": 0.3, "b": 0.7}, {"a": 3, "b": 7}),
    ],
)
def test_each_zone_gets_endpoints_by_its_share(
    have: dict[str, int], shares: dict[str, float], wanted: dict[str, int]
) -> None:
    found = endpoints(**have)
    assert add_hints(found, shares) == ENABLED
    assert hints(found) == wanted


@pytest.mark.parametrize(
    ("found", "shares", "why"),
    [
        (endpoints(a=3), {}, "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"),
        (endpoints(a=1), {"a": 0.5, "b": 0.5}, "Insufficient number of endpoints (1 endpoints, 2 zones)"),
        (
            endpoints(a=1, b=1, c=1), {"a": 0.42, "b": 0.42, "c": 0.16},
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"
            " (3 endpoints, 3 zones)",
        ),
        (
            [*endpoints(a=3), {"addresses": ["x"], "conditions": {"ready": True}}], {"a": 0.5, "b": 0.5},
            "One or more endpoints do not have a zone specified",
        ),
    ],
    ids=["no-sizes", "few-endpoints", "overload", "no-zone"],
)  # fmt: skip
def test_where_it_cannot_be_fair_nobody_has_a_hint(
    found: list[dict[str, Any]], shares: dict[str, float], why: str
) -> None:
    assert add_hints(found, shares) == why
    assert hints(found) == {}


def test_who_is_not_ready_has_no_hint_and_does_not_count() -> None:
    found = endpoints(a=2, b=1)
    found[0]["conditions"]["ready"] = False
    assert add_hints(found, {"a": 0.5, "b": 0.5}) == ENABLED
    assert hints(found) == {"a": 1, "b": 1}
