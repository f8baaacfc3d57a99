"""Docker's -v, --mount and --tmpfs as volumes of a pod; named volumes are folders on the node."""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.containers.naming import DockerError
from cli.session import Session

VOLUMES = Path("/var/lib/wherry-volumes")
"""Where named volumes lie; all clusters of a machine share the folder."""
_OWNERS = ".owners"


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


def cluster_id(session: Session) -> str:
    """Return what tells a cluster from others: the uid of kube-system. Raises: APIError."""
    return str(session.connection.json("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"])


def owners(name: str) -> set[str]:
    """Return the clusters that a volume was made or used by; empty for one that no command line of ours made."""
    try:
        return set((VOLUMES / _OWNERS / name).read_text().split())
    except OSError:
        return set()


def own(name: str, clusters: set[str]) -> None:
    """Note the clusters of a volume; without any, forget about it."""
    path = VOLUMES / _OWNERS / name
    if not clusters:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{name}.{os.getpid()}")
    temporary.write_text("\n".join(sorted(clusters)))
    temporary.replace(path)


def own_all(session: Session, volumes: Sequence[dict[str, Any]]) -> None:
    """Note that a cluster's pod uses named volumes of this node, so that no other cluster takes them for unused."""
    paths = [Path((one.get("hostPath") or {}).get("path") or "/") for one in volumes]
    if names := [path.name for path in paths if path.parent == VOLUMES]:
        here = cluster_id(session)
        for name in names:
            with contextlib.suppress(OSError):  # not root here: the agent makes the folder, and nobody is noted
                own(name, owners(name) | {here})
