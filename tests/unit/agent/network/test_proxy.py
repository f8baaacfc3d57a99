"""Whose addresses the rules of a node speak of."""

from types import SimpleNamespace

import pytest

from agent.network.proxy import pod_ips


@pytest.mark.parametrize(
    ("ip", "ips", "expected"),
    [
        ("10.244.0.2", ["10.244.0.2", "fd00::2"], ["10.244.0.2", "fd00::2"]),
        ("10.244.0.2", [], ["10.244.0.2"]),
        ("", ["10.244.0.2", "fd00::2"], []),  # it has ended: its status keeps them, another pod may have them
        ("", [], []),
    ],
)
def test_a_pod_has_addresses_only_while_its_sandbox_is_there(ip: str, ips: list[str], expected: list[str]) -> None:
    assert pod_ips(SimpleNamespace(seen=SimpleNamespace(ip=ip, ips=ips))) == expected
