"""Claims of devices on a real API server: allocated, reserved, and only then is the pod bound."""

from collections.abc import Sequence
from typing import Any

import pytest

from machinery.api.resources import (
    DEVICE_CLASSES,
    EVENTS,
    NAMESPACES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.errors import Invalid
from tests.integration.controllers.conftest import running_controllers
from tests.integration.scheduler.conftest import make_node, make_pod, placed, scheduling
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow

DRIVER = "gpu.example.com"


async def test_a_device_is_given_to_one_pod_and_then_to_the_next(config: ClientConfig, client: Client) -> None:
    for name in ("a", "b"):
        await make_node(client, name)
    selector = {"cel": {"expression": f'device.driver == "{DRIVER}"'}}
    await client.create(DEVICE_CLASSES, {"metadata": {"name": "gpu"}, "spec": {"selectors": [selector]}})
    spec: dict[str, Any] = {"driver": DRIVER, "nodeName": "b", "devices": [{"name": "gpu-0"}]}
    spec["pool"] = {"name": "b", "generation": 1, "resourceSliceCount": 1}
    await client.create(RESOURCE_SLICES, {"metadata": {"name": "b-gpus"}, "spec": spec})
    asked = {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}
    template = {"metadata": {"name": "one-gpu"}, "spec": {"spec": asked}}
    await client.create(RESOURCE_CLAIM_TEMPLATES, template, "default")
    claims = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    async with running_controllers(config), scheduling(config):
        await make_pod(client, "first", resourceClaims=claims)
        await until(client, PODS, lambda pods: placed(pods) == {"first": "b"})
        (claim,) = (await client.list(RESOURCE_CLAIMS, "default"))["items"]
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        assert (result["driver"], result["pool"], result["device"]) == (DRIVER, "b", "gpu-0")
        assert [one["name"] for one in claim["status"]["reservedFor"]] == ["first"]
        await make_pod(client, "second", resourceClaims=claims)
        text = "2 cannot allocate all claims"
        await until_one(client, PODS, "second", lambda pod: text in str(pod["status"]), namespace="default")
        await client.delete(PODS, "first", "default", options={"gracePeriodSeconds": 0})
        await until(client, PODS, lambda pods: placed(pods) == {"second": "b"})


async def _publish(client: Client, node: str, *devices: dict[str, Any], **more: Any) -> None:
    """Have a driver offer devices of a node; classes are "gpu", and what stands for example.com/gpu."""
    selector = {"cel": {"expression": f'device.driver == "{DRIVER}"'}}
    spec = {"selectors": [selector], "extendedResourceName": "example.com/gpu"}
    await client.create(DEVICE_CLASSES, {"metadata": {"name": "gpu"}, "spec": spec})
    parts: Sequence[dict[str, Any]] = [{"devices": list(devices)}, *([more] if more else [])]
    for at, part in enumerate(parts):
        pool = {"name": node, "generation": 1, "resourceSliceCount": len(parts)}
        body = {
            "metadata": {"name": f"{node}-{at}"},
            "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, **part},
        }
        await client.create(RESOURCE_SLICES, body)
    exactly = {"deviceClassName": "gpu"}
    asked = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    await client.create(RESOURCE_CLAIM_TEMPLATES, {"metadata": {"name": "one-gpu"}, "spec": {"spec": asked}}, "default")


CLAIMS = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]


async def test_a_card_is_given_in_parts_or_whole_but_never_both(config: ClientConfig, client: Client) -> None:
    await make_node(client, "a")
    counters = {"name": "card", "counters": {"memory": {"value": "8Gi"}}}
    parts = [
        {"name": name, "consumesCounters": [{"counterSet": "card", "counters": {"memory": {"value": size}}}]}
        for name, size in (("half-0", "4Gi"), ("half-1", "4Gi"), ("whole", "8Gi"))
    ]
    await _publish(client, "a", *parts, sharedCounters=[counters])
    async with running_controllers(config), scheduling(config):
        for name in ("first", "second", "third"):
            await make_pod(client, name, resourceClaims=CLAIMS)
        text = "1 cannot allocate all claims"
        pods = await until(client, PODS, lambda pods: len(placed(pods)) == 2 and text in str(pods))
        claims = (await client.list(RESOURCE_CLAIMS, "default"))["items"]
        given = [one["status"]["allocation"] for one in claims if (one.get("status") or {}).get("allocation")]
        assert {one["devices"]["results"][0]["device"] for one in given} == {"half-0", "half-1"}
        (waiting,) = {"first", "second", "third"} - placed(pods).keys()
        for name in placed(pods):
            await client.delete(PODS, name, "default", options={"gracePeriodSeconds": 0})
        await until(client, PODS, lambda pods: placed(pods) == {waiting: "a"})


async def test_an_extended_resource_comes_from_devices_and_the_pod_tells_which(
    config: ClientConfig, client: Client
) -> None:
    for name in ("a", "b"):
        await make_node(client, name)
    await _publish(client, "b", {"name": "gpu-0"}, {"name": "gpu-1"})
    resources = {"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"example.com/gpu": "2"}}
    containers = [{"name": "c", "image": "i:1", "resources": resources}]
    async with running_controllers(config), scheduling(config):
        await make_pod(client, "first", containers=containers)
        (pod,) = await until(client, PODS, placed)
        told = pod["status"]["extendedResourceClaimStatus"]
        request = "container-0-request-1"
        mapping = {"containerName": "c", "resourceName": "example.com/gpu", "requestName": request}
        assert (pod["spec"]["nodeName"], told["requestMappings"]) == ("b", [mapping])
        claim = await client.get(RESOURCE_CLAIMS, told["resourceClaimName"], "default")
        assert claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"] == "true"
        results = claim["status"]["allocation"]["devices"]["results"]
        assert [(one["device"], one["request"]) for one in results] == [("gpu-0", request), ("gpu-1", request)]
        await make_pod(client, "second", containers=containers)
        text = "2 cannot allocate all claims"
        await until_one(client, PODS, "second", lambda pod: text in str(pod["status"]), namespace="default")
        await client.patch(PODS, "first", {"status": {"phase": "Succeeded"}}, "default", subresource="status")
        await until_one(client, PODS, "second", lambda pod: pod["spec"].get("nodeName") == "b", namespace="default")
        claims = await until(client, RESOURCE_CLAIMS, lambda claims: len(claims) == 1)
        assert claims[0]["metadata"]["ownerReferences"][0]["name"] == "second"


async def test_a_pod_is_bound_once_its_device_is_ready_and_is_given_another_try_when_that_failed(
    config: ClientConfig, client: Client
) -> None:
    for name in ("a", "b"):
        await make_node(client, name)
    waits = {"bindingConditions": ["attached"], "bindingFailureConditions": ["broken"], "bindsToNode": True}
    await _publish(client, "a", {"name": "gpu-0", **waits}, {"name": "gpu-1", **waits})
    async with running_controllers(config), scheduling(config):
        await make_pod(client, "first", resourceClaims=CLAIMS)

        async def allocated() -> tuple[str, dict[str, Any]]:
            """Wait for a claim that has a device of which nothing has been told."""

            def met(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
                return [one for one in claims if _result(one) and not one["status"].get("devices")]

            (claim,) = await until(client, RESOURCE_CLAIMS, met)
            return claim["metadata"]["name"], _result(claim)

        async def say(name: str, result: dict[str, Any], kind: str) -> None:
            told = {"type": kind, "status": "True", "reason": "R", "message": "m"}
            condition = {**told, "lastTransitionTime": "2026-01-01T00:00:00Z"}
            device = {key: result[key] for key in ("driver", "pool", "device")}
            status = {"devices": [{**device, "conditions": [condition]}]}
            await client.patch(RESOURCE_CLAIMS, name, {"status": status}, "default", subresource="status")

        name, result = await allocated()
        events = await until(
            client, EVENTS, lambda found: any(one["reason"] == "BindingConditionsPending" for one in found)
        )
        assert "waiting for binding conditions for device on node a" in {one["message"] for one in events}
        pod = await until_one(
            client, PODS, "first", lambda pod: pod["status"].get("nominatedNodeName"), namespace="default"
        )
        assert (pod["status"]["nominatedNodeName"], pod["spec"].get("nodeName")) == ("a", None)
        await say(name, result, "broken")
        await until(client, EVENTS, lambda found: any("binding failed: reason=R" in one["message"] for one in found))
        await say(*await allocated(), "attached")
        (pod,) = await until(client, PODS, placed)
        assert (pod["spec"]["nodeName"], pod["status"].get("nominatedNodeName")) == ("a", None)


async def test_pods_leave_devices_that_are_tainted_and_administrators_look_on(
    config: ClientConfig, client: Client
) -> None:
    await make_node(client, "a")
    await _publish(client, "a", {"name": "gpu-0"}, {"name": "gpu-1"})
    looking = {"name": "gpu", "exactly": {"deviceClassName": "gpu", "adminAccess": True, "allocationMode": "All"}}
    patient = [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3600}]
    staying = {"name": "gpu", "exactly": {"deviceClassName": "gpu", "tolerations": patient}}
    bodies = {
        name: {"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}}
        for name, request in (("looking", looking), ("staying", staying))
    }
    with pytest.raises(Invalid, match=r"requests\[0\].adminAccess: Forbidden: admin access to devices requires the"):
        await client.create(RESOURCE_CLAIMS, bodies["looking"], "default")
    labels = {"resource.kubernetes.io/admin-access": "true"}
    await client.patch(NAMESPACES, "default", {"metadata": {"labels": labels}})
    async with running_controllers(config), scheduling(config):
        for body in bodies.values():
            await client.create(RESOURCE_CLAIMS, body, "default")
        for name in ("staying", "looking"):
            await make_pod(client, name, resourceClaims=[{"name": "gpu", "resourceClaimName": name}])
        await make_pod(client, "leaving", resourceClaims=CLAIMS)
        pods = await until(client, PODS, lambda pods: len(placed(pods)) == 3)
        assert set(placed(pods)) == {"staying", "looking", "leaving"}
        found = await client.get(RESOURCE_SLICES, "a-0")
        devices = [{**one, "taints": [{"key": "broken", "effect": "NoExecute"}]} for one in found["spec"]["devices"]]
        await client.patch(RESOURCE_SLICES, "a-0", {"spec": {"devices": devices}})
        await until(client, PODS, lambda pods: set(placed(pods)) == {"staying"})
        events = await until(client, EVENTS, lambda events: events)
        told = [one for one in events if one["reason"] == "DeviceTaintManagerEviction"]
        assert {(one["involvedObject"]["name"], one["message"]) for one in told} == {
            ("looking", "Marking for deletion"), ("leaving", "Marking for deletion"),
        }  # fmt: skip
        await client.patch(RESOURCE_SLICES, "a-0", {"spec": {"devices": [{"name": "gpu-0"}, {"name": "gpu-1"}]}})
        cancelled = "Cancelling deletion"
        await until(client, EVENTS, lambda events: any(one["message"] == cancelled for one in events))
    claim = await client.get(RESOURCE_CLAIMS, "staying", "default")
    for status, wrong in (
        ({"allocation": {"devices": {"results": []}}}, "status.allocation: Invalid value"),
        ({"allocation": None}, "reservedFor: Forbidden: may not be specified when `allocated` is not set"),
        ({"devices": [{"driver": DRIVER, "pool": "a", "device": "x"}]}, "must be an allocated device in the claim"),
    ):
        with pytest.raises(Invalid, match=wrong):
            await client.patch(RESOURCE_CLAIMS, "staying", {"status": status}, "default", subresource="status")
    assert claim == await client.get(RESOURCE_CLAIMS, "staying", "default")


def _result(claim: dict[str, Any]) -> dict[str, Any]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results: list[dict[str, Any]] = (allocation.get("devices") or {}).get("results") or [{}]
    return results[0]
