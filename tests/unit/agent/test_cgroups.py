"""The tree of pods' cgroups. Source: the kubelet's classes of quality and what CPU they get together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import cgroups


def pod(uid: str, quality: str, cpu: str) -> dict[str, Any]:
    resources = {"requests": {"cpu": cpu}} if cpu else {}
    spec = {"containers": [{"name": "main", "resources": resources}]}
    return {"metadata": {"uid": uid}, "spec": spec, "status": {"qosClass": quality}}


@pytest.fixture(params=["v1", "v2"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "_shares", {})
    if request.param == "v2":
        (tmp_path / "cgroup.controllers").touch()
        yield tmp_path
    else:
        for name in ("cpu", "memory", "pids"):
            (tmp_path / name).mkdir()
        yield tmp_path / "cpu"


def told(folder: Path) -> int:
    """Return a cgroup's share of CPU, in shares."""
    if (folder / "cpu.shares").exists():
        return int((folder / "cpu.shares").read_text())
    return int((folder / "cpu.weight").read_text())


def of(root: Path, shares: int) -> int:
    return shares if root.name == "cpu" else cgroups._weight(shares)


def test_a_class_gets_the_cpu_its_pods_ask_for(root: Path) -> None:
    cgroups.make_pod(pod("a", "Burstable", "500m"))
    cgroups.make_pod(pod("b", "Burstable", "1"))
    cgroups.make_pod(pod("c", "Guaranteed", "2"))
    cgroups.make_pod(pod("d", "BestEffort", ""))
    shares = {name: told(root / "wherry" / name) for name in ("burstable", "guaranteed", "besteffort")}
    assert shares == {"burstable": of(root, 1536), "guaranteed": of(root, 2048), "besteffort": of(root, 2)}


def test_it_changes_with_a_pod_s_requests_and_with_pods_that_others_made(root: Path) -> None:
    cgroups.make_pod(pod("a", "Burstable", "500m"))
    cgroups.make_pod(pod("a", "Burstable", "1500m"))
    assert told(root / "wherry/burstable") == of(root, 1536)
    cgroups._shares.clear()  # as an agent that has just started
    cgroups.make_pod(pod("b", "Burstable", "1"))
    assert told(root / "wherry/burstable") == pytest.approx(of(root, 2560), abs=1)


def test_all_pods_are_bound_by_what_the_node_has_for_them(root: Path) -> None:
    cgroups.bound_pods(1500, 1 << 30)
    assert told(root / "wherry") == of(root, 1536)
    name = "memory/wherry/memory.limit_in_bytes" if root.name == "cpu" else "wherry/memory.max"
    top = root.parent if root.name == "cpu" else root
    assert (top / name).read_text() == str(1 << 30)
    cgroups.bound_pods(1500, 0)
    assert (top / name).read_text() == ("-1" if root.name == "cpu" else "max")
