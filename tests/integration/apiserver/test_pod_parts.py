"""Parts of a running pod's spec that have a path of their own: ephemeral containers and resources.

https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/
"""

import re
from typing import Any

import pytest

from machinery import errors
from machinery.api.resources import NODES, PODS
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
    gone = re.escape("spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed")
    with pytest.raises(errors.Invalid, match=gone):
        await change(client, "resize", containers=[{"name": "c", "resources": {"requests": {"cpu": "150m"}}}])
    other = re.escape("spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize")
    with pytest.raises(errors.Invalid, match=other):
        await change(client, "resize", containers=[{"name": "d", "resources": sizes}])
    with pytest.raises(errors.Invalid, match="containers may not be added or removed on resize"):
        await change(client, "resize", containers=[{"name": one, "resources": sizes} for one in ("c", "d")])
    with pytest.raises(errors.Invalid, match="only cpu and memory resources"):
        await change(client, "resize", containers=[{"name": "c", "resources": {**sizes, "claims": [{"name": "x"}]}}])  # fmt: skip
    with pytest.raises(errors.Invalid, match="must be less than or equal to cpu limit of 300m"):
        await change(client, "resize", containers=[{"name": "c", "resources": {**sizes, "requests": {"cpu": "400m"}}}])


WRONG = [
    (
        {
            "securityContext": {
                "sysctls": [
                    {"name": "foo-", "value": "1"},
                    {"name": "kernel.shmmax", "value": "1"},
                    {"name": "bar..", "value": "1"},
                ]
            }
        },
        ['sysctls[0].name: Invalid value: "foo-": must have at most 253', 'sysctls[2].name: Invalid value: "bar.."'],
    ),
    (
        {
            "tolerations": [
                {"operator": "Odd", "key": "a"},
                {"operator": "Equal"},
                {"key": "a", "operator": "Exists", "value": "b"},
                {"key": "a", "effect": "x"},
            ]
        },
        [
            'tolerations[0].operator: Unsupported value: "Odd": supported values: "Equal", "Exists"',
            "operator must be Exists when `key` is empty",
            "value must be empty when `operator` is 'Exists'",
            'tolerations[3].effect: Unsupported value: "x"',
        ],
    ),
    (
        {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "x"}]},
        ["maxSkew: Invalid value: 0: must be greater than zero", 'whenUnsatisfiable: Unsupported value: "x"'],
    ),
    ({"dnsPolicy": "None"}, ["spec.dnsConfig: Required value"]),
]
WRONG_CONTAINERS = [
    ({"image": " web"}, "must not have leading or trailing whitespace"),
    ({"env": [{"name": "a=b", "value": "x"}]}, "printable ASCII characters other than '='"),
    ({"env": [{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}, "may not be specified when `value` is not empty"),
    ({"ports": [{"name": "averyveryverylongname", "containerPort": 80}]}, "must be no more than 15 characters"),
    ({"ports": [{"name": "a", "containerPort": 80}, {"name": "a", "containerPort": 81}]}, 'spec.containers[0].ports[1].name: Duplicate value: "a"'),
    ({"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}}, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"),
    ({"securityContext": {"runAsUser": -1}}, "must be between 0 and 2147483647, inclusive"),
]  # fmt: skip


async def test_a_wrong_pod_is_told_all_that_is_wrong(client: Client) -> None:
    for spec, told in WRONG:
        with pytest.raises(errors.Invalid) as caught:
            await client.create(PODS, pod("a", **spec), "default")
        for text in told:
            assert text in str(caught.value)
        assert "kernel.shmmax" not in str(caught.value)
    for container, text in WRONG_CONTAINERS:
        with pytest.raises(errors.Invalid) as caught:
            await client.create(PODS, pod("a", containers=[{"name": "c", "image": "web:1", **container}]), "default")
        assert text in str(caught.value)


async def test_guaranteed_cpu_is_resized_only_where_the_node_says_it_can(client: Client) -> None:
    await client.create(NODES, {"metadata": {"name": "n"}})
    body = pod("web")
    body["spec"] |= {"nodeName": "n"}
    body["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1", "memory": "1Gi"}}
    await client.create(PODS, body, "default")

    async def resize(cpu: str, memory: str) -> dict[str, Any]:
        sizes = {"cpu": cpu, "memory": memory}
        resources = {"limits": sizes, "requests": sizes}
        return await change(client, "resize", containers=[{"name": "c", "resources": resources}])

    await resize("1000m", "2Gi")
    why = 'pod update requires features GuaranteedQoSPodCPUResize which are not available on node "n"'
    with pytest.raises(errors.Forbidden, match=f'pods "web" is forbidden: {why}'):
        await resize("2", "2Gi")
    declared = {"status": {"declaredFeatures": ["GuaranteedQoSPodCPUResize"]}}
    await client.patch(NODES, "n", declared, subresource="status")
    assert (await resize("2", "2Gi"))["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"
    await client.patch(NODES, "n", {"status": {"declaredFeatures": []}}, subresource="status")
    await client.patch(PODS, "web", {"metadata": {"labels": {"a": "b"}}}, "default")
