"""Parts of a running pod's spec that have a path of their own: ephemeral containers and resources.

https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/
"""

from typing import Any

import pytest

from machinery import errors
from machinery.api.resources import PODS
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl, pod


async def change(client: Client, sub: str, **spec: Any) -> dict[str, Any]:
    return await client.patch(PODS, "web", {"spec": spec}, "default", subresource=sub)


async def test_ephemeral_containers_are_added_and_never_changed(client: Client) -> None:
    await client.create(PODS, pod("web"), "default")
    debug = {"name": "debug", "image": "tools:1", "targetContainerName": "c"}
    made = await change(client, "ephemeralcontainers", ephemeralContainers=[debug], priority=99)
    [one] = made["spec"]["ephemeralContainers"]
    assert (one["imagePullPolicy"], one["terminationMessagePath"]) == ("IfNotPresent", "/dev/termination-log")
    assert made["spec"]["priority"] == 0
    assert made["metadata"]["generation"] == 2
    with pytest.raises(errors.Invalid, match='existing ephemeral containers "debug" may not be changed'):
        await change(client, "ephemeralcontainers", ephemeralContainers=[{**debug, "image": "other:1"}])
    with pytest.raises(errors.Invalid, match=r'spec.ephemeralContainers\[1\].targetContainerName: Not found: "none"'):
        await change(client, "ephemeralcontainers", ephemeralContainers=[one, {**debug, "name": "b", "targetContainerName": "none"}])  # fmt: skip
    with pytest.raises(
        errors.Invalid, match=r"spec.ephemeralContainers\[1\].ports: Forbidden: cannot be set for an Eph"
    ):
        await change(client, "ephemeralcontainers", ephemeralContainers=[one, {"name": "b", "image": "i:1", "ports": [{"containerPort": 1}]}])  # fmt: skip
    with pytest.raises(errors.Invalid, match="pod updates may not change fields other than"):
        await client.patch(PODS, "web", {"spec": {"ephemeralContainers": [{"name": "x", "image": "i:1"}]}}, "default")


@pytest.mark.slow
async def test_kubectl_debug_adds_a_container(client: Client, kubectl: Kubectl) -> None:
    await client.create(PODS, pod("web"), "default")
    code, _, problem = await kubectl("debug", "web", "--image=tools:1", "--target=c", "-c", "dbg", "--profile=general")
    assert (code, problem.splitlines()[-1:]) == (0, [] if not problem else [problem.splitlines()[-1]])
    found = await client.get(PODS, "web", "default")
    assert [one["name"] for one in found["spec"]["ephemeralContainers"]] == ["dbg"]


async def test_resources_are_resized_within_their_quality_of_service(client: Client) -> None:
    body = pod("web")
    body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    await client.create(PODS, body, "default")
    sizes = {"requests": {"cpu": "150m"}, "limits": {"cpu": "300m"}}
    made = await change(client, "resize", containers=[{"name": "c", "image": "other:1", "resources": sizes}])
    [container] = made["spec"]["containers"]
    assert (container["resources"], container["image"]) == (sizes, "web:1")
    with pytest.raises(errors.Invalid, match="Pod QOS Class may not change as a result of resizing"):
        await change(client, "resize", containers=[{"name": "c", "resources": {}}])  # fmt: skip
    with pytest.raises(errors.Invalid, match="only cpu and memory resources"):
        await change(client, "resize", containers=[{"name": "c", "resources": {**sizes, "claims": [{"name": "x"}]}}])  # fmt: skip
    with pytest.raises(errors.Invalid, match="must be less than or equal to cpu limit of 300m"):
        await change(client, "resize", containers=[{"name": "c", "resources": {**sizes, "requests": {"cpu": "400m"}}}])
