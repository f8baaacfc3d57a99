"""Claims that wait for their pod: scheduler and controllers together bind them, on a real API server."""

from typing import Any

import pytest

from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.conftest import running_controllers
from tests.integration.scheduler.conftest import make_node, make_pod, placed, scheduling
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow


def local_volume(name: str, node: str) -> dict[str, Any]:
    rules = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]
    return {
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "local", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "local": {"path": "/mnt"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": rules}]}},
        },
    }  # fmt: skip


async def test_a_pod_goes_where_a_volume_is_and_its_claim_is_bound_before_it(
    config: ClientConfig, client: Client
) -> None:
    for name in ("a", "b", "c"):
        await make_node(client, name)
    kind = {"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}
    await client.create(STORAGE_CLASSES, {"metadata": {"name": "local"}, **kind})
    await client.create(PERSISTENT_VOLUMES, local_volume("on-b", "b"))
    spec = {"storageClassName": "local", "accessModes": ["ReadWriteOnce"]}
    spec["resources"] = {"requests": {"storage": "1Gi"}}
    await client.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "data"}, "spec": spec}, "default")
    async with running_controllers(config), scheduling(config):
        await make_pod(client, "db", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])
        pods = await until(client, PODS, placed)
        assert placed(pods) == {"db": "b"}
        claim = await client.get(PERSISTENT_VOLUME_CLAIMS, "data", "default")
        assert (claim["spec"]["volumeName"], claim["status"]["phase"]) == ("on-b", "Bound")
        await make_pod(client, "lost", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}])
        text = '0/3 nodes are available: persistentvolumeclaim "none" not found. preemption: 0/3 nodes are available: '
        text += "3 Preemption is not helpful for scheduling."
        await until_one(client, PODS, "lost", lambda pod: text in str(pod["status"]), namespace="default")
        await client.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "more"}, "spec": spec}, "default")
        await make_pod(client, "late", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "more"}}])
        text = "3 node(s) didn't find available persistent volumes to bind"
        await until_one(client, PODS, "late", lambda pod: text in str(pod["status"]), namespace="default")
        await client.create(PERSISTENT_VOLUMES, local_volume("on-c", "c"))
        await until(client, PODS, lambda pods: placed(pods) == {"db": "b", "late": "c"})
