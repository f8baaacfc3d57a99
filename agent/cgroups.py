"""The cgroups of pods: made with the pod's own limits before its containers, removed after them.

Containers' cgroups are the runtime's; a pod's bounds them all together. Version 1 has several hierarchies.
Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.admission import requested
from agent.container_config import cgroup_parent
from machinery.api.quantity import cpu_millis, to_bytes

ROOT = Path("/sys/fs/cgroup")
_PERIOD_MICROSECONDS = 100_000


def _hierarchies() -> list[Path]:
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [one for one in ROOT.iterdir() if one.is_dir() and not one.is_symlink()] if ROOT.is_dir() else []


def remove(path: str) -> None:
    """Remove a cgroup and those below it, in each hierarchy; one in use stays."""
    for hierarchy in _hierarchies():
        # Others may remove theirs at the same time: what is gone is passed over.
        for folder, _, _ in os.walk(hierarchy / path.lstrip("/"), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def make_pod(pod: Mapping[str, Any], pids: int = 0) -> None:
    """Make a pod's cgroup, or bring its limits up to date. What this machine can't limit stays unlimited. Blocks.

    Args: `pids` is how many processes the pod may have; 0 for any number.
    """
    path = cgroup_parent(pod).lstrip("/")
    shares = max(requested(pod, "cpu") * 1024 // 1000, 2)
    cpu, memory = limit(pod, "cpu"), limit(pod, "memory")
    quota = cpu * _PERIOD_MICROSECONDS // 1000 if cpu else 0
    if (ROOT / "cgroup.controllers").exists():
        _enable(path)
        weight = 1 + (min(shares, 262144) - 2) * 9999 // 262142
        settings = {"cpu.weight": str(weight), "cpu.max": f"{quota or 'max'} {_PERIOD_MICROSECONDS}"}
        _set(ROOT / path, settings | {"memory.max": str(memory or "max"), "pids.max": str(pids or "max")})
        return
    settings = {"cpu.shares": str(shares), "cpu.cfs_quota_us": str(quota or -1)}
    _set(ROOT / "cpu" / path, settings)
    _set(ROOT / "memory" / path, {"memory.limit_in_bytes": str(memory or -1)})
    if pids:
        _set(ROOT / "pids" / path, {"pids.max": str(pids)})


def _enable(path: str) -> None:
    """Let the controllers of version 2 act in a cgroup; its parents must pass them on."""
    folder = ROOT
    for part in Path(path).parts:
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text("+cpu +memory +pids +cpuset +io +hugetlb")
        folder /= part
        folder.mkdir(exist_ok=True)


def _set(folder: Path, settings: Mapping[str, str]) -> None:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    for name, value in settings.items():
        with contextlib.suppress(OSError):
            (folder / name).write_text(value)


def limit(pod: Mapping[str, Any], name: str) -> int:
    """Return the most all containers of a pod may use together, millicores or bytes; 0 when one has no limit."""
    read = cpu_millis if name == "cpu" else to_bytes
    of_pod = ((pod["spec"].get("resources") or {}).get("limits") or {}).get(name)
    overhead = read((pod["spec"].get("overhead") or {}).get(name, "0"))
    if of_pod is not None:
        return read(of_pod) + overhead
    total = most = 0
    for group in ("containers", "initContainers"):
        for spec in pod["spec"].get(group) or ():
            value = ((spec.get("resources") or {}).get("limits") or {}).get(name)
            if value is None:
                return 0
            if group == "containers" or spec.get("restartPolicy") == "Always":
                total += read(value)
            else:
                most = max(most, read(value))
    return max(total, most) + overhead
