"""Claims of devices on a real API server: allocated, reserved, and only then is the pod bound."""

from typing import Any

import pytest

from machinery.api.resources import DEVICE_CLASSES, PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS, RESOURCE_SLICES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
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
