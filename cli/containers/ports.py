"""Ports of the host that containers answer at."""

from typing import Any

from cli.containers.naming import DockerError
from cli.session import Session
from machinery.compose import values


def port(text: str) -> dict[str, Any]:
    """Return the container port that `[IP:]HOST:CONTAINER[/PROTOCOL]` asks for. Raises: DockerError."""
    try:
        return values.container_port(text, free_port)
    except values.ComposeError as error:
        raise DockerError(str(error), 125) from error


def free_port() -> int:
    """Return a port of this host that nobody listens at."""
    import socket

    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))  # noqa: S104 - asks which port is free on any address
        return int(probe.getsockname()[1])


def check_ports(session: Session, pod: dict[str, Any]) -> None:
    """Refuse a port of the host that a pod has already. Raises: DockerError."""
    wanted = {(one["hostPort"], one["protocol"]) for one in pod["spec"]["containers"][0].get("ports") or ()}
    if not wanted:
        return
    for other in session.connection.json("GET", "/api/v1/pods")["items"]:
        if (other.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        for container in other["spec"]["containers"]:
            for one in container.get("ports") or ():
                if (one.get("hostPort"), one.get("protocol", "TCP")) in wanted:
                    whose = f"{other['metadata']['namespace']}/{other['metadata']['name']}"
                    raise DockerError(
                        f"Bind for 0.0.0.0:{one['hostPort']} failed: port is already allocated by pod {whose}", 125
                    )
