"""What a cluster on this machine is to be: asked for, completed, remembered."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster import etcd
from cluster.components import API_PORT, POD_CIDR, SERVICE_CIDR
from cluster.layout import Layout


@dataclass(frozen=True, slots=True)
class Settings:
    """What a cluster on this machine is to be."""

    store: str = ""  # etcd or embedded; "" for etcd when it is installed
    etcd_servers: str = ""
    api_port: int = API_PORT
    bind_address: str = ""
    simulated_nodes: int = 0
    agent: bool = True
    service_cidr: str = SERVICE_CIDR
    pod_cidr: str = POD_CIDR
    bridge: str = "wherry0"
    node_name: str = ""
    agent_port: int = 10250
    cri_endpoint: str = ""
    dns: bool = True
    cluster_cidr: str = ""  # all nodes' pods; worked out from pod_cidr when left out
    node_network: str = "auto"
    ingress: bool = False
    node_ip: str = ""  # the address others reach this machine at; that of its default route when left out
    load_balancer: str = "nodes"  # nodes, a range of addresses, or none
    join: str = ""  # the API server of the cluster this machine has joined; "" for a control plane
    cluster_dns: str = ""  # only for a machine that has joined
    addons: list[str] = field(default_factory=list)
    dashboard_port: int = 8090


def missing_for_agent() -> list[str]:
    """Return what this machine lacks to run containers, in words."""
    missing = [] if os.geteuid() == 0 else ["root rights"]
    tools = {"runc": "runs containers", "conmon": "watches over them", "nft": "routes services"}
    missing += [f"{tool} ({why})" for tool, why in tools.items() if shutil.which(tool) is None]
    if not any((Path(folder) / "bridge").exists() for folder in ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")):
        missing.append("CNI plugins (connect pods)")
    return missing


def settle(settings: Settings) -> tuple[Settings, list[str]]:
    """Return what this machine can do of what was asked, and what to tell about it."""
    notes: list[str] = []
    values = asdict(settings)
    if not settings.store and not settings.etcd_servers:
        values["store"] = "etcd" if etcd.is_installed() else "embedded"
        if values["store"] == "embedded":
            notes.append("etcd is not installed: using the embedded store (SQLite)")
    elif not settings.store:
        values["store"] = "etcd"
    elif settings.store == "etcd" and not settings.etcd_servers and not etcd.is_installed():
        raise FileNotFoundError("--store etcd needs etcd: install etcd-server, or give --etcd-servers")
    if settings.agent and (missing := missing_for_agent()):
        values["agent"] = False
        values["simulated_nodes"] = settings.simulated_nodes or 1
        notes.append(f"no containers on this machine, it lacks: {', '.join(missing)}")
        notes.append(f"starting {values['simulated_nodes']} simulated node(s) instead")
    if not settings.bind_address:
        # Pods reach the server at the machine's address, not at loopback.
        values["bind_address"] = "0.0.0.0" if values["agent"] else "127.0.0.1"  # noqa: S104
    return Settings(**values), notes


def cluster_cidr(settings: Settings) -> str:
    """Return the range of all nodes' pods: the one given, else 256 times that of this node's pods."""
    import ipaddress

    if settings.cluster_cidr:
        return settings.cluster_cidr
    parts = [ipaddress.ip_network(part.strip()) for part in settings.pod_cidr.split(",") if part.strip()]
    return ",".join(str(one.supernet(prefixlen_diff=min(8, one.prefixlen))) for one in parts)


def shared_settings(settings: Settings) -> dict[str, str]:
    """Return what other machines are to know of the cluster's network."""
    return {
        "service_cidr": settings.service_cidr, "cluster_cidr": cluster_cidr(settings),
        "cluster_dns": dns_address(settings.service_cidr) if settings.dns else "",
        "load_balancer": settings.load_balancer,
    }  # fmt: skip


def node_settings(server: str, name: str, shared: Mapping[str, str], given: Mapping[str, Any]) -> Settings:
    """Return the settings of a machine that has joined: what the cluster says, and what was asked for here."""
    known = {
        key: shared[key] for key in ("service_cidr", "cluster_cidr", "cluster_dns", "load_balancer") if key in shared
    }
    return Settings(join=server, pod_cidr="", dns=False, **{**given, **known, "node_name": name})


def dns_address(service_cidr: str) -> str:
    """Return the well-known address of cluster DNS: the tenth of the service range."""
    import ipaddress

    return str(ipaddress.ip_network(service_cidr.partition(",")[0])[10])


def node_name() -> str:
    """Return this machine's name as a node's: its host name in lower case."""
    import socket

    return socket.gethostname().lower()


def save(layout: Layout, settings: Settings) -> None:
    """Remember the settings for `status`, `down` and the next `up`."""
    layout.settings.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def load(layout: Layout) -> Settings | None:
    """Return the settings of the last `up`, if there was one."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Settings(**json.loads(layout.settings.read_text()))
    return None
