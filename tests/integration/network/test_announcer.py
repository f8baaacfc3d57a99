"""Addresses of load balancers move between nodes, and neighbours follow."""

import ipaddress
from collections import Counter
from collections.abc import Iterator

import pytest

from agent.network.announcer import chosen, leave, settle
from tests.support.netlab import Lab, Machine

RANGE = ipaddress.ip_network("192.0.2.128/28")
ADDRESS = "192.0.2.130"


@pytest.fixture
def link() -> Iterator[list[Machine]]:
    lab = Lab()
    try:
        switch = lab.machine("switch")
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")
        machines = [lab.machine(name) for name in ("one", "two", "client")]
        for number, machine in enumerate(machines):
            lab.link(machine, "eth0", switch, f"p{number}")
            switch.ip(f"link set p{number} master br0")
            machine.ip(f"address add 192.0.2.{number + 1}/24 dev eth0")
            machine.ip(f"address add 2001:db8::{number + 1}/64 dev eth0 nodad")
        for machine in machines[:2]:
            machine.serve(80)
            machine.serve(81, ipv6=True)
        yield machines
    finally:
        lab.close()


def test_clients_follow_an_address_to_another_node(link: list[Machine]) -> None:
    one, two, client = link
    with one.inside():
        assert settle({ADDRESS}, "192.0.2.1", RANGE) == [ADDRESS]
        assert settle({ADDRESS}, "192.0.2.1", RANGE) == []
    assert client.who(ADDRESS, 80) == {"one"}
    with one.inside():
        settle(set(), "192.0.2.1", RANGE)
    with two.inside():
        settle({ADDRESS}, "192.0.2.2", RANGE)
    assert client.who(ADDRESS, 80) == {"two"}  # its neighbour table was told
    assert "192.0.2.1/24" in one.ip("-o address")
    with two.inside():
        leave(RANGE)
    assert ADDRESS not in two.ip("-o address")
    with one.inside(), pytest.raises(OSError, match="no link has"):
        settle({ADDRESS}, "192.0.2.99", RANGE)


def test_clients_follow_an_ipv6_address_too(link: list[Machine]) -> None:
    one, two, client = link
    whole, address = ipaddress.ip_network("2001:db8::ff00/120"), "2001:db8::ff02"
    for machine, name, own in ((one, "one", "2001:db8::1"), (two, "two", "2001:db8::2")):
        with machine.inside():
            assert settle({address}, own, whole) == [address]
        assert client.who(address, 81) == {name}  # at once: no second of trying it out, and the neighbours were told
        with machine.inside():
            settle(set(), own, whole)


def test_one_node_is_chosen_by_all_and_its_loss_moves_only_its_addresses() -> None:
    addresses = [str(one) for one in ipaddress.ip_network("10.0.0.0/24")]
    before = {address: chosen(address, ["a", "b", "c"]) for address in addresses}
    assert before == {address: chosen(address, ["c", "a", "b"]) for address in addresses}
    assert min(Counter(before.values()).values()) > 50
    after = {address: chosen(address, ["a", "b"]) for address in addresses}
    assert all(after[address] == node for address, node in before.items() if node != "c")
    assert chosen("10.0.0.1", []) == ""
