"""Takes away what the service network left on this machine."""

import subprocess


def cleanup(bridge: str, service_cidr: str) -> None:
    """Remove our table and the route to the services; absent ones are no error."""
    subprocess.run(["nft", "delete", "table", "ip", bridge], check=False, capture_output=True)
    subprocess.run(["ip", "route", "delete", service_cidr, "dev", "lo"], check=False, capture_output=True)
