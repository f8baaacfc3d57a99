"""A node's configuration files. Source: https://kubernetes.io/docs/reference/node/kubelet-config-directory-merging/"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import config_follower, kubelet_config
from agent.config import AgentConfig
from agent.config_follower import ConfigFollower
from agent.kubelet_config import BadConfiguration
from agent.server_reports import shown
from agent.settings import Settings

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEAD + text)
    return path


def test_later_files_win_maps_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    file = write(
        tmp_path / "main.yaml",
        "maxPods: 10\nevictionHard: {memory.available: 1Gi, pid.available: 5%}\nclusterDNS: [10.0.0.1, 10.0.0.2]",
    )
    write(tmp_path / "d/20-b.conf", "maxPods: 30")
    write(tmp_path / "d/10-a.conf", "maxPods: 20\nevictionHard: {memory.available: 2Gi}\nclusterDNS: [10.0.0.3]")
    write(tmp_path / "d/30-c.yaml", "maxPods: 40")  # of another suffix
    found = kubelet_config.settings(kubelet_config.read(file, tmp_path / "d"))
    assert found.max_pods == 30
    assert found.eviction_hard == {"memory.available": "2Gi", "pid.available": "5%"}
    assert found.cluster_dns == ("10.0.0.3",)
    assert kubelet_config.read(tmp_path / "absent", tmp_path / "nowhere") == {}
    assert kubelet_config.settings({}) == Settings()


def test_what_flags_say_wins() -> None:
    assert kubelet_config.settings({"shutdownGracePeriod": "1m"}, {"shutdown_seconds": 20}).shutdown_seconds == 20


def test_fields_become_settings() -> None:
    body = {
        "kubeReserved": {"cpu": "250m", "memory": "1Gi"}, "systemReserved": {"cpu": "1", "ephemeral-storage": "5Gi"},
        "containerLogMaxSize": "1Mi", "imageMaximumGCAge": "1h30m", "serializeImagePulls": True, "podPidsLimit": -1,
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1m"}, "allowedUnsafeSysctls": ["kernel.msg*"],
        "shutdownGracePeriodByPodPriority": [
            {"priority": 1000, "shutdownGracePeriodSeconds": 5}, {"priority": 0, "shutdownGracePeriodSeconds": 9},
        ],
    }  # fmt: skip
    found = kubelet_config.settings(body)
    assert found.reserved == {"cpu": "1250m", "memory": str(1 << 30), "ephemeral-storage": str(5 << 30)}
    assert (found.log_max_bytes, found.image_max_age, found.max_pulls, found.pids_limit) == (1 << 20, 5400.0, 1, 0)
    assert (found.max_backoff_seconds, found.shutdown_by_priority) == (60.0, ((0, 9.0), (1000, 5.0)))
    assert found.allows_sysctl("kernel.msgmax")
    assert not found.allows_sysctl("kernel.shmmax")
    assert found.threshold("memory.available", 0) == 100 << 20
    assert found.threshold("nodefs.available", 1000) == 50


def test_what_is_read_at_the_start_alone() -> None:
    body = {"port": 20250, "containerRuntimeEndpoint": "unix:///run/x.sock", "staticPodPath": "/etc/m"}
    found = {"port": 20250, "runtime_socket": Path("/run/x.sock"), "static_pod_dir": Path("/etc/m")}
    assert kubelet_config.at_start(body) == found
    assert kubelet_config.left_out({"memorySwap": {}, "maxPods": 1}) == ["memorySwap"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("maxPod: 1", 'unknown field "maxPod"'),
        ("maxPods: many", "maxPods: invalid value 'many'"),
        ("maxPods: 0", "maxPods must be more than 0"),
        ("imageMinimumGCAge: 2 days", "it is no duration"),
        ("evictionHard: {disk.available: 1Gi}", 'unknown signal "disk.available"'),
        ("evictionHard: {memory.available: 120%}", "120% is no share"),
        ("imageGCHighThresholdPercent: 70", "must be less than"),
        ("shutdownGracePeriodCriticalPods: 1h", "no longer than shutdownGracePeriod"),
        ("cpuManagerPolicy: dynamic", "it must be none or static"),
        ("containerLogMaxFiles: 1", "must be more than 1"),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 10m}", "must be between"),
        ("a: [", "expected"),
    ],
)
def test_what_can_not_be_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = write(tmp_path / "main.yaml", text)
    with pytest.raises(BadConfiguration, match=why):
        _all_of(kubelet_config.read(file, None))


def _all_of(body: Mapping[str, Any]) -> None:
    kubelet_config.settings(body)
    kubelet_config.at_start(body)


def test_each_file_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("maxPods: 1")
    with pytest.raises(BadConfiguration, match="it is no KubeletConfiguration"):
        kubelet_config.read(None, tmp_path)


def test_durations_are_shown_as_go_does() -> None:
    assert [shown(one) for one in (0, 10, 90, 300, 3600, 5430, 0.5)] == [
        "0s", "10s", "1m30s", "5m0s", "1h0m0s", "1h30m30s", "0.5s",
    ]  # fmt: skip


class Recorder:
    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def event(self, _: Any, __: str, reason: str, message: str) -> None:
        self.told.put_nowait((reason, message))


async def test_changes_take_effect_and_wrong_ones_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_follower, "_GATHER_SECONDS", 0.01)
    file = write(tmp_path / "main.yaml", "maxPods: 10")
    body = kubelet_config.read(file, None)
    config = AgentConfig(
        client=None, node_name="n1", node_ip="127.0.0.1", data_dir=tmp_path, runtime_socket=tmp_path,  # type: ignore[arg-type]
        cert_file=tmp_path, key_file=tmp_path, ca_file=tmp_path, settings=kubelet_config.settings(body),
        config_file=file, config_dir=tmp_path / "d", configuration=body,
    )  # fmt: skip
    changes: asyncio.Queue[list[str]] = asyncio.Queue()
    recorder = Recorder()
    task = asyncio.create_task(ConfigFollower(config, recorder, changes.put_nowait).run())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        write(file, "maxPods: 20")
        assert await changes.get() == ["max_pods"]
        write(tmp_path / "d/a.conf", "maxPods: 30\nport: 7")  # a folder that comes later, and what waits for a start
        assert await changes.get() == ["max_pods"]
        assert (config.settings.max_pods, config.port) == (30, 10250)
        write(file, "maxPods: none")
        write(tmp_path / "d/a.conf", "port: 7")
        reason, message = await recorder.told.get()
        assert reason == "InvalidKubeletConfiguration"
        assert "maxPods: invalid value 'none'" in message
        assert config.settings.max_pods == 30
        file.unlink()
        assert await changes.get() == ["max_pods"]
        assert config.settings.max_pods == 110
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
