"""How fast nodes that are away are emptied, zone by zone."""

import math

import pytest

from controllers.node_zones import EvictionRates, Zones


def zones(**states: tuple[int, int]) -> Zones:
    """Return zones with so many nodes ready and away each."""
    found = Zones(EvictionRates())
    for zone, (ready, away) in states.items():
        for number in range(ready + away):
            found.note(f"{zone}-{number}", zone, ready=number < ready)
    return found


@pytest.mark.parametrize(
    ("states", "rate"),
    [
        ({"a": (9, 1)}, 0.1),
        ({"a": (1, 2)}, 0.1),
        ({"a": (4, 6)}, 0.0),
        ({"a": (20, 40)}, 0.01),
        ({"a": (0, 5), "b": (3, 0)}, 0.1),
        ({"a": (0, 5), "b": (0, 3)}, 0.0),
    ],
    ids=["few", "too-few-to-tell", "small-and-disrupted", "large-and-disrupted", "one-zone-of-two", "all"],
)
def test_a_zone_is_emptied_as_fast_as_its_health_allows(states: dict[str, tuple[int, int]], rate: float) -> None:
    assert zones(**states).rate("a") == rate


def test_nodes_of_a_zone_take_turns() -> None:
    found = zones(a=(9, 3), b=(9, 1))
    assert found.wait_seconds("a-9", at=0) == 0
    assert found.wait_seconds("a-10", at=1) == 9
    assert found.wait_seconds("b-9", at=1) == 0
    assert found.wait_seconds("a-10", at=10) == 0
    found.note("a-9", "a", ready=True)
    found.forget("a-10")
    assert found.rate("a") == 0.1
    assert zones(a=(4, 6)).wait_seconds("a-9", at=0) == math.inf
