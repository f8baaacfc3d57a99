"""Takes away what the network left on this machine."""

import subprocess


def cleanup(bridge: str, service_cidr: str) -> None:
    """Remove our tables, the routes to services, and the pods' bridge; absent ones are no error."""
    for table in (f"ip {bridge}", f"ip6 {bridge}", f"inet {bridge}-policy"):
        subprocess.run(["nft", "delete", "table", *table.split()], check=False, capture_output=True)
    for part in service_cidr.split(","):
        family = "-6" if ":" in part else "-4"
        subprocess.run(["ip", family, "route", "delete", part, "dev", "lo"], check=False, capture_output=True)
