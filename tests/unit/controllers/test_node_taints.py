"""Taints from conditions, and how long pods stand them."""

from typing import Any

import pytest

from controllers.node_lifecycle import unknown_conditions
from controllers.node_taints import evict_at, taints_after, tolerates, wanted_taints
from controllers.views import Toleration
from machinery.api.meta import parse_time
from tests.unit.controllers.builders import ago, node

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(node(), set(), id="healthy"),
        pytest.param(node(ready="False"), {(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")}, id="not ready"),
        pytest.param(node(ready="Unknown"), {(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")}, id="silent"),
        pytest.param(node(unschedulable=True), {("node.kubernetes.io/unschedulable", "NoSchedule")}, id="cordoned"),
        pytest.param(
            node(DiskPressure="True", PIDPressure="True", MemoryPressure="False", NetworkUnavailable="True"),
            {
                ("node.kubernetes.io/disk-pressure", "NoSchedule"),
                ("node.kubernetes.io/pid-pressure", "NoSchedule"),
                ("node.kubernetes.io/network-unavailable", "NoSchedule"),
            },
            id="pressures",
        ),
        pytest.param(
            node(ready="", taints=[{"key": NOT_READY, "effect": "NoSchedule"}]), {(NOT_READY, "NoSchedule")}, id="new"
        ),
    ],
)
def test_conditions_call_for_taints(found: Any, expected: set[tuple[str, str]]) -> None:
    assert wanted_taints(found, all_away=False) == expected


def test_while_all_nodes_are_away_none_is_to_be_evacuated() -> None:
    assert wanted_taints(node(ready="Unknown"), all_away=True) == {(UNREACHABLE, "NoSchedule")}


def test_the_taints_of_others_stay_as_and_where_they_are() -> None:
    mine = {"key": "example.com/gpu", "effect": "NoExecute", "value": "yes"}
    old = {"key": NOT_READY, "effect": "NoSchedule", "timeAdded": ago(9)}
    found = node(ready="Unknown", taints=[old, mine])
    after = taints_after(found, wanted_taints(found, all_away=False), time=ago(0))
    assert after == [
        mine,
        {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": ago(0)},
        {"key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": ago(0)},
    ]
    settled = node(ready="Unknown", taints=after)
    assert taints_after(settled, wanted_taints(settled, all_away=False), time=ago(-5)) == after, "its time stays"


TAINT = {"key": NOT_READY, "effect": "NoExecute", "value": "v"}


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration(key=NOT_READY, operator="Exists"), True),
        (Toleration(key=NOT_READY, operator="Exists", effect="NoSchedule"), False),
        (Toleration(key=NOT_READY, value="v"), True),
        (Toleration(key=NOT_READY, operator="Equal", value="w"), False),
        (Toleration(key=UNREACHABLE, operator="Exists"), False),
        (Toleration(), False),
    ],
)
def test_a_toleration_matches_by_key_value_and_effect(toleration: Toleration, expected: bool) -> None:
    assert tolerates(toleration, TAINT) is expected


def test_the_shortest_patience_decides() -> None:
    since = parse_time(ago(100)).timestamp()
    taints = [{"key": key, "effect": "NoExecute", "timeAdded": ago(100)} for key in (NOT_READY, UNREACHABLE)]

    def patience(*seconds: int | None) -> list[Toleration]:
        keys = (NOT_READY, UNREACHABLE)
        return [
            Toleration(key=key, operator="Exists", tolerationSeconds=each)
            for key, each in zip(keys, seconds, strict=False)
        ]

    assert evict_at(taints, patience(300, 60), seen_at=0) == since + 60
    assert evict_at(taints, patience(300, None), seen_at=0) == since + 300
    assert evict_at(taints, patience(None, None), seen_at=0) is None
    assert evict_at(taints, patience(300), seen_at=0) == since, "one taint is not tolerated at all"
    assert evict_at(taints, patience(-5, None), seen_at=0) == since
    assert evict_at([], [], seen_at=0) is None
    assert (
        evict_at(
            [{"key": "a", "effect": "NoExecute"}],
            [Toleration(key="a", operator="Exists", tolerationSeconds=7)],
            seen_at=50,
        )
        == 57
    )


def test_conditions_never_reported_are_told_from_those_no_longer_reported() -> None:
    found = unknown_conditions(node(ready="True", DiskPressure="Unknown"), time=ago(0))
    assert {one["type"]: one["reason"] for one in found} == {
        "Ready": "NodeStatusUnknown",
        "MemoryPressure": "NodeStatusNeverUpdated",
        "PIDPressure": "NodeStatusNeverUpdated",
    }
