"""Takes away what the network left on this machine."""

import ipaddress
import subprocess

from agent.network.announcer import leave
from agent.network.links import ROUTE_PROTOCOL


def cleanup(bridge: str, service_cidr: str, load_balancer: str = "") -> None:
    """Remove our tables, routes, tunnel and announced addresses; absent ones are no error.

    Args: `load_balancer` is the range of addresses that were announced, "" for none.
    """
    if load_balancer:
        leave(ipaddress.ip_network(load_balancer))
    for table in (f"ip {bridge}", f"ip6 {bridge}", f"inet {bridge}-policy"):
        subprocess.run(["nft", "delete", "table", *table.split()], check=False, capture_output=True)
    for family in ("-4", "-6"):
        argv = ["ip", family, "route", "flush", "proto", str(ROUTE_PROTOCOL)]
        subprocess.run(argv, check=False, capture_output=True)
    for tunnel in ("vx", "wg"):
        subprocess.run(["ip", "link", "delete", f"{bridge}-{tunnel}"], check=False, capture_output=True)
    for part in service_cidr.split(","):
        family = "-6" if ":" in part else "-4"
        subprocess.run(["ip", family, "route", "delete", part, "dev", "lo"], check=False, capture_output=True)
