"""The static CPU policy: containers of Guaranteed pods that ask for whole CPUs have them to themselves.

All others share what is left. What was given away is written down, so that an agent that starts anew keeps to it.
Source: https://kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies/
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.environment import ConfigError
from machinery.api.quantity import cpu_millis

Pod = Mapping[str, Any]
_FILE = "cpu_manager_state"


def whole_cpus(pod: Pod, container: Mapping[str, Any]) -> int:
    """Return how many CPUs of its own a container is to have; 0 for a share of the common ones."""
    if (pod.get("status") or {}).get("qosClass") != "Guaranteed":
        return 0
    millis = cpu_millis(((container.get("resources") or {}).get("requests") or {}).get("cpu", "0"))
    return millis // 1000 if millis % 1000 == 0 else 0


def ranges(cpus: Iterable[int]) -> str:
    """Return CPUs as the kernel lists them, such as 0-2,7."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


class CpuManager:
    """Gives CPUs to containers."""

    def __init__(self, folder: Path, reserved: int, changed: Callable[[], None], cpus: Iterable[int] = ()) -> None:
        """Make one.

        Args:
            folder: where it is written down who has which.
            reserved: how many CPUs are never given away; at least 1, for all who share.
            changed: called when the common ones are others than before.
            cpus: the CPUs there are; this machine's when left out.
        """
        self._path = folder / _FILE
        self._all = set(cpus) or os.sched_getaffinity(0)
        self._reserved = set(sorted(self._all)[: max(reserved, 1)])
        self._changed = changed
        self._given: dict[str, dict[str, list[int]]] = {}  # uid of the pod -> name of the container
        with contextlib.suppress(OSError, ValueError):
            self._given = json.loads(self._path.read_text())

    def shared(self) -> set[int]:
        """Return the CPUs that nobody has for himself."""
        return self._all - {cpu for pod in self._given.values() for cpus in pod.values() for cpu in cpus}

    def exclusive(self, uid: str, container: str) -> list[int]:
        """Return the CPUs a container has for itself."""
        return list(self._given.get(uid, {}).get(container, ()))

    def allocatable(self) -> list[int]:
        """Return the CPUs that may be given away."""
        return sorted(self._all - self._reserved)

    def cpus(self, pod: Pod, container: Mapping[str, Any]) -> str:
        """Return the CPUs a container may run on, given to it now if they are to be its own. Raises: ConfigError."""
        count, uid, name = whole_cpus(pod, container), pod["metadata"]["uid"], container["name"]
        known = self._given.get(uid, {}).get(name)
        if known is not None:
            return ranges(known)
        if not count:
            return ranges(self.shared())
        free = sorted(self.shared() - self._reserved)
        if len(free) < count:
            raise ConfigError(f"not enough cpus available to satisfy request: requested={count}, available={len(free)}")
        self._given.setdefault(uid, {})[name] = free[:count]
        self._save()
        return ranges(free[:count])

    def forget(self, uid: str) -> None:
        """Take back what a pod had."""
        if self._given.pop(uid, None) is not None:
            self._save()

    def _save(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._given))
        temporary.replace(self._path)
        self._changed()
