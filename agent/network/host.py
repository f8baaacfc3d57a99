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
