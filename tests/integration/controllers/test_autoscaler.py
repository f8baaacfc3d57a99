"""Autoscalers on a real API server; the metrics API is played by custom resources of its shape."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from machinery.api.meta import Resource, now
from machinery.api.resources import DEPLOYMENTS, EVENTS, HORIZONTAL_POD_AUTOSCALERS, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError
from tests.integration.controllers.conftest import running_controllers
from tests.integration.controllers.test_deployment import deployment
from tests.support.agent import pods_come_up
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow

CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
POD_METRICS = Resource("metrics.k8s.io", "v1beta1", "pods", "PodMetrics")


@pytest.fixture
async def controllers(config: ClientConfig) -> AsyncIterator[None]:
    async with running_controllers(config, autoscaler_sync_seconds=0.2):
        yield


@contextlib.asynccontextmanager
async def pods_use(client: Client, memory: dict[str, str]) -> AsyncIterator[None]:
    """Measure each pod that comes: it uses `memory["now"]`."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    names = {"plural": "pods", "kind": "PodMetrics", "listKind": "PodMetricsList", "singular": "pod"}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    await client.create(
        CRDS,
        {
            "metadata": {
                "name": "pods.metrics.k8s.io",
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {"group": "metrics.k8s.io", "names": names, "scope": "Namespaced", "versions": [version]},
        },
    )
    await until_one(
        client, CRDS, "pods.metrics.k8s.io",
        lambda obj: any(c["type"] == "Established" and c["status"] == "True"
                        for c in (obj.get("status") or {}).get("conditions") or ()),
    )  # fmt: skip

    async def measure(pod: dict[str, Any]) -> None:
        metadata = {"name": pod["metadata"]["name"], "labels": pod["metadata"]["labels"]}
        usage = {"containers": [{"name": "m", "usage": {"cpu": "10m", "memory": memory["now"]}}]}
        body = {"metadata": metadata, "timestamp": now(), "window": "15s", **usage}
        with contextlib.suppress(APIError, ConnectionFailed):
            await client.create(POD_METRICS, body, "default")

    async def follow() -> None:
        async for event in client.watch(PODS, "default", resource_version="0"):
            if event.type == "ADDED":
                await measure(event.decode())

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def autoscaler(**spec: Any) -> dict[str, Any]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    usage = {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
    }
    plain = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5, "metrics": [usage]}
    return {"metadata": {"name": "web"}, "spec": {**plain, **spec}}


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((c for c in (obj.get("status") or {}).get("conditions") or () if c["type"] == kind), {})


async def test_a_deployment_grows_with_its_load_within_bounds_and_shrinks_again(
    client: Client, controllers: None
) -> None:
    load = {"now": "3Gi"}
    down = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 9, "periodSeconds": 1}]}
    async with pods_come_up(client), pods_use(client, load):
        await client.create(DEPLOYMENTS, deployment(replicas=1))
        await client.create(HORIZONTAL_POD_AUTOSCALERS, autoscaler(behavior={"scaleDown": down}), "default")
        await until_one(client, DEPLOYMENTS, "web", lambda obj: obj["spec"]["replicas"] == 5)
        found = await until_one(
            client, HORIZONTAL_POD_AUTOSCALERS, "web",
            lambda obj: condition(obj, "ScalingLimited").get("reason") == "TooManyReplicas"
            and obj["status"]["currentReplicas"] == 5,
        )  # fmt: skip
        assert found["status"]["currentMetrics"][0]["resource"]["current"]["averageValue"] == "3221225472"
        assert condition(found, "ScalingActive")["reason"] == "ValidMetricFound"
        assert condition(found, "AbleToScale")["status"] == "True"
        events = (await client.list(EVENTS, "default"))["items"]
        rescaled = [e["message"] for e in events if e["reason"] == "SuccessfulRescale"]
        assert rescaled[0].startswith("New size: ")
        assert rescaled[0].endswith("reason: memory resource above target")
        for metrics in (await client.list(POD_METRICS, "default"))["items"]:
            await client.delete(POD_METRICS, metrics["metadata"]["name"], "default")
            metrics["containers"][0]["usage"]["memory"] = "1Mi"
            metrics["metadata"] = {field: metrics["metadata"][field] for field in ("name", "labels")}
            await client.create(POD_METRICS, metrics, "default")
        await until_one(client, DEPLOYMENTS, "web", lambda obj: obj["spec"]["replicas"] == 1)


async def test_without_metrics_nothing_is_scaled_and_it_is_said_why(client: Client, controllers: None) -> None:
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=2))
        await client.create(HORIZONTAL_POD_AUTOSCALERS, autoscaler(), "default")
        found = await until_one(
            client, HORIZONTAL_POD_AUTOSCALERS, "web",
            lambda obj: condition(obj, "ScalingActive").get("status") == "False",
        )  # fmt: skip
        assert condition(found, "ScalingActive")["reason"] == "FailedGetResourceMetric"
        message = condition(found, "ScalingActive")["message"]
        assert message.startswith(
            "the HPA was unable to compute the replica count: failed to get memory resource metric value: "
            "unable to get metrics for resource memory: no metrics returned from resource metrics API"
        )
        assert found["status"]["currentReplicas"] == 2
        await until(
            client, EVENTS, lambda all: any(e["reason"] == "FailedGetResourceMetric" for e in all), namespace="default"
        )


async def test_bounds_hold_without_metrics_and_a_target_that_is_not_there_is_told(
    client: Client, controllers: None
) -> None:
    await client.create(HORIZONTAL_POD_AUTOSCALERS, autoscaler(minReplicas=3), "default")
    found = await until_one(
        client, HORIZONTAL_POD_AUTOSCALERS, "web", lambda obj: condition(obj, "AbleToScale").get("status") == "False"
    )
    assert condition(found, "AbleToScale")["reason"] == "FailedGetScale"
    assert 'deployments.apps "web" not found' in condition(found, "AbleToScale")["message"]
    await client.create(DEPLOYMENTS, deployment(replicas=2))
    await until_one(client, DEPLOYMENTS, "web", lambda obj: obj["spec"]["replicas"] == 3)


async def test_two_autoscalers_of_the_same_pods_both_stand_still(client: Client, controllers: None) -> None:
    def ambiguous(obj: dict[str, Any]) -> bool:
        return condition(obj, "ScalingActive").get("reason") == "AmbiguousSelector"

    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=2))
        for name in ("web", "rival"):
            body = autoscaler()
            body["metadata"]["name"] = name
            await client.create(HORIZONTAL_POD_AUTOSCALERS, body, "default")
        found = await until_one(client, HORIZONTAL_POD_AUTOSCALERS, "web", ambiguous)
        await until_one(client, HORIZONTAL_POD_AUTOSCALERS, "rival", ambiguous)
        assert condition(found, "ScalingActive")["message"] == (
            "pods by selector app=web are controlled by multiple HPAs: [{rival default} {web default}]"
        )
        await client.delete(HORIZONTAL_POD_AUTOSCALERS, "rival", "default")
        await until_one(client, HORIZONTAL_POD_AUTOSCALERS, "web", lambda obj: not ambiguous(obj))
