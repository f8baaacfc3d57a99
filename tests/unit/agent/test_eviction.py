"""Who goes when a node runs short, and who takes too much of its disk.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.cri import api_pb2 as cri
from agent.eviction import ImageCollector, Usage, rank, storage_excess
from agent.images import ImagePuller
from agent.metrics import Metrics
from agent.settings import Settings
from agent.simulated.runtime import Behaviour, SimulatedRuntime


def pod(name: str, *, memory: str = "", priority: int = 0, **spec: Any) -> dict[str, Any]:
    requests = {"requests": {"memory": memory}} if memory else {}
    containers = [{"name": "main", "resources": requests}]
    return {"metadata": {"name": name, "uid": name}, "spec": {"containers": containers, "priority": priority, **spec}}


def test_those_over_their_requests_go_first_then_the_less_important_then_the_greediest() -> None:
    usages = [
        Usage(pod("within", memory="100Mi"), memory=50 << 20), Usage(pod("important", priority=100), memory=90 << 20),
        Usage(pod("greedy"), memory=80 << 20), Usage(pod("modest"), memory=10 << 20), Usage(pod("system", priority=2_000_000_000), memory=1 << 30),
    ]  # fmt: skip
    assert [one.pod["metadata"]["name"] for one in rank(usages, "memory")] == [
        "greedy",
        "modest",
        "important",
        "within",
    ]


@pytest.mark.parametrize("resource", ["inodes", "pids"])
def test_of_what_nobody_requests_the_less_important_go_first_then_those_who_have_most(resource: str) -> None:
    usages = [
        Usage(pod("important", priority=100), files=900, processes=900), Usage(pod("many"), files=80, processes=80),
        Usage(pod("few"), files=2, processes=2), Usage(pod("system", priority=2_000_000_000), files=10**6, processes=10**6),
    ]  # fmt: skip
    assert [one.pod["metadata"]["name"] for one in rank(usages, resource)] == ["many", "few", "important"]


@pytest.mark.parametrize(
    ("volumes", "limit", "used", "text"),
    [
        ({"v": 2 << 20}, "", 0, 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '), ({"v": 1 << 20}, "", 0, ""),
        ({}, "1Mi", 2 << 20, 'Container main exceeded its local ephemeral storage limit "1Mi". '),
        ({"v": 1 << 20}, "1Mi", 1 << 19, "Pod ephemeral local storage usage exceeds the total limit of containers 1048576. "),
    ],
)  # fmt: skip
def test_disk_is_limited_by_volume_container_and_pod(volumes: dict[str, int], limit: str, used: int, text: str) -> None:
    limited = pod("p", volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}])
    if limit:
        limited["spec"]["containers"][0]["resources"] = {"limits": {"ephemeral-storage": limit}}
    assert storage_excess(limited, {"main": used}, {}, volumes) == text


async def test_images_out_of_use_go_until_the_disk_is_free_enough(tmp_path: Path) -> None:
    class Services:
        metrics = Metrics()
        runtime = SimulatedRuntime(Behaviour(), "10.0.0")
        puller = ImagePuller(runtime)
        config = SimpleNamespace(settings=Settings(image_min_age=0.0))

    for name in ("a", "b", "c"):
        await Services.runtime.pull(name, None, cri.PodSandboxConfig())
    full = iter([70.0, 90.0, 90.0, 88.0, 79.0])
    collector = ImageCollector(Services, lambda: next(full))  # type: ignore[arg-type]  # it needs no more of them
    assert await collector.look() == []
    assert len(await collector.look()) == 2
    assert len(await Services.runtime.images()) == 1


async def test_images_are_kept_for_a_while_and_then_no_longer(tmp_path: Path) -> None:
    class Services:
        metrics = Metrics()
        runtime = SimulatedRuntime(Behaviour(), "10.0.0")
        puller = ImagePuller(runtime)
        config = SimpleNamespace(settings=Settings())

    await Services.runtime.pull("a", None, cri.PodSandboxConfig())
    collector = ImageCollector(Services, lambda: 99.0)  # type: ignore[arg-type]  # it needs no more of them
    assert await collector.look() == []  # it has just come
    Services.config.settings.image_max_age = 1e-9
    assert len(await collector.look()) == 1
