"""What others do to a machine that is in the way of its pods."""

from typing import Any

import pytest

from agent.network.troubles import foreign

RANGES = ["10.244.0.0/24", "10.96.0.0/16", "fd00:10:244::/64"]


def route(to: str, device: str) -> dict[str, Any]:
    return {"dst": to, "dev": device}


def chain(table: str, policy: str = "drop", hook: str = "forward") -> dict[str, Any]:
    return {"family": "ip", "table": table, "name": "FORWARD", "hook": hook, "policy": policy}


@pytest.mark.parametrize(
    ("routes", "chains", "told"),
    [
        ([], [], {}),
        ([route("default", "eth0"), route("10.244.0.0/24", "wherry0"), route("10.96.0.0/16", "lo")], [], {}),
        ([route("10.0.0.0/8", "vpn0"), route("10.244.1.0/24", "wherry0-vx")], [], {}),
        ([route("10.244.0.0/24", "docker0")], [], {"AddressRangeInUse": "10.244.0.0/24 by docker0"}),
        ([route("10.96.3.7", "eth1")], [], {"AddressRangeInUse": "10.96.3.7/32 by eth1"}),
        ([route("fd00:10:244::/96", "eth1")], [], {"AddressRangeInUse": "fd00:10:244::/96 by eth1"}),
        ([], [chain("filter", "accept"), chain("filter", hook="input"), chain("wherry0")], {}),
        ([], [chain("filter")], {"ForeignRulesDrop": "the chain ip filter FORWARD drops"}),
    ],
)
def test_routes_and_rules_of_others_are_told_where_they_are_in_the_way(
    routes: list[dict[str, Any]], chains: list[dict[str, Any]], told: dict[str, str]
) -> None:
    found = foreign(routes, chains, "wherry0", RANGES)
    assert found.keys() == told.keys()
    assert all(text in found[reason] for reason, text in told.items())
