"""Docker's -v, --mount and --tmpfs as volumes of a pod; named volumes are folders on the node."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.containers.naming import DockerError

VOLUMES = Path("/var/lib/wherry-volumes")
"""Where named volumes lie."""


def volume_of(
    texts: Sequence[str], mounts: Sequence[str], tmpfs: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the pod's volumes and the container's mounts. Raises: DockerError."""
    volumes: list[dict[str, Any]] = []
    places: list[dict[str, Any]] = []

    def add(source: dict[str, Any], target: str, *, read_only: bool = False) -> None:
        if not target.startswith("/"):
            raise DockerError(f"invalid mount path: '{target}' mount path must be absolute", 125)
        name = f"v{len(volumes)}"
        volumes.append({"name": name, **source})
        places.append({"name": name, "mountPath": target, **({"readOnly": True} if read_only else {})})

    for text in texts:
        parts = text.split(":")
        if len(parts) == 1:
            add({"emptyDir": {}}, parts[0])
        else:
            add(source_of(parts[0]), parts[1], read_only="ro" in parts[2:])
    for text in mounts:
        _mount(text, add)
    for text in tmpfs:
        add({"emptyDir": {"medium": "Memory"}}, text.partition(":")[0])
    return volumes, places


def source_of(text: str) -> dict[str, Any]:
    """Return the volume a path of the host or a name stands for. Raises: DockerError."""
    if text.startswith(("/", ".", "~")):
        return {
            "hostPath": {
                "path": str(Path(text).expanduser().resolve()),
                **({} if Path(text).exists() else {"type": "DirectoryOrCreate"}),
            }
        }
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise DockerError(f'create {text}: "{text}" includes invalid characters for a local volume name', 125)
    return {"hostPath": {"path": str(VOLUMES / text), "type": "DirectoryOrCreate"}}


def _mount(text: str, add: Any) -> None:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    target = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
    source = fields.get("source") or fields.get("src") or ""
    if fields.get("type") == "tmpfs":
        add({"emptyDir": {"medium": "Memory"}}, target)
    else:
        read_only = "readonly" in fields or "ro" in fields
        path = os.path.abspath(source) if fields.get("type") == "bind" else source
        add(source_of(path) if source else {"emptyDir": {}}, target, read_only=read_only)
