"""What is wrong between nodes is told, and no way is made that would take another node's pods from it."""

import pytest

from agent.network.links import Me, Plan, faults, make_plan
from agent.network.views import Node, NodeAddress, NodeMetadata, NodeSpec, NodeStatus

ME = Me("me", "192.0.2.1", ("10.244.0.0/24",), "pods0-vx")


def node(name: str, address: str, *cidrs: str) -> Node:
    status = NodeStatus(addresses=[NodeAddress("InternalIP", address)])
    return Node(NodeMetadata(name), NodeSpec(podCIDRs=list(cidrs)), status)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (node("other", "192.0.2.2", "10.244.1.0/24"), {}),
        (node("other", "192.0.2.2", "fd00:1::/64"), {}),
        (node("me", "192.0.2.1", "10.244.0.0/24"), {}),
        (
            node("other", "192.0.2.2", "10.244.0.128/25"),
            {
                "OverlappingPodCIDR": "the range 10.244.0.128/25 of node other overlaps this node's 10.244.0.0/24: "
                "its pods are not reached"
            },
        ),
        (
            node("other", "192.0.2.1", "10.244.1.0/24"),
            {"DuplicateNodeAddress": "node other has this node's address 192.0.2.1: its pods are not reached"},
        ),
    ],
    ids=["well", "other-version", "itself", "overlap", "same-address"],
)
def test_what_is_wrong_between_nodes_is_told(other: Node, expected: dict[str, str]) -> None:
    assert faults([other], ME) == expected
    if expected:
        assert make_plan([other], ME, lambda _: True) == Plan()
