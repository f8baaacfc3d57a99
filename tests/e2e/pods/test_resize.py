"""Resources of running containers, changed in place.

Source: https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
"""

import re
from typing import Any

import pytest

from tests.e2e.pods.conftest import Pods, condition, container_status, shell

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]

LIMITS = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"


def sized(cpu: str, memory: str) -> dict[str, Any]:
    return {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}


async def resize(pods: Pods, pod: Any, resources: Any) -> Any:
    return await pods.patch(pod, {"spec": {"containers": [{"name": "main", "resources": resources}]}}, "resize")


async def test_limits_change_without_a_restart(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60", resources=sized("100m", "64Mi")), restartPolicy="Always")
    ready = await pods.running(pod)
    assert container_status(ready)["allocatedResources"] == {"cpu": "100m", "memory": "64Mi"}
    assert (await pods.exec(pod, "sh", "-c", LIMITS)).split()[:2] == [str(64 * 2**20), "10000"]
    await resize(pods, pod, sized("200m", "96Mi"))
    done = await pods.until(
        pod,
        lambda one: (
            container_status(one)["resources"] == sized("200m", "96Mi") and not condition(one, "PodResizeInProgress")
        ),
        "the resize",
    )
    assert container_status(done)["restartCount"] == 0
    assert container_status(done)["allocatedResources"] == {"cpu": "200m", "memory": "96Mi"}
    assert (await pods.exec(pod, "sh", "-c", LIMITS)).split() == [str(96 * 2**20), "20000", "204"]


async def test_a_resource_whose_policy_says_so_restarts_its_container(pods: Pods) -> None:
    policy = [
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
    ]
    pod = await pods.create(
        shell(
            "trap 'exit 0' TERM; while true; do sleep 0.05; done", resources=sized("100m", "64Mi"), resizePolicy=policy
        ),
        restartPolicy="Always",
    )
    await pods.running(pod)
    await resize(pods, pod, sized("100m", "96Mi"))
    await pods.until(
        pod, lambda one: container_status(one)["restartCount"] == 1 and condition(one, "Ready") == "True", "the restart"
    )
    assert (await pods.exec(pod, "sh", "-c", LIMITS)).split()[0] == str(96 * 2**20)


async def test_a_limit_below_what_is_used_is_told_and_can_be_taken_back(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60", resources=sized("100m", "64Mi")))
    await pods.running(pod)
    await resize(pods, pod, sized("100m", "10Ki"))
    told = await pods.until(
        pod, lambda one: condition(one, "PodResizeInProgress", "reason") == "Error", "the refusal of the resize"
    )
    words = condition(told, "PodResizeInProgress", "message")
    assert re.search(r"memory limit \(10240\) below current usage", words)
    assert container_status(told)["resources"] == sized("100m", "64Mi")
    await resize(pods, pod, sized("100m", "48Mi"))
    done = await pods.until(pod, lambda one: container_status(one)["resources"] == sized("100m", "48Mi"), "the resize")
    assert container_status(done)["restartCount"] == 0
    await pods.until(pod, lambda one: not condition(one, "PodResizeInProgress"), "the end of the resize")


async def test_what_does_not_fit_is_told_and_changes_nothing(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60", resources=sized("100m", "64Mi")), restartPolicy="Always")
    await pods.running(pod)
    await resize(pods, pod, sized("500", "64Mi"))
    held = await pods.until(pod, lambda one: condition(one, "PodResizePending") == "True", "a refusal")
    assert condition(held, "PodResizePending", "reason") == "Infeasible"
    assert container_status(held)["allocatedResources"]["cpu"] == "100m"
    await resize(pods, pod, sized("100m", "64Mi"))
    await pods.until(pod, lambda one: not condition(one, "PodResizePending"), "the refusal to go")
