"""CDI, the Container Device Interface: what vendors say must be done for a container to use a device.

Specification: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.runtime.errors import InvalidArgument

# The later folder wins.
FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def edits_for(names: Sequence[str], folders: Iterable[Path] = FOLDERS) -> list[Mapping[str, Any]]:
    """Return the edits of devices named vendor/class=name, each specification's own once.

    Raises: InvalidArgument naming the devices that can't be had.
    """
    if not names:
        return []
    known = _devices(folders)
    missing = [name for name in names if name not in known]
    if missing:
        raise InvalidArgument(f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}")
    found: list[Mapping[str, Any]] = []
    for name in names:
        of_all, own = known[name]
        found += [edit for edit in (of_all, own) if edit and edit not in found]
    return found


def _devices(folders: Iterable[Path]) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    found: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            spec = _read(path)
            for device in spec.get("devices") or ():
                name = f"{spec.get('kind', '')}={device.get('name', '')}"
                found[name] = (spec.get("containerEdits") or {}, device.get("containerEdits") or {})
    return found


def _read(path: Path) -> Mapping[str, Any]:
    """Read a specification; what is none is left out, so that one bad file doesn't bar the others' devices."""
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_bytes())
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            found = yaml.safe_load(path.read_text())
        else:
            return {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def apply(spec: dict[str, Any], edit: Mapping[str, Any]) -> None:
    """Change an OCI spec as an edit says. Raises: InvalidArgument for a device that isn't there."""
    spec["process"]["env"] += edit.get("env") or []
    for node in edit.get("deviceNodes") or ():
        _add_device(spec["linux"], node)
    for mount in edit.get("mounts") or ():
        options = mount.get("options") or ["nosuid", "nodev", "rbind", "ro"]
        spec["mounts"].append(
            {
                "destination": mount["containerPath"], "source": mount["hostPath"],
                "type": mount.get("type") or "bind", "options": options,
            }
        )  # fmt: skip
    for hook in edit.get("hooks") or ():
        if hook.get("hookName") in _HOOKS:
            body = {key: hook[key] for key in ("path", "args", "env", "timeout") if key in hook}
            spec.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(body)
    groups = spec["process"]["user"].setdefault("additionalGids", [])
    groups += [gid for gid in edit.get("additionalGids") or () if gid not in groups]


def _add_device(linux: dict[str, Any], node: Mapping[str, Any]) -> None:
    path = node["path"]
    host = node.get("hostPath") or path
    try:
        status = os.stat(host)
    except OSError as error:
        raise InvalidArgument(f"CDI device injection failed: {host}: {error.strerror}") from error
    kind = node.get("type") or ("b" if stat.S_ISBLK(status.st_mode) else "c")
    major, minor = node.get("major", os.major(status.st_rdev)), node.get("minor", os.minor(status.st_rdev))
    device = {
        "path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": node.get("fileMode", stat.S_IMODE(status.st_mode)), "uid": node.get("uid", 0),
        "gid": node.get("gid", 0),
    }  # fmt: skip
    linux["devices"].append(device)
    access = node.get("permissions") or "rwm"
    linux["resources"]["devices"].append(
        {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
    )  # fmt: skip
