"""Init containers, sidecars, ephemeral containers, hooks, restarts and ends of pods.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

import asyncio
import os
import time
from typing import Any

import pytest

from machinery.api.resources import NODES, PODS
from machinery.client.rest import ConnectionFailed
from machinery.errors import APIError
from tests.e2e.conftest import IMAGE
from tests.e2e.pods.conftest import Pods, condition, container_status, shell, terminated, waiting

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]

VOLUME = [{"name": "v", "emptyDir": {}}]
MOUNT = [{"name": "v", "mountPath": "/v"}]


def named(name: str, command: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", command],
        "volumeMounts": MOUNT,
        **more,
    }


async def test_init_containers_run_in_order_and_the_status_tells_of_each_step(pods: Pods) -> None:
    inits = [
        named("one", "echo one >> /v/log"),
        named("two", "echo two >> /v/log; while [ ! -e /v/go ]; do sleep 0.1; done; sleep 1"),  # exec ends first
    ]
    pod = await pods.create(
        shell("cat /v/log; sleep 60", volumeMounts=MOUNT), initContainers=inits, volumes=VOLUME, restartPolicy="Always"
    )
    held = await pods.until(
        pod, lambda p: "running" in container_status(p, "two", "initContainerStatuses").get("state", {}), "two to run"
    )
    assert held["status"]["phase"] == "Pending"
    assert condition(held, "Initialized") == "False"
    assert condition(held, "Initialized", "message") == "containers with incomplete status: [two]"
    assert waiting(held) == "PodInitializing"
    await pods.exec(pod, "touch", "/v/go", container="two")
    ready = await pods.running(pod)
    assert (await pods.exec(pod, "cat", "/v/log")).split() == ["one", "two"]
    assert condition(ready, "Initialized") == "True"
    assert condition(ready, "Initialized", "reason") == ""
    assert all(one["ready"] for one in ready["status"]["initContainerStatuses"])
    assert {one["observedGeneration"] for one in ready["status"]["conditions"] if one["type"] != "PodScheduled"} == {1}


async def test_a_failed_init_container_of_a_pod_that_never_restarts_fails_it(pods: Pods) -> None:
    pod = await pods.create(shell("true"), initContainers=[named("bad", "exit 3")], volumes=VOLUME)
    done = await pods.ended(pod)
    assert done["status"]["phase"] == "Failed"
    assert terminated(done, "bad", "initContainerStatuses")["exitCode"] == 3
    assert waiting(done) == "PodInitializing"
    assert condition(done, "Initialized", "reason") == "ContainersNotInitialized"


async def test_a_sidecar_starts_first_ends_last_and_does_not_keep_the_pod(pods: Pods) -> None:
    sidecar = named(
        "side", "trap 'echo end $(cat /v/main) >> /v/log; cat /v/log; exit 0' TERM; echo up >> /v/log; while true; do sleep 0.05; done",
        restartPolicy="Always", startupProbe={"exec": {"command": ["cat", "/v/log"]}, "periodSeconds": 1},
    )  # fmt: skip
    pod = await pods.create(
        shell("cat /v/log; echo done > /v/main", volumeMounts=MOUNT), initContainers=[sidecar], volumes=VOLUME
    )
    done = await pods.ended(pod)
    assert done["status"]["phase"] == "Succeeded"
    assert await pods.logs(pod) == "up\n"
    assert (await pods.logs(pod, "side")).split() == ["up", "end", "done"]
    assert condition(done, "Ready", "reason") == "PodCompleted"


async def test_sidecars_end_in_reverse_order_after_the_main_containers(pods: Pods) -> None:
    trap = "trap 'echo {0} >> /v/log; sleep 0.3; exit 0' TERM; while true; do sleep 0.05; done"
    sidecars = [named(name, trap.format(name), restartPolicy="Always") for name in ("s1", "s2")]
    host = f"/var/tmp/wherry-order-{pods.namespace}"
    volume = [{"name": "v", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}]
    pod = await pods.create(
        shell(trap.format("main"), volumeMounts=MOUNT), initContainers=sidecars, volumes=volume,
        terminationGracePeriodSeconds=20,
    )  # fmt: skip
    await pods.running(pod)
    assert await pods.delete(pod) < 10
    from pathlib import Path

    log = Path(host) / "log"
    assert log.read_text().split() == ["main", "s2", "s1"]
    log.unlink()
    log.parent.rmdir()


async def test_hooks_run_by_exec_http_and_sleep(pods: Pods) -> None:
    server = await pods.create(shell("mkdir /tmp/w; echo x > /tmp/w/hooked; httpd -fvv -p 8080 -h /tmp/w"))
    address = (await pods.running(server))["status"]["podIP"]
    command = "trap 'exit 0' TERM; while true; do sleep 0.05; done"
    get = {"path": "/hooked", "host": address, "port": 8080, "httpHeaders": [{"name": "X-Hook", "value": "1"}]}
    exec_hook = named("main", command, lifecycle={
        "postStart": {"exec": {"command": ["sh", "-c", "echo started > /v/hook"]}}, "preStop": {"sleep": {"seconds": 1}},
    })  # fmt: skip
    http_hook = named("http", command, lifecycle={"postStart": {"httpGet": get}, "preStop": {"httpGet": get}})
    pod = await pods.create(exec_hook, http_hook, volumes=VOLUME, terminationGracePeriodSeconds=20)
    await pods.running(pod, 40)  # where the server does not listen yet, the hook fails and the container begins anew
    assert await pods.exec(pod, "cat", "/v/hook") == "started\n"
    assert 1 <= await pods.delete(pod) < 6
    assert (await pods.logs(server)).count("url:/hooked") == 2


async def test_a_failed_post_start_hook_kills_the_container(pods: Pods) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo no; exit 7"]}}}
    pod = await pods.create(shell("sleep 60", lifecycle=hook))
    done = await pods.ended(pod)
    assert terminated(done)["exitCode"] in (137, 143)
    await pods.told(pod, "FailedPostStartHook: PostStartHook failed")


@pytest.mark.parametrize(
    ("command", "policy", "message"),
    [
        ("echo -n told > /dev/termination-log", "File", "told"), ("echo -n logged; exit 1", "FallbackToLogsOnError", "logged"),
        ("echo -n logged", "FallbackToLogsOnError", None), ("echo logged; echo -n told > /dev/termination-log", "FallbackToLogsOnError", "told"),
    ],
)  # fmt: skip
async def test_last_words_are_in_the_status(pods: Pods, command: str, policy: str, message: str | None) -> None:
    done, _ = await pods.run(command, terminationMessagePolicy=policy)
    assert terminated(done).get("message") == message


async def test_last_words_at_a_path_of_their_own_as_another_user(pods: Pods) -> None:
    done, _ = await pods.run(
        "echo -n DONE > /dev/termination-custom-log",
        terminationMessagePath="/dev/termination-custom-log", securityContext={"runAsUser": 1000},
    )  # fmt: skip
    assert terminated(done)["message"] == "DONE"


async def test_a_pod_ends_at_its_deadline(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60"), activeDeadlineSeconds=2)
    done = await pods.ended(pod)
    assert (done["status"]["phase"], done["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    assert "running" not in container_status(done)["state"]


async def test_a_crashing_container_backs_off_and_counts(pods: Pods) -> None:
    pod = await pods.create(shell("exit 3"), restartPolicy="Always")
    held = await pods.until(pod, lambda p: waiting(p) == "CrashLoopBackOff", "back-off")
    status = container_status(held)
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert held["status"]["phase"] == "Running"


async def test_a_container_restarts_by_its_own_rules(pods: Pods) -> None:
    rules = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]
    pod = await pods.create(
        shell("[ -e /v/x ] && exit 0; touch /v/x; exit 42", volumeMounts=MOUNT, restartPolicy="Never", restartPolicyRules=rules),
        volumes=VOLUME,
    )  # fmt: skip
    done = await pods.ended(pod)
    assert done["status"]["phase"] == "Succeeded"
    assert container_status(done)["restartCount"] == 1


async def test_logs_of_a_pod_that_ended_outlive_the_agent(pods: Pods) -> None:
    done, text = await pods.run("echo words")
    assert text == "words\n"
    pods.cluster.run("kill", "-KILL", str(pods.cluster.pid("agent")))
    deadline = time.monotonic() + 20
    while True:
        try:
            if await pods.logs(done) == "words\n":
                return
        except (APIError, ConnectionFailed):
            assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_readiness_gates_hold_a_pod_back(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60"), readinessGates=[{"conditionType": "example.org/gate"}])
    held = await pods.until(pod, lambda p: condition(p, "ContainersReady") == "True", "containers ready")
    assert condition(held, "Ready", "reason") == "ReadinessGatesNotReady"
    gate = {"type": "example.org/gate", "status": "True"}
    conditions = [*held["status"]["conditions"], gate]
    await pods.patch(pod, {"status": {"conditions": conditions}}, "status")
    ready = await pods.running(pod)
    assert condition(ready, "Ready", "reason") == ""
    assert condition(ready, "example.org/gate") == "True"


async def test_a_rejected_pod_says_why(pods: Pods) -> None:
    security = {"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]}
    pod = await pods.create(shell("true"), securityContext=security)
    done = await pods.ended(pod)
    assert done["status"]["reason"] == "SysctlForbidden"
    assert 'forbidden sysctl: "kernel.msgmax" not allowlisted' in done["status"]["message"]


async def test_an_ephemeral_container_joins_a_running_pod_and_sees_its_target(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 7203"))
    await pods.running(pod)
    name = pod["metadata"]["name"]
    arguments = [
        "debug",
        "-n",
        pods.namespace,
        name,
        f"--image={IMAGE}",
        "--image-pull-policy=IfNotPresent",
        "--target=main",
        "--container=dbg",
        "--",
        "sh",
        "-c",
        "ps; sleep 60",
    ]
    await asyncio.to_thread(pods.cluster.kubectl, *arguments)
    seen = await pods.until(
        pod,
        lambda p: "running" in container_status(p, "dbg", "ephemeralContainerStatuses").get("state", {}),
        "it to run",
    )
    assert condition(seen, "Ready") == "True"
    await pods.until_logged(pod, "sleep 7203", "dbg")
    again = [word.replace("--container=dbg", "--container=dbg2") for word in arguments]
    await asyncio.to_thread(pods.cluster.kubectl, *again)
    await pods.until_logged(await pods.until(
        pod, lambda p: "running" in container_status(p, "dbg2", "ephemeralContainerStatuses").get("state", {}), "a second",
    ), "sleep 7203", "dbg2")  # fmt: skip
    assert container_status(await pods.get(pod))["restartCount"] == 0


async def test_a_deleted_pod_is_told_to_have_failed_before_it_is_gone(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60"), restartPolicy="Always", terminationGracePeriodSeconds=1)
    ready = await pods.running(pod)
    name, version = pod["metadata"]["name"], ready["metadata"]["resourceVersion"]
    await pods.client.delete(PODS, name, pods.namespace)
    last = ready
    async with asyncio.timeout(20):
        selector = f"metadata.name={name}"
        async for event in pods.client.watch(PODS, pods.namespace, field_selector=selector, resource_version=version):
            if event.type == "DELETED":
                break
            last = event.decode()
    assert (last["status"]["phase"], terminated(last)["exitCode"]) == ("Failed", 137)
    assert condition(last, "Ready") == "False"


async def test_all_containers_begin_anew_by_the_rule_of_one(pods: Pods) -> None:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}
    again = "if [ -e /v/once ]; then sleep 60; else touch /v/once; exit 42; fi"
    pod = await pods.create(
        shell(again, volumeMounts=MOUNT, restartPolicy="Never", restartPolicyRules=[rule]),
        shell("sleep 60"),
        initContainers=[named("first", "true"), named("side", "sleep 60", restartPolicy="Always")],
        volumes=VOLUME,
    )

    def all_again(one: dict[str, Any]) -> bool:
        groups = ("containerStatuses", "initContainerStatuses")
        counts = [status["restartCount"] for group in groups for status in one["status"].get(group, ())]
        return counts == [1, 1, 1, 1] and condition(one, "Ready") == "True"

    ip = (await pods.until(pod, lambda one: one["status"].get("podIP"), "an address"))["status"]["podIP"]
    anew = await pods.until(pod, all_again, "all to run anew", 30)
    assert anew["status"]["podIP"] == ip


async def test_a_log_that_grows_long_is_put_aside(pods: Pods) -> None:
    line = "0123456789abcdef" * 64
    write = f"for n in $(seq 11000); do echo {line}; done; touch /tmp/done; sleep 60"  # over 10 MiB
    pod = await pods.create(shell(write))
    await pods.running(pod)
    metadata = pod["metadata"]
    name = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
    folder = pods.cluster.layout.root / "agent" / "pod-logs" / name / "main"
    async with asyncio.timeout(30):
        while len(await asyncio.to_thread(os.listdir, folder)) < 2:  # noqa: ASYNC110 - the agent looks now and then
            await asyncio.sleep(0.2)
    assert sorted(one.split(".2")[0] for one in os.listdir(folder)) == ["0.log", "0.log"]


@pytest.mark.only_wherry
async def test_a_critical_pod_takes_the_place_of_what_reserved_it(pods: Pods) -> None:
    (node,) = (await pods.client.list(NODES))["items"]
    forever = shell("sleep 600")
    modest = await pods.create(forever)
    asks = {"requests": {"cpu": "100m", "memory": "50Mi"}}
    burstable = await pods.create({**forever, "resources": asks})
    for one in (modest, burstable):
        await pods.running(one)
    annotations = {"kubernetes.io/config.source": "file"}  # which makes no static pod of it
    name = node["metadata"]["name"]
    everything = {"requests": {key: node["status"]["allocatable"][key] for key in ("cpu", "memory")}}
    spec = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "critical", "annotations": annotations}}
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", **forever, "resources": everything}
    body = {"priorityClassName": "system-node-critical", "nodeName": name, "containers": [container]}
    critical = await pods.client.create(
        PODS, {**spec, "spec": {**body, "terminationGracePeriodSeconds": 0}}, "kube-system"
    )
    try:
        gone = await pods.ended(burstable)
        assert (gone["status"]["reason"], gone["status"]["message"]) == (
            "Preempting",
            "Preempted in order to admit critical pod",
        )
        async with asyncio.timeout(15):
            while (found := await pods.client.get(PODS, "critical", "kube-system"))["status"]["phase"] != "Running":
                assert found["status"]["phase"] == "Pending", found["status"]
                await asyncio.sleep(0.05)
        assert condition(await pods.get(modest), "Ready") == "True"
        other = await pods.create({**forever, "resources": {"requests": {"cpu": "100m"}}}, nodeName=name)
        assert (await pods.ended(other))["status"]["reason"] == "OutOfcpu"
    finally:
        await pods.client.delete(PODS, critical["metadata"]["name"], "kube-system", options={"gracePeriodSeconds": 0})


@pytest.mark.only_wherry
async def test_the_end_of_a_pod_that_is_held_stays_told_as_it_was(pods: Pods) -> None:
    pod = await pods.create(
        shell("trap '' TERM; touch /tmp/up; while true; do sleep 0.1; done"), terminationGracePeriodSeconds=1
    )
    name = pod["metadata"]["name"]
    await pods.patch(pod, {"metadata": {"finalizers": ["example.com/hold"]}})
    await pods.running(pod)
    await pods.client.delete(PODS, name, pods.namespace)
    ended = await pods.until(pod, terminated, "its end")
    assert (terminated(ended)["exitCode"], terminated(ended)["reason"]) == (137, "Error")
    sandboxes = pods.cluster.layout.root / "agent" / "pods" / pod["metadata"]["uid"]
    async with asyncio.timeout(15):
        while await asyncio.to_thread(sandboxes.exists):  # noqa: ASYNC110 - until the node has done with it
            await asyncio.sleep(0.05)
    changed = await pods.patch(pod, {"metadata": {"labels": {"told": "anew"}}})
    pods.cluster.run("kill", "-KILL", str(pods.cluster.pid("agent")))
    probe = await pods.create(shell("true"))
    await pods.ended(probe)  # by then the new agent has looked at the old pod, too
    later = await pods.get(changed)
    assert terminated(later) == terminated(ended)
    assert later["status"]["phase"] == "Failed"
    await pods.patch(pod, {"metadata": {"finalizers": None}})
