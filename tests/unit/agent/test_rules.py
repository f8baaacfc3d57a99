"""The service rules as text, and that the kernel takes them."""

import os
import shutil
import subprocess
from typing import Any

import pytest

from agent.network.rules import Backend, HostPort, Network, Port, compile_rules, service_ports


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    given = {"clusterIP": "10.96.0.9", "type": "ClusterIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {**given, **spec}}


def endpoint_slice(*endpoints: tuple[str, dict[str, Any]], owner: str = "web") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": owner}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [ip], "conditions": conditions} for ip, conditions in endpoints],
    }  # fmt: skip


def test_ready_endpoints_of_all_slices_are_behind_a_port() -> None:
    slices = [
        endpoint_slice(("10.0.0.2", {"ready": True})),
        endpoint_slice(("10.0.0.1", {}), ("10.0.0.3", {"ready": False})),
    ]
    (port,) = service_ports([service()], slices)
    assert port.backends == (Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080))
    assert (port.addresses, port.port, port.protocol) == (("10.96.0.9",), 80, "tcp")


def test_terminating_endpoints_serve_when_no_other_is_left() -> None:
    leaving = ("10.0.0.1", {"ready": False, "serving": True, "terminating": True})
    assert service_ports([service()], [endpoint_slice(leaving)])[0].backends == (Backend("10.0.0.1", 8080),)
    both = endpoint_slice(leaving, ("10.0.0.2", {"ready": True}))
    assert service_ports([service()], [both])[0].backends == (Backend("10.0.0.2", 8080),)


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"clusterIP": ""}, {"type": "ExternalName"}])
def test_services_without_an_address_have_no_rules(spec: dict[str, Any]) -> None:
    assert service_ports([service(**spec)], [endpoint_slice(("10.0.0.1", {}))]) == []


def network(bridge: str = "whunit0") -> Network:
    backends = (Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080))
    ports = [
        Port("a/b:", "tcp", ("10.96.0.9",), 80, 30080, backends), Port("a/c:", "udp", ("10.96.0.8",), 53, 0, backends[:1]),
        Port("a/d:", "tcp", ("10.96.0.7",), 443, 0, ()),
    ]  # fmt: skip
    host_ports = [HostPort("tcp", "", 8088, "10.0.0.1", 80), HostPort("udp", "127.0.0.1", 53, "10.0.0.1", 53)]
    return Network("10.0.0.0/24", "10.96.0.0/16", bridge, ports, host_ports)


def test_each_number_of_endpoints_has_a_map_and_empty_services_are_refused() -> None:
    text = compile_rules(network())
    assert "0 . 10.96.0.9 . tcp . 80 : 10.0.0.1 . 8080, 1 . 10.96.0.9 . tcp . 80 : 10.0.0.2 . 8080" in text
    assert "0 . 10.96.0.8 . udp . 53 : 10.0.0.1 . 8080" in text
    assert "elements = { 10.96.0.7 . tcp . 443 }" in text
    assert text.startswith("add table ip whunit0\ndelete table ip whunit0\n")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nft")
@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
def test_the_kernel_takes_the_rules_once_and_again(full: bool) -> None:
    given = network() if full else Network("10.0.0.0/24", "10.96.0.0/16", "whunit0")
    name = f"wherry-rules-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for _ in range(2):
            argv = ["ip", "netns", "exec", name, "nft", "-f", "-"]
            done = subprocess.run(argv, input=compile_rules(given), text=True, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
