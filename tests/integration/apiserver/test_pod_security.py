"""Pods held to the level of their namespace, in the words users know.

https://kubernetes.io/docs/concepts/security/pod-security-admission/
"""

from typing import Any

import pytest

from machinery import errors
from machinery.api.resources import DEPLOYMENTS, NAMESPACES, PODS, SERVICE_ACCOUNTS
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl, pod

PREFIX = "pod-security.kubernetes.io/"
GOOD = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


async def namespace(client: Client, **labels: str) -> str:
    body = {
        "metadata": {"name": "held", "labels": {PREFIX + key.replace("_", "-"): value for key, value in labels.items()}}
    }
    await client.create(NAMESPACES, body)
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "held")
    return "held"


def secured(name: str, context: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    made = pod(name, automountServiceAccountToken=False, **spec)
    if context is not None:
        made["spec"]["containers"][0]["securityContext"] = context
    return made


@pytest.mark.parametrize(
    ("level", "made", "told"),
    [
        ("baseline", secured("x", {"privileged": True}, hostNetwork=True, hostPID=True),
         'host namespaces (hostNetwork=true, hostPID=true), privileged (container "c" must not set securityContext.privileged=true)'),
        ("baseline", secured("x", {"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}),
         'non-default capabilities (container "c" must not include "SYS_ADMIN" in securityContext.capabilities.add)'),
        ("baseline", secured("x", volumes=[{"name": "v", "hostPath": {"path": "/"}}]), 'hostPath volumes (volume "v")'),
        ("baseline", secured("x", {"seLinuxOptions": {"type": "spc_t"}}),
         'seLinuxOptions (container "c" set forbidden securityContext.seLinuxOptions: type "spc_t")'),
        ("baseline", secured("x", securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), "forbidden sysctl (kernel.msgmax)"),
        ("baseline", secured("x", {"seccompProfile": {"type": "Unconfined"}}),
         'seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")'),
        ("restricted", secured("x"),
         'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), '
         'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), '
         'runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), '
         'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'),
        ("restricted", secured("x", {**GOOD, "runAsUser": 0}), 'runAsUser=0 (container "c" must not set runAsUser=0)'),
        ("restricted", secured("x", GOOD, volumes=[{"name": "n", "nfs": {"server": "s", "path": "/"}}]),
         'restricted volume types (volume "n" uses restricted volume type "nfs")'),
    ],
)  # fmt: skip
async def test_a_pod_that_breaks_the_level_is_refused(
    client: Client, level: str, made: dict[str, Any], told: str
) -> None:
    name = await namespace(client, enforce=level)
    with pytest.raises(errors.Forbidden) as caught:
        await client.create(PODS, made, name)
    assert str(caught.value) == f'pods "x" is forbidden: violates PodSecurity "{level}:latest": {told}'


async def test_a_pod_that_keeps_to_it_is_made(client: Client) -> None:
    name = await namespace(client, enforce="restricted")
    await client.create(PODS, secured("x", GOOD), name)
    with pytest.raises(errors.Forbidden, match='violates PodSecurity "restricted:latest"'):
        debug = {
            "spec": {"ephemeralContainers": [{"name": "d", "image": "i:1", "securityContext": {"privileged": True}}]}
        }
        await client.patch(PODS, "x", debug, name, subresource="ephemeralcontainers")
    await client.patch(PODS, "x", {"metadata": {"labels": {"a": "b"}}}, name)


async def test_an_older_version_of_the_standard_forbids_less(client: Client) -> None:
    name = await namespace(client, enforce="baseline", enforce_version="v1.33")
    made = secured("x")
    made["spec"]["containers"][0]["livenessProbe"] = {"httpGet": {"port": 80, "host": "10.0.0.1"}}
    await client.create(PODS, made, name)
    await client.patch(NAMESPACES, name, {"metadata": {"labels": {PREFIX + "enforce-version": "latest"}}})
    with pytest.raises(errors.Forbidden, match="probe or lifecycle host"):
        await client.create(PODS, {**made, "metadata": {"name": "y"}}, name)


@pytest.mark.slow
async def test_kubectl_shows_warnings_of_deployments_and_of_what_is_there(client: Client, kubectl: Kubectl) -> None:
    name = await namespace(client)
    _, _, told = await kubectl("create", "deployment", "web", "--image=web:1", "-n", name)
    assert told == ""
    await client.create(PODS, secured("old"), name)
    _, _, told = await kubectl("label", "ns", name, PREFIX + "enforce=restricted")
    assert (
        f'Warning: existing pods in namespace "{name}" violate the new PodSecurity enforce level "restricted:latest"'
        in told
    )
    assert (
        "Warning: old: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
        in told
    )
    code, _, told = await kubectl("create", "deployment", "other", "--image=web:1", "-n", name)
    assert code == 0
    assert (
        'Warning: would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "web"'
        in told
    )
    assert (await client.get(DEPLOYMENTS, "other", name))["metadata"]["name"] == "other"


async def test_a_level_nobody_knows_is_refused(client: Client) -> None:
    with pytest.raises(errors.Invalid, match="must be one of privileged, baseline, restricted"):
        await namespace(client, enforce="strict")
    with pytest.raises(errors.Invalid, match='must be "latest" or "v1.x"'):
        await namespace(client, warn_version="1.30")
