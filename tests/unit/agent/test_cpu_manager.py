"""Who has CPUs of his own.

Source: https://kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies/
"""

from pathlib import Path
from typing import Any

import pytest

from agent.cpu_manager import CpuManager, ranges, whole_cpus
from agent.environment import ConfigError


def pod(uid: str, quality: str = "Guaranteed") -> dict[str, Any]:
    return {"metadata": {"uid": uid}, "status": {"qosClass": quality}}


def container(cpu: str) -> dict[str, Any]:
    return {"name": "main", "resources": {"requests": {"cpu": cpu}}}


@pytest.mark.parametrize(
    ("quality", "cpu", "count"),
    [("Guaranteed", "2", 2), ("Guaranteed", "1500m", 0), ("Guaranteed", "2000m", 2), ("Burstable", "2", 0)],
)
def test_whole_cpus_of_guaranteed_pods_count(quality: str, cpu: str, count: int) -> None:
    assert whole_cpus(pod("a", quality), container(cpu)) == count


def test_cpus_are_given_once_kept_over_a_restart_and_taken_back(tmp_path: Path) -> None:
    changes: list[int] = []
    manager = CpuManager(tmp_path, 1, lambda: changes.append(1), range(4))
    assert manager.cpus(pod("b", "Burstable"), container("1")) == "0-3"
    assert manager.cpus(pod("a"), container("2")) == "1-2"
    assert manager.cpus(pod("a"), container("2")) == "1-2"
    assert manager.cpus(pod("b", "Burstable"), container("1")) == "0,3"
    again = CpuManager(tmp_path, 1, lambda: changes.append(1), range(4))
    with pytest.raises(ConfigError, match="requested=2, available=1"):
        again.cpus(pod("c"), container("2"))
    again.forget("a")
    assert again.cpus(pod("c"), container("2")) == "1-2"
    assert len(changes) == 3


def test_ranges_are_written_as_the_kernel_does() -> None:
    assert ranges([7, 0, 1, 2]) == "0-2,7"
