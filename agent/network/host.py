"""Prepares this machine for pods and services: kernel settings, the pods' bridge, the way to service addresses."""

import contextlib
import ipaddress
import subprocess
from pathlib import Path

from agent.config import AgentConfig
from agent.network.table import IPV4, IPV6, Site

_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/route_localnet": "1",  # node ports answer at loopback
    # Pods of one node reach each other through the node; it is not to tell them of a shorter way.
    "net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/default/send_redirects": "0",
}  # fmt: skip
_SYSCTLS_6 = {"net/ipv6/conf/all/forwarding": "1"}


def prepare_host(service_cidr: str, node_ip: str) -> None:
    """Let this machine forward, and reach service addresses itself: those need a route, though none is ever used."""
    has_6 = ":" in service_cidr
    for name, value in {**_SYSCTLS, **(_SYSCTLS_6 if has_6 else {})}.items():
        with contextlib.suppress(OSError):
            Path("/proc/sys", name).write_text(value)
    for part in service_cidr.split(","):
        argv = ["ip", "-6" if ":" in part else "-4", "route", "replace", part, "dev", "lo"]
        source = ["src", node_ip] if (":" in part) == (":" in node_ip) else []
        if subprocess.run([*argv, *source], check=False, capture_output=True).returncode != 0:
            subprocess.run(argv, check=False, capture_output=True)  # the node's address is another machine's


def make_bridge(bridge: str, pod_cidr: str) -> None:
    """Make the link of this node's pods before the first pod comes: what listens at its address is reached at once.

    Its hardware address is given for good: one the kernel takes from a pod would change when that pod goes, and the
    others' connections with it.
    """
    gateways = [ipaddress.ip_network(part.strip(), strict=False) for part in pod_cidr.split(",") if part.strip()]
    if not gateways:
        return
    hardware = "0a:58:" + ":".join(f"{byte:02x}" for byte in gateways[0][1].packed[-4:])
    commands = [f"link add {bridge} type bridge", f"link set {bridge} address {hardware} up"]
    commands += [f"address replace {network[1]}/{network.prefixlen} dev {bridge}" for network in gateways]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=False, capture_output=True)  # a bridge that is there stays
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv4/conf/{bridge}/send_redirects").write_text("0")


def sites_of(config: AgentConfig) -> list[Site]:
    """Return what the rules are about, for each IP version that services have addresses of."""
    found = []
    for services in config.service_cidr.split(","):
        family = IPV6 if ":" in services else IPV4
        local = _part(config.pod_cidr, family.version)
        pods = _part(config.cluster_cidr, family.version) or local
        if local:
            found.append(Site(family, pods, local, services, config.bridge))
    return found


def _part(cidrs: str, version: int) -> str:
    for part in filter(None, cidrs.split(",")):
        if ipaddress.ip_network(part.strip(), strict=False).version == version:
            return part.strip()
    return ""
