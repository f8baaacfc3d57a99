"""A cluster for the tests of what a pod can ask for, and a client that makes pods and waits for what becomes of them."""

import asyncio
import contextlib
import json
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.layout import Layout
from machinery.api.resources import EVENTS, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import load_config
from machinery.client.rest import Client
from machinery.errors import NotFound
from tests.e2e.conftest import IMAGE, Cluster
from tests.support.containerd import running_containerd
from tests.support.server import free_port

Pod = dict[str, Any]


RUNTIMES = ("wherry", "containerd")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What containerd 1.6 has not is not asked of it: the marker only_wherry says so."""
    given = [item for item in items if item.get_closest_marker("only_wherry") and "containerd" in _runtime(item)]
    if given:
        config.hook.pytest_deselected(items=given)
        items[:] = [item for item in items if item not in given]


def _runtime(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("pod_cluster", "")) if callspec is not None else ""


@pytest.fixture(scope="session", params=RUNTIMES)
def pod_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster on our own runtime, and one on the distribution's containerd."""
    folder = Path("/var/tmp") / f"wherry-pods-{uuid.uuid4().hex[:8]}"
    found = Cluster(Layout(folder))
    folder.mkdir()
    number = RUNTIMES.index(request.param)
    bridge, pod_cidr, service_cidr = f"whpods{number}", f"10.{246 + number}.0.0/24", f"10.9{8 + number}.0.0/16"
    options = [
        "--data-dir", str(folder), "--api-port", str(free_port()), "--agent-port", str(free_port()), "--store", "embedded",
        "--bridge", bridge, "--pod-cidr", pod_cidr, "--service-cidr", service_cidr, "--no-dns", "--detach",
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if request.param == "containerd":
            socket = stack.enter_context(running_containerd(folder.with_name(f"{folder.name}-cri"), bridge, pod_cidr))
            options += ["--cri-endpoint", str(socket)]
        stack.callback(found.wherry, "reset", "--yes", "--data-dir", str(folder))
        found.wherry("up", *options)
        yield found


class Pods:
    """Makes pods in a namespace of one test."""

    def __init__(self, cluster: Cluster, client: Client, namespace: str, runtime: str) -> None:
        """Args: `runtime` is one of RUNTIMES."""
        self.runtime = runtime
        self.cluster = cluster
        self.client = client
        self.namespace = namespace

    async def create(self, *containers: Mapping[str, Any], name: str = "", **spec: Any) -> Pod:
        """Make a pod; a container is named main, main2, … and runs busybox unless it says otherwise."""
        annotations, labels = spec.pop("annotations", {}), spec.pop("labels", {})
        filled = [
            {"name": f"main{index or ''}", "image": IMAGE, "imagePullPolicy": "IfNotPresent", **one}
            for index, one in enumerate(containers)
        ]
        metadata = {"name": name or f"p-{uuid.uuid4().hex[:6]}", "annotations": annotations, "labels": labels}
        body = {
            "kind": "Pod", "apiVersion": "v1", "metadata": metadata,
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, **spec, "containers": filled},
        }  # fmt: skip
        return await self.client.create(PODS, body, self.namespace)

    async def get(self, pod: Pod) -> Pod:
        return await self.client.get(PODS, pod["metadata"]["name"], self.namespace)

    async def patch(self, pod: Pod, patch: Mapping[str, Any], subresource: str = "") -> Pod:
        return await self.client.patch(
            PODS, pod["metadata"]["name"], patch, self.namespace, subresource=subresource
        )  # fmt: skip

    async def until(self, pod: Pod, met: Callable[[Pod], Any], what: str, seconds: float = 15) -> Pod:
        """Follow a pod until something is true of it."""
        name, last = pod["metadata"]["name"], pod
        try:
            async with asyncio.timeout(seconds):
                while True:
                    last = await self.get(pod)
                    if met(last):
                        return last
                    selector, version = f"metadata.name={name}", last["metadata"]["resourceVersion"]
                    async for event in self.client.watch(
                        PODS, self.namespace, field_selector=selector, resource_version=version
                    ):  # fmt: skip
                        last = event.decode() if event.type == "MODIFIED" else last
                        if met(last):
                            return last
        except TimeoutError:
            events = "\n".join(await self.events(pod))
            status = json.dumps(last.get("status"), indent=1)
            raise AssertionError(f"not within {seconds} s: {what}\n{status}\n{events}\n{self.agent_log()}") from None

    def agent_log(self) -> str:
        return "\n".join((self.cluster.layout.logs / "agent.log").read_text().splitlines()[-40:])

    async def running(self, pod: Pod, seconds: float = 15) -> Pod:
        return await self.until(pod, lambda one: condition(one, "Ready") == "True", "ready", seconds)

    async def ended(self, pod: Pod, seconds: float = 15) -> Pod:
        return await self.until(pod, lambda one: one["status"]["phase"] in ("Succeeded", "Failed"), "its end", seconds)

    async def run(self, command: str, seconds: float = 15, **container: Any) -> tuple[Pod, str]:
        """Run a shell command in a pod of its own to its end; returns the pod and what was printed."""
        spec = container.pop("pod", {})
        pod = await self.create({"command": ["sh", "-c", command], **container}, **spec)
        done = await self.ended(pod, seconds)
        return done, await self.logs(pod)

    async def logs(self, pod: Pod, container: str = "main", **params: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/log"
        async with self.client.stream("GET", path, params={"container": container, **params}) as response:
            return (await response.read()).decode()

    async def until_logged(self, pod: Pod, text: str, container: str = "main") -> None:
        """Follow a container's log until it has a text."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/log"
        params, read = {"container": container, "follow": "true"}, ""
        async with asyncio.timeout(15), self.client.stream("GET", path, params=params) as response:
            async for piece in response.chunks():
                if text in (read := read + piece.decode()):
                    return
        raise AssertionError(f"{text} is not in the log: {read}")

    async def exec(self, pod: Pod, *command: str, container: str = "main") -> str:
        name = pod["metadata"]["name"]
        arguments = ["exec", "-n", self.namespace, name, "-c", container, "--", *command]
        return await asyncio.to_thread(self.cluster.kubectl, *arguments)

    async def delete(self, pod: Pod, grace: int | None = None, seconds: float = 20) -> float:
        """Delete a pod and wait until it is gone; returns how long that took."""
        name, began = pod["metadata"]["name"], time.monotonic()
        options = {} if grace is None else {"gracePeriodSeconds": grace}
        await self.client.delete(PODS, name, self.namespace, options=options)
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self.get(pod)
                except NotFound:
                    return time.monotonic() - began
                await asyncio.sleep(0.02)  # a watch could not tell that it was gone before it began

    async def events(self, pod: Pod) -> list[str]:
        """Return reasons and messages of what was told of a pod."""
        selector = f"involvedObject.uid={pod['metadata']['uid']}"
        found = (await self.client.list(EVENTS, self.namespace, field_selector=selector))["items"]
        return [f"{one['reason']}: {one['message']}" for one in found]

    async def told(self, pod: Pod, text: str, seconds: float = 10) -> None:
        """Wait for an event whose reason or message holds a text."""
        deadline = time.monotonic() + seconds
        while True:
            found = await self.events(pod)
            if any(text in one for one in found):
                return
            assert time.monotonic() < deadline, f"not told: {text}\n" + "\n".join(found)
            await asyncio.sleep(0.05)


@pytest.fixture
async def client(pod_cluster: Cluster) -> AsyncIterator[Client]:
    async with Client(load_config(str(pod_cluster.layout.kubeconfig))) as found:
        yield found


@pytest.fixture
async def pods(request: pytest.FixtureRequest, pod_cluster: Cluster, client: Client) -> AsyncIterator[Pods]:
    """Pods in a new namespace, which goes with the test; its pods are ended at once."""
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    await client.create(NAMESPACES, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}})
    async with asyncio.timeout(20):
        while not await _is_there(client, namespace):  # noqa: ASYNC110 - two kinds of objects are waited for
            await asyncio.sleep(0.02)
    yield Pods(pod_cluster, client, namespace, request.node.callspec.params["pod_cluster"])
    for pod in (await client.list(PODS, namespace))["items"]:
        await client.delete(PODS, pod["metadata"]["name"], namespace, options={"gracePeriodSeconds": 0})
    await client.delete(NAMESPACES, namespace)


async def _is_there(client: Client, namespace: str) -> bool:
    try:
        await client.get(SERVICE_ACCOUNTS, "default", namespace)
    except NotFound:
        return False
    nodes = (await client.list(NODES))["items"]
    return any(condition(one, "Ready") == "True" for one in nodes)


def condition(obj: Mapping[str, Any], kind: str, field: str = "status") -> str:
    """Return a field of one condition, "" when there is none."""
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((str(one.get(field, "")) for one in found if one["type"] == kind), "")


def container_status(pod: Pod, name: str = "main", group: str = "containerStatuses") -> dict[str, Any]:
    found: dict[str, Any] = next((one for one in pod["status"].get(group) or () if one["name"] == name), {})
    return found


def waiting(pod: Pod, name: str = "main") -> str:
    return str((container_status(pod, name).get("state") or {}).get("waiting", {}).get("reason", ""))


def terminated(pod: Pod, name: str = "main", group: str = "containerStatuses") -> dict[str, Any]:
    found: dict[str, Any] = (container_status(pod, name, group).get("state") or {}).get("terminated", {})
    return found


def shell(command: str, **more: Any) -> dict[str, Any]:
    """Return a container that runs a shell command."""
    return {"command": ["sh", "-c", command], **more}


async def ask(pods: Pods, path: str, **params: str) -> str:
    """Ask the agent through the API server."""
    name = (await pods.client.list(NODES))["items"][0]["metadata"]["name"]
    async with pods.client.stream("GET", f"/api/v1/nodes/{name}/proxy{path}", params=params) as response:
        return (await response.read()).decode()
