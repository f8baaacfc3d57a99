"""For which zone's traffic each endpoint is meant, in proportion to the zones' CPU. Pure.

A Service asks for it by the annotation `service.kubernetes.io/topology-mode: Auto`.
Source: https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from controllers.node_taints import ready_status
from controllers.views import Node, Service
from machinery.api.quantity import parse_quantity

ZONE = "topology.kubernetes.io/zone"
ENABLED = "Topology Aware Hints has been enabled"
_ANNOTATIONS = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode")
_CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_OVERLOAD = 0.2
"""So much more than its share of the traffic an endpoint may get."""

Endpoint = dict[str, Any]


class _Refusal(Exception):
    """No hints can be given; the text says why, as users read it in an event."""


class Share(NamedTuple):
    """How many endpoints a zone should have: at least, and rather."""

    least: int
    desired: float


def is_asked(service: Service) -> bool:
    """Say whether a Service asks for hints."""
    found = (service.metadata.annotations.get(name) for name in _ANNOTATIONS)
    return next((value for value in found if value is not None), "") in ("Auto", "auto")


def zone_shares(nodes: Iterable[Node]) -> dict[str, float]:
    """Return each zone's part of the CPU of all ready nodes; nothing where that can't be told for every one of them."""
    cpus: dict[str, float] = {}
    for node in nodes:
        if any(label in node.metadata.labels for label in _CONTROL_PLANE) or ready_status(node) != "True":
            continue
        zone, cpu = node.metadata.labels.get(ZONE), parse_quantity(str(node.status.allocatable.get("cpu", "0")))
        if not zone or not cpu:
            return {}
        cpus[zone] = cpus.get(zone, 0.0) + float(cpu)
    total = sum(cpus.values())
    return {zone: cpu / total for zone, cpu in cpus.items()} if len(cpus) > 1 else {}


def essence(node: Node) -> tuple[object, ...]:
    """Return what of a node its zone's share depends on."""
    labels = node.metadata.labels
    return (
        ready_status(node),
        labels.get(ZONE),
        node.status.allocatable.get("cpu"),
        [one in labels for one in _CONTROL_PLANE],
    )


def add_hints(endpoints: Sequence[Endpoint], shares: Mapping[str, float]) -> str:
    """Give each ready endpoint the zone whose traffic it gets: its own, unless another zone has too few.

    Args:
        endpoints: all endpoints of a Service, of one type of address, in a stable order.
        shares: what `zone_shares` returns.

    Returns: ENABLED, else why no endpoint has a hint.
    """
    try:
        _add_hints(endpoints, shares)
    except _Refusal as refusal:
        return str(refusal)
    return ENABLED


def _add_hints(endpoints: Sequence[Endpoint], shares: Mapping[str, float]) -> None:
    ready = [endpoint for endpoint in endpoints if endpoint["conditions"]["ready"]]
    wanted = _wanted(shares, len(ready))
    if any(not endpoint.get("zone") for endpoint in ready):
        raise _Refusal("One or more endpoints do not have a zone specified")
    here = Counter(endpoint["zone"] for endpoint in ready)
    giving, receiving = _moves(wanted, here)
    for endpoint in ready:
        zone = endpoint["zone"]
        if giving[zone] > 0 and (taker := next((one for one in sorted(receiving) if receiving[one] > 0), "")):
            giving[zone] -= 1
            receiving[taker] -= 1
            zone = taker
        endpoint["hints"] = {"forZones": [{"name": zone}]}


def _wanted(shares: Mapping[str, float], count: int) -> dict[str, Share]:
    if not shares:
        raise _Refusal(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
        )  # fmt: skip
    numbers = f"({count} endpoints, {len(shares)} zones)"
    if len(shares) > count:
        raise _Refusal(f"Insufficient number of endpoints {numbers}")
    found = {}
    for zone, share in shares.items():
        least = math.ceil(share * count / (1 + _OVERLOAD))
        found[zone] = Share(least, max(share * count, float(least)))
    if sum(one.least for one in found.values()) > count:
        why = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"
        raise _Refusal(f"{why} {numbers}")
    return found


def _moves(wanted: Mapping[str, Share], here: Mapping[str, int]) -> tuple[Counter[str], Counter[str]]:
    """Return how many endpoints each zone gives to others, and how many each receives."""
    surplus = {zone: here.get(zone, 0) - share.desired for zone, share in wanted.items()}
    giving: Counter[str] = Counter()
    receiving: Counter[str] = Counter()
    while True:
        most, least = max(surplus, key=lambda zone: surplus[zone]), min(surplus, key=lambda zone: surplus[zone])
        gives, receives = surplus[most], -surplus[least]
        if min(gives, receives) < 0.5 or max(gives, receives) < 1:
            return giving, receiving
        giving[most] += 1
        receiving[least] += 1
        surplus[most] -= 1
        surplus[least] += 1
