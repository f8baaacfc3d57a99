"""The OCI runtime a pod asks for by its RuntimeClass.

Source: https://kubernetes.io/docs/concepts/containers/runtime-class/
"""

import pytest

from machinery.api.resources import RUNTIME_CLASSES
from tests.e2e.pods.conftest import Pods, shell

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


async def make(pods: Pods, name: str, handler: str, **more: object) -> str:
    body = {
        "kind": "RuntimeClass",
        "apiVersion": "node.k8s.io/v1",
        "metadata": {"name": name},
        "handler": handler,
        **more,
    }
    await pods.client.create(RUNTIME_CLASSES, body)
    return name


async def test_a_pod_runs_by_the_handler_of_its_class_and_bears_its_overhead(pods: Pods) -> None:
    overhead = {"podFixed": {"cpu": "10m", "memory": "8Mi"}}
    handler = "crun" if pods.runtime == "wherry" else "runc"
    name = await make(pods, f"usual-{pods.namespace}", handler, overhead=overhead)
    pod = await pods.create(shell("true"), runtimeClassName=name)
    assert pod["spec"]["overhead"] == {"cpu": "10m", "memory": "8Mi"}
    assert (await pods.ended(pod))["status"]["phase"] == "Succeeded"
    await pods.client.delete(RUNTIME_CLASSES, name)


async def test_a_handler_that_is_not_there_is_told(pods: Pods) -> None:
    name = await make(pods, f"none-{pods.namespace}", "no-such-handler")
    pod = await pods.create(shell("true"), runtimeClassName=name)
    await pods.told(pod, 'no runtime for "no-such-handler" is configured')
    await pods.client.delete(RUNTIME_CLASSES, name)
