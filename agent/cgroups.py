"""The cgroups of pods: made with the pod's own limits before its containers, removed after them.

Containers' cgroups are the runtime's; a pod's bounds them all together. Version 1 has several hierarchies.
Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/
"""

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.admission import requested
from agent.container_config import cgroup_parent
from machinery.api.quantity import cpu_millis, to_bytes

ROOT = Path("/sys/fs/cgroup")
PODS = "wherry"  # the cgroup of all pods
_PERIOD_MICROSECONDS = 100_000
_LEAST_SHARES, _MOST_SHARES, _MOST_WEIGHT = 2, 262144, 10000
_CLASSES = ("guaranteed", "burstable", "besteffort")
_shares: dict[str, int] = {}  # of pods by their paths: what was asked for, which weights of version 2 only come near to
_lock = threading.Lock()


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


def make_pod(pod: Mapping[str, Any], pids: int | None = None) -> None:
    """Make a pod's cgroup, or bring its limits up to date. What this machine can't limit stays unlimited. Blocks.

    Args: `pids` is how many processes the pod may have, 0 for any number; left as it is where it is left out.
    """
    path = cgroup_parent(pod).lstrip("/")
    shares = max(requested(pod, "cpu") * 1024 // 1000, _LEAST_SHARES)
    _shares[path] = shares
    cpu, memory = limit(pod, "cpu"), limit(pod, "memory")
    quota = cpu * _PERIOD_MICROSECONDS // 1000 if cpu else 0
    if (ROOT / "cgroup.controllers").exists():
        _enable(path)
        settings = {"cpu.weight": str(_weight(shares)), "cpu.max": f"{quota or 'max'} {_PERIOD_MICROSECONDS}"}
        settings["memory.max"] = str(memory or "max")
        _set(ROOT / path, settings | ({"pids.max": str(pids or "max")} if pids is not None else {}))
        _balance(path)
        return
    settings = {"cpu.shares": str(shares), "cpu.cfs_quota_us": str(quota or -1)}
    _set(ROOT / "cpu" / path, settings)
    _set(ROOT / "memory" / path, {"memory.limit_in_bytes": str(memory or -1)})
    if pids:
        _set(ROOT / "pids" / path, {"pids.max": str(pids)})
    _balance(path)


def remove_pod(path: str) -> None:
    """Remove a pod's cgroup. Blocks."""
    remove(path)
    _shares.pop(path.lstrip("/"), None)
    _balance(path.lstrip("/"))


def bound_pods(cpu: int, memory: int) -> None:
    """Bound all pods together by what the node has for them: millicores, and bytes; 0 for no bound. Blocks.

    Source: https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/#enforcing-node-allocatable
    """
    shares = max(cpu * 1024 // 1000, _LEAST_SHARES)
    if (ROOT / "cgroup.controllers").exists():
        _enable(PODS)
        _set(ROOT / PODS, {"cpu.weight": str(_weight(shares)), "memory.max": str(memory or "max")})
        return
    _set(ROOT / "cpu" / PODS, {"cpu.shares": str(shares)})
    _set(ROOT / "memory" / PODS, {"memory.limit_in_bytes": str(memory or -1)})


def _weight(shares: int) -> int:
    """Return what shares of version 1 are in version 2."""
    return 1 + (min(shares, _MOST_SHARES) - _LEAST_SHARES) * (_MOST_WEIGHT - 1) // (_MOST_SHARES - _LEAST_SHARES)


def _balance(path: str) -> None:
    """Give a class of pods the CPU that all its pods ask for, best-effort ones as little as can be.

    Else the three classes would share the machine alike, whatever their pods ask for.
    """
    folder, name = os.path.dirname(path), os.path.basename(os.path.dirname(path))
    if name not in _CLASSES:
        return
    is_v2 = (ROOT / "cgroup.controllers").exists()
    place = ROOT / folder if is_v2 else ROOT / "cpu" / folder
    with _lock, contextlib.suppress(OSError):
        total = _LEAST_SHARES
        if name != "besteffort":
            pods = [one for one in os.listdir(place) if one.startswith("pod")]
            total = max(sum(_shares_of(place / one, f"{folder}/{one}", is_v2=is_v2) for one in pods), _LEAST_SHARES)
        _set(place, {"cpu.weight": str(_weight(total))} if is_v2 else {"cpu.shares": str(min(total, _MOST_SHARES))})


def _shares_of(place: Path, path: str, *, is_v2: bool) -> int:
    """Return the shares of a pod, of another agent's on this machine too; 0 for one that is just going."""
    if path in _shares:
        return _shares[path]
    with contextlib.suppress(OSError, ValueError):
        value = int((place / ("cpu.weight" if is_v2 else "cpu.shares")).read_text())
        span = _MOST_SHARES - _LEAST_SHARES
        return _LEAST_SHARES + (value - 1) * span // (_MOST_WEIGHT - 1) if is_v2 else value
    return 0


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
