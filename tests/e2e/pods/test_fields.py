"""Fields of pods and containers that no other test here speaks of, each seen from inside a container.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

import asyncio
import contextlib
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroups import is_v2
from cluster.pki import Pki
from machinery.api.resources import NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, SERVICES
from tests.e2e.pods.conftest import Pods, container_status, shell, terminated
from tests.support.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def host_folder(pods: Pods) -> Iterator[Path]:
    folder = Path("/var/tmp") / f"wherry-fields-{pods.namespace}"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


async def test_a_container_is_as_its_fields_say(pods: Pods) -> None:
    service = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 7}]}}
    await pods.client.create(SERVICES, service, pods.namespace)
    asked = {
        "name": "OTHER",
        "valueFrom": {"resourceFieldRef": {"containerName": "main1", "resource": "limits.memory"}},
    }
    pod = await pods.create(
        shell("pwd; hostname; echo [$WEB_SERVICE_PORT] $KUBERNETES_SERVICE_PORT; echo $OTHER", workingDir="/made/for/it", env=[asked]),
        shell("test -t 0 && test -t 1 && echo terminal", tty=True, stdin=True, resources={"limits": {"memory": "32Mi"}}),
        shell("cat; echo closed", stdin=True, stdinOnce=True),
        enableServiceLinks=False, hostnameOverride="over.there",
    )  # fmt: skip
    name = pod["metadata"]["name"]
    await pods.until(pod, lambda one: container_status(one, "main2").get("started"), "the one that reads")
    attached = await asyncio.to_thread(
        pods.cluster.run,
        "kubectl",
        "attach",
        "-n",
        pods.namespace,
        name,
        "-c",
        "main2",
        "-i",
        stdin="given\n",
        check=False,
    )
    assert attached.startswith("0\n")
    done = await pods.ended(pod)
    assert (await pods.logs(done)).splitlines() == ["/made/for/it", "over.there", "[] 443", str(32 << 20)]
    assert (await pods.logs(done, "main1")).strip() == "terminal"
    assert await pods.logs(done, "main2") == "given\nclosed\n"


@pytest.mark.only_wherry
async def test_a_container_is_stopped_by_the_signal_it_names(pods: Pods) -> None:
    words = (
        "trap 'echo usr1; exit 7' USR1; trap 'echo term; exit 8' TERM; touch /tmp/up; while true; do sleep 0.05; done"
    )
    ready = {"readinessProbe": {"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1}}
    pod = await pods.create(
        shell(words, lifecycle={"stopSignal": "SIGUSR1"}, **ready), os={"name": "linux"}, terminationGracePeriodSeconds=20,
    )  # fmt: skip
    running = await pods.running(pod)
    assert container_status(running)["stopSignal"] == "SIGUSR1"
    await pods.client.delete(PODS, pod["metadata"]["name"], pods.namespace)
    last = await pods.until(pod, terminated, "its end")
    assert terminated(last)["exitCode"] == 7


@contextlib.asynccontextmanager
async def https_server(folder: Path) -> AsyncIterator[tuple[int, list[str]]]:
    """Serve HTTPS by a certificate that nobody has reason to trust; yields the port, and the requests' first lines."""
    seen: list[str] = []
    cert, key = await asyncio.to_thread(Pki(folder).server, "probed", "probed", ["probed"], [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        code = "200 OK" if "\r\nX-Who: me\r\n" in head else "403 Forbidden"
        writer.write(f"HTTP/1.1 {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    port = free_port()
    server = await asyncio.start_server(answer, "0.0.0.0", port, ssl=context)
    async with server:
        yield port, seen


@pytest.mark.only_wherry
async def test_hooks_and_probes_ask_by_https_and_good_answers_are_counted(pods: Pods, tmp_path: Path) -> None:
    async with https_server(tmp_path) as (port, seen):
        headers = [{"name": "X-Who", "value": "me"}]
        get = {"port": port, "scheme": "HTTPS", "httpHeaders": headers}
        probe = {"httpGet": {**get, "path": "/probe"}, "periodSeconds": 1, "successThreshold": 2}
        pod = await pods.create(
            shell("sleep 60", readinessProbe=probe, lifecycle={"postStart": {"httpGet": {**get, "path": "/hook"}}}),
            hostNetwork=True,
        )
        await pods.running(pod)
        paths = [line.split()[1] for line in seen]
        assert paths.count("/hook") == 1
        assert paths.count("/probe") == 2


async def test_mounts_spread_as_they_are_asked_to(pods: Pods, host_folder: Path) -> None:
    subprocess.run(["mount", "--bind", host_folder, host_folder], check=True)
    subprocess.run(["mount", "--make-shared", host_folder], check=True)
    try:
        volumes = [{"name": "v", "hostPath": {"path": str(host_folder)}}]
        look = "until test -e /v/go; do sleep 0.05; done; ls /v/inner 2>/dev/null; true"

        def mount(propagation: str) -> dict[str, Any]:
            return {"volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": propagation}]}

        master = "mkdir /v/inner; mount -t tmpfs tmpfs /v/inner; touch /v/inner/seen; touch /v/go; sleep 60"
        pod = await pods.create(
            shell(look, **mount("HostToContainer")), shell(look, **mount("None")),
            shell(f"sleep 1; {master}", securityContext={"privileged": True}, **mount("Bidirectional")), volumes=volumes,
        )  # fmt: skip
        found = await pods.until(pod, lambda one: terminated(one) and terminated(one, "main1"), "those that look")
        assert (await pods.logs(found), await pods.logs(found, "main1")) == ("seen\n", "")
        assert await asyncio.to_thread(os.listdir, host_folder / "inner") == ["seen"]
        await pods.delete(pod, 0)
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", host_folder], check=True)


@pytest.mark.only_wherry
async def test_a_read_only_mount_is_so_all_the_way_down(pods: Pods, host_folder: Path) -> None:
    (host_folder / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host_folder / "inner"], check=True)
    try:
        volumes = [{"name": "v", "hostPath": {"path": str(host_folder)}}]
        mounts = [
            {"name": "v", "mountPath": f"/{how}", "readOnly": True, "recursiveReadOnly": how}
            for how in ("Enabled", "IfPossible", "Disabled")
        ]
        write = "for one in Enabled IfPossible Disabled; do touch /$one/inner/$one 2>/dev/null && echo $one; done; true"
        done, text = await pods.run(write, volumeMounts=mounts, pod={"volumes": volumes})
        assert text == "Disabled\n"
        told = {one["mountPath"]: one.get("recursiveReadOnly") for one in container_status(done)["volumeMounts"]}
        assert [told[f"/{how}"] for how in ("Enabled", "IfPossible", "Disabled")] == ["Enabled", "Enabled", "Disabled"]
    finally:
        subprocess.run(["umount", "--lazy", host_folder / "inner"], check=True)


@pytest.mark.only_wherry
async def test_files_are_given_to_the_group_only_where_the_root_is_not_its_own(pods: Pods, host_folder: Path) -> None:
    (host_folder / "f").touch()
    os.chown(host_folder / "f", 0, 5)
    volume = f"fields-{pods.namespace}"
    linux = [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand"}
    spec = {
        **common, "capacity": {"storage": "1Gi"}, "local": {"path": str(host_folder)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": linux}]}},
    }  # fmt: skip
    await pods.client.create(PERSISTENT_VOLUMES, {"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": volume}, "spec": spec})  # fmt: skip
    wish = {**common, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}
    await pods.client.create(PERSISTENT_VOLUME_CLAIMS, {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "c"}, "spec": wish}, pods.namespace)  # fmt: skip
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    mounts = [{"name": "v", "mountPath": "/v"}]
    groups = []
    for policy in ("Always", "OnRootMismatch", "OnRootMismatch"):
        security = {"fsGroup": 777, "fsGroupChangePolicy": policy}
        done, text = await pods.run(
            "stat -c %g /v/f", volumeMounts=mounts, pod={"volumes": volumes, "securityContext": security}
        )
        groups.append(text.strip())
        await pods.delete(done)
        os.chown(host_folder / "f", 0, 5)
        if len(groups) == 2:
            os.chown(host_folder, 0, 6)
    assert groups == ["777", "5", "777"]
    await pods.client.delete(PERSISTENT_VOLUME_CLAIMS, "c", pods.namespace)
    await pods.client.delete(PERSISTENT_VOLUMES, volume)


async def test_labels_of_selinux_do_not_keep_a_pod_from_a_host_without_it(pods: Pods) -> None:
    options = {"seLinuxOptions": {"level": "s0:c1,c2", "type": "container_t"}, "seLinuxChangePolicy": "Recursive"}
    done, text = await pods.run(
        "echo here", securityContext={"seLinuxOptions": {"level": "s0:c3,c4"}}, pod={"securityContext": options}
    )
    assert (done["status"]["phase"], text) == ("Succeeded", "here\n")


async def test_what_is_piped_into_a_command_comes_to_an_end(pods: Pods) -> None:
    pod = await pods.create(shell("sleep 60"))
    await pods.running(pod)
    arguments = ["exec", "-n", pods.namespace, "-i", pod["metadata"]["name"], "--", "sh", "-c", "cat; echo end"]
    out = await asyncio.to_thread(pods.cluster.kubectl, *arguments, stdin="piped\n", seconds=15)
    assert out == "piped\nend\n"


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Four huge pages more than there were, where the machine has them to give."""
    path = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not path.exists():
        pytest.skip("this kernel has no pages of 2 MiB")
    before = int(path.read_text())
    path.write_text(f"{before + 4}\n")
    try:
        if int(path.read_text()) < before + 4:
            pytest.skip("this machine has no memory in pieces of 2 MiB")
        yield
    finally:
        path.write_text(f"{before}\n")


@pytest.mark.only_wherry
@pytest.mark.usefixtures("huge_pages")
async def test_huge_pages_are_told_and_had(pods: Pods) -> None:
    pods.cluster.run("kill", "-KILL", str(pods.cluster.pid("agent")))  # pages are counted when an agent starts
    async with asyncio.timeout(20):
        while not any(_pages(node) for node in (await pods.client.list(NODES))["items"]):  # noqa: ASYNC110 - a list is enough
            await asyncio.sleep(0.1)
    try:
        asked = {"hugepages-2Mi": "4Mi", "memory": "32Mi", "cpu": "10m"}
        env = [{"name": "SIZE", "valueFrom": {"resourceFieldRef": {"resource": "limits.hugepages-2Mi"}}}]
        mounts = [{"name": "h", "mountPath": "/h"}]
        command = "echo $SIZE; grep ' /h ' /proc/mounts | cut -d' ' -f3; fallocate -l 2097152 /h/f && stat -f -c '%S %b %f' /h"
        done, text = await pods.run(
            command, resources={"limits": asked}, volumeMounts=mounts, env=env,
            pod={"volumes": [{"name": "h", "emptyDir": {"medium": "HugePages"}}]},
        )  # fmt: skip
        size, kind, *_ = text.split()
        assert (size, kind) == (str(4 << 20), "hugetlbfs")
        assert terminated(done)["exitCode"] == 0
        other = await pods.create(shell("true", resources={"limits": {**asked, "hugepages-2Mi": "400Mi"}}))
        await pods.told(other, "Insufficient hugepages-2Mi")
    finally:
        pods.cluster.run("kill", "-KILL", str(pods.cluster.pid("agent")))


def _pages(node: dict[str, Any]) -> bool:
    told = (node.get("status") or {}).get("allocatable") or {}
    return told.get("hugepages-2Mi", "0") not in ("0", "")


@pytest.mark.only_wherry
async def test_classes_of_pods_have_the_cpu_they_ask_for(pods: Pods) -> None:
    version_2 = is_v2()
    top = Path("/sys/fs/cgroup/wherry" if version_2 else "/sys/fs/cgroup/cpu/wherry")
    file = "cpu.weight" if version_2 else "cpu.shares"
    asks = {"requests": {"cpu": "300m"}}
    one = await pods.create(shell("sleep 60", resources=asks))
    two = await pods.create(shell("sleep 60", resources={**asks, "limits": {"cpu": "300m", "memory": "32Mi"}}))
    other = await pods.create(shell("sleep 60"))
    for each in (one, two, other):
        await pods.running(each)
    found = {name: int((top / name / file).read_text()) for name in ("guaranteed", "burstable", "besteffort")}
    least = 12 if version_2 else 307
    assert found["besteffort"] == (1 if version_2 else 2)
    assert (found["burstable"] >= least, found["guaranteed"] >= least) == (True, True)
