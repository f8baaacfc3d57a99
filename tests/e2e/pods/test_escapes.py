"""Ways out of pods, and into nodes, that were found in kubelets: each test fails if the hole is there.

Sources: the CVEs named at each. Ways through the runtime: tests/integration/runtime/test_escapes.py.
"""

import asyncio
import contextlib
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from machinery.api.resources import CONFIG_MAPS, NODES
from machinery.errors import APIError
from tests.e2e.pods.conftest import Pods, ask, container_status, shell, waiting
from tests.e2e.pods.test_server import code_of

# The holes are the agent's: which runtime is below is all the same.
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.only_wherry]


@pytest.fixture
def host_folder() -> Iterator[Path]:
    """A folder of the host with something in it that must stay."""
    folder = Path("/var/tmp") / f"wherry-outside-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    (folder / "precious").write_text("secret of the host\n")
    yield folder
    shutil.rmtree(folder)


async def test_a_pods_links_do_not_have_the_hosts_files_deleted_with_it(pods: Pods, host_folder: Path) -> None:
    """CVE-2017-1002102: what a pod put in the place of its folders is followed when they are removed or written anew."""
    name = {"metadata": {"name": "c"}, "data": {"precious": "overwritten"}}
    await pods.client.create(CONFIG_MAPS, {"kind": "ConfigMap", "apiVersion": "v1", **name}, pods.namespace)
    command = (
        f"ln -s {host_folder} /e/link; ln -s {host_folder} /e/..data; mkdir /e/d; ln -s {host_folder}/precious /e/d/f"
    )
    pod = await pods.create(
        shell(f"{command}; ln -sfn {host_folder} /c/..data; touch /e/done; sleep 60",
              volumeMounts=[{"name": "e", "mountPath": "/e"}, {"name": "c", "mountPath": "/c"}]),
        volumes=[{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}],
    )  # fmt: skip
    await pods.running(pod)
    folder = pods.cluster.layout.root / "agent" / "pods" / pod["metadata"]["uid"] / "volumes"
    async with asyncio.timeout(10):
        while not (folder / "e" / "done").exists():  # noqa: ASYNC110 - a container writes it
            await asyncio.sleep(0.05)
    await pods.client.patch(CONFIG_MAPS, "c", {"data": {"precious": "again"}}, pods.namespace)
    await pods.delete(pod, 0)
    async with asyncio.timeout(10):
        while folder.exists():  # noqa: ASYNC110 - goes after the pod
            await asyncio.sleep(0.05)
    assert (host_folder / "precious").read_text() == "secret of the host\n"


async def test_a_log_that_was_exchanged_for_a_link_is_not_read(pods: Pods, host_folder: Path) -> None:
    """A pod that may write where logs lie could have any file read by `kubectl logs` otherwise."""
    logs = pods.cluster.layout.root / "agent" / "pod-logs"
    pod = await pods.create(shell("echo mine; sleep 60"))
    await pods.running(pod)
    metadata = pod["metadata"]
    own = f"/logs/{metadata['namespace']}_{metadata['name']}_{metadata['uid']}/main"
    assert await pods.logs(pod) == "mine\n"
    for exchange in (
        f"ln -sf {host_folder}/precious {own}/0.log",
        f"rm -r {own}; ln -s {host_folder} {own}; ln -s {host_folder}/precious {host_folder}/0.log",
    ):
        volumes = [
            {"name": "l", "hostPath": {"path": str(logs)}},
            {"name": "h", "hostPath": {"path": str(host_folder)}},
        ]
        mounts = [{"name": "l", "mountPath": "/logs"}, {"name": "h", "mountPath": str(host_folder)}]
        await pods.run(exchange, volumeMounts=mounts, pod={"volumes": volumes})
        with pytest.raises(APIError, match="the log of main is gone"):
            await pods.logs(pod)
        with pytest.raises(APIError, match="the log of main is gone"):
            await pods.logs(pod, tailLines="3")


@pytest.mark.parametrize("profile", ["", "../outside.json", "/outside.json"])
async def test_a_seccomp_profile_that_is_none_leaves_no_container_unconfined(pods: Pods, profile: str) -> None:
    """CVE-2023-2431: an empty path of a local profile meant no filter at all."""
    security = {"seccompProfile": {"type": "Localhost", "localhostProfile": profile}}
    if profile:
        for of_pod, own in ((security, {}), ({}, security)):
            with pytest.raises(APIError, match="localhostProfile: Invalid value"):
                await pods.create(shell("true", securityContext=own), securityContext=of_pod)
        return
    pod = await pods.create(shell("true", securityContext=security))  # upstream takes it, too
    pod = await pods.until(pod, lambda one: waiting(one) == "CreateContainerConfigError", "its refusal")
    why = "localhostProfile must be set if seccompProfile type is Localhost."
    assert container_status(pod)["state"]["waiting"]["message"] == why
    await pods.told(await pods.create(shell("true"), securityContext=security), why)


async def test_no_repository_is_cloned_for_a_pod(pods: Pods, host_folder: Path) -> None:
    """CVE-2024-10220, CVE-2025-1767: hooks of a cloned repository ran on the node, or one of the node was cloned."""
    repository = {"repository": str(host_folder), "directory": "."}
    pod = await pods.create(
        shell("true", volumeMounts=[{"name": "g", "mountPath": "/g"}]), volumes=[{"name": "g", "gitRepo": repository}]
    )
    await pods.told(pod, "FailedMount")
    assert any("gitRepo" in one for one in await pods.events(pod))
    folder = pods.cluster.layout.root / "agent" / "pods" / pod["metadata"]["uid"] / "volumes" / "g"
    assert not folder.exists()


async def test_a_container_that_fills_its_hosts_file_is_evicted(pods: Pods) -> None:
    """CVE-2020-8557: /etc/hosts is a file of the node, and was not counted."""
    limits = {"limits": {"ephemeral-storage": "1Mi"}}
    pod = await pods.create(shell("dd if=/dev/zero of=/etc/hosts bs=1M count=4; sleep 60", resources=limits))
    done = await pods.ended(pod, 40)
    assert done["status"]["reason"] == "Evicted"


async def test_a_container_that_starts_again_is_no_more_root_than_before(pods: Pods) -> None:
    """CVE-2019-11245: at its second start a container ran as root in place of its image's user."""
    security = {"runAsNonRoot": True, "runAsUser": 1234}
    pod = await pods.create(shell("id -u; sleep 1", securityContext=security), restartPolicy="Always")
    await pods.until(pod, lambda one: container_status(one).get("restartCount") == 1, "a second start", 30)
    assert await pods.logs(pod) == await pods.logs(pod, previous="true") == "1234\n"
    root = await pods.create(shell("id -u", securityContext={"runAsNonRoot": True}))
    await pods.until(root, lambda one: waiting(one) == "CreateContainerConfigError", "its refusal")


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """Listen on this machine's loopback, for it alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_loopback_of_the_node_is_not_reached_from_pods(pods: Pods) -> None:
    """CVE-2020-8558: with route_localnet, neighbours reached what listens at 127.0.0.1 of a node."""
    script = (
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip route del local 127.0.0.0/8 dev lo table local; "
        "ip route del local 127.0.0.1 dev lo table local; gw=$(ip route | awk '/default/ {print $3; exit}'); "
        "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via $gw; nc -w 2 127.0.0.1 {port} < /dev/null 2> /dev/null && echo in || echo out"
    )
    with listener() as port:
        privileged: dict[str, Any] = {"privileged": True}
        _, text = await pods.run(script.replace("{port}", str(port)), securityContext=privileged)
    assert text.splitlines()[-1] == "out", text


async def test_a_nodes_insides_are_shown_to_nobody_without_a_name(pods: Pods) -> None:
    """CVE-2019-11248 (debug handlers), CVE-2025-0426 (checkpoints by anyone fill the disk)."""
    node = (await pods.client.list(NODES))["items"][0]
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    for method, path in (
        ("GET", "/debug/pprof/"), ("GET", "/metrics"), ("POST", "/checkpoint/default/a/b"), ("POST", "/run/default/a/b"),
        ("GET", "/exec/default/a/b?command=id"), ("GET", "/containerLogs/default/a/b"), ("GET", "/logs/?query=ssh"),
    ):  # fmt: skip
        assert await code_of(method, f"https://127.0.0.1:{port}{path}") == 401, path
    assert "404" in await refusal(pods, "/debug/pprof/")


async def refusal(pods: Pods, path: str) -> str:
    """What an administrator is answered who asks the agent for something it has not."""
    try:
        return await ask(pods, path)
    except APIError as error:
        return str(error)
