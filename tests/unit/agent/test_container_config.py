"""What a container's requests and limits become."""

from pathlib import Path
from typing import Any

import pytest

from agent import container_config
from agent.container_config import linux_resources
from agent.volumes.manager import VolumeManager

GIB = 1 << 30


def pod(quality: str, *, priority: int = 0) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "priority": priority,
        "containers": [{"name": "main", "resources": {"requests": {"memory": "6Gi"}}}],
    }
    spec["initContainers"] = [{"name": "side", "restartPolicy": "Always", "resources": {"requests": {"memory": "1Gi"}}}]
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": {"qosClass": quality}}


@pytest.mark.parametrize(
    ("quality", "asks", "priority", "score"),
    [
        ("Guaranteed", "1Gi", 0, -997), ("BestEffort", "0", 0, 1000), ("Burstable", "2Gi", 0, 750), ("Burstable", "0", 0, 999),
        ("Burstable", "8Gi", 0, 3), ("Burstable", "1Gi", 2_000_001_000, -997),
    ],
)  # fmt: skip
def test_the_more_memory_is_asked_for_the_later_the_kernel_kills(
    quality: str, asks: str, priority: int, score: int
) -> None:
    container = {"name": "c", "resources": {"requests": {"memory": asks}}}
    assert linux_resources(pod(quality, priority=priority), container, 8 * GIB).oom_score_adj == score


def test_a_sidecar_goes_no_earlier_than_what_it_serves() -> None:
    burstable = pod("Burstable")
    assert linux_resources(burstable, burstable["spec"]["initContainers"][0], 8 * GIB).oom_score_adj == 250


def test_only_files_of_the_pod_itself_are_relabelled_and_only_where_there_is_selinux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[dict[str, Any]] = [{"emptyDir": {}}, {"configMap": {"name": "c"}}, {"hostPath": {"path": "/srv"}}]
    volumes = [{"name": f"v{number}", **source} for number, source in enumerate(sources)]
    mounts = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in volumes]
    asking = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"volumes": volumes}}
    container = {"name": "c", "volumeMounts": mounts}
    for path, expected in (("absent", [False, False, False]), ("", [True, True, False])):
        monkeypatch.setattr(container_config, "SELINUX", tmp_path / path)
        found = VolumeManager(tmp_path).mounts(asking, container, {})
        assert [one.selinux_relabel for one in found] == expected


@pytest.mark.parametrize(
    ("swap", "present", "unified", "both"),
    [
        (True, "unified", {"memory.swap.max": "0", "memory.oom.group": "1"}, 0),
        (True, "memsw", {}, GIB),
        (False, "unified", {"memory.oom.group": "1"}, 0),
    ],
    ids=["cgroup v2", "cgroup v1", "no swap"],
)
def test_memory_is_not_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool, present: str, unified: dict[str, str], both: int
) -> None:
    (tmp_path / "swaps").write_text("Filename Type Size Used Priority\n" + "/swap file 1024 0 -2\n" * swap)
    (tmp_path / present).touch()
    for name, path in (("SWAPS", "swaps"), ("UNIFIED", "unified"), ("MEMSW", "memsw")):
        monkeypatch.setattr(container_config, name, tmp_path / path)
    container = {"name": "c", "resources": {"limits": {"memory": "1Gi"}}}
    found = linux_resources(pod("Burstable"), container, 8 * GIB)
    assert (dict(found.unified), found.memory_swap_limit_in_bytes) == (unified, both)


def test_ports_of_sidecars_are_the_node_s_too(tmp_path: Path) -> None:
    port = {"containerPort": 80, "hostPort": 8080}
    inits = [
        {"name": "once", "ports": [port]},
        {"name": "side", "restartPolicy": "Always", "ports": [{**port, "hostPort": 8081}]},
    ]
    spec = {"initContainers": inits, "containers": [{"name": "main", "ports": [{"containerPort": 81}]}]}
    one = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}
    found = container_config.sandbox_config(one, 0, tmp_path, None, hostname="p", seccomp_root=tmp_path)
    assert [(row.container_port, row.host_port) for row in found.port_mappings] == [(80, 8081), (81, 0)]
