"""The official client."""

import sys

import kubernetes
import pytest

from tests.integration.apiserver.clients.fixtures import DEPLOYMENT

with kubernetes.config.new_client_from_config(sys.argv[1]) as api:
    core, apps = kubernetes.client.CoreV1Api(api), kubernetes.client.AppsV1Api(api)
    apps.create_namespaced_deployment("default", DEPLOYMENT)
    made = apps.read_namespaced_deployment("boat", "default")
    assert made.spec.strategy.rolling_update.max_surge == "25%"
    changed = apps.patch_namespaced_deployment_scale("boat", "default", {"spec": {"replicas": 3}})
    assert changed.spec.replicas == 3
    kubernetes.utils.create_from_dict(
        api, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}}
    )
    watch = kubernetes.watch.Watch()
    names = [
        event["object"].metadata.name
        for event in watch.stream(core.list_namespaced_config_map, "default", timeout_seconds=1)
    ]
    assert names == ["m"]
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.read_namespaced_pod("none", "default")
    assert (caught.value.status, caught.value.reason) == (404, "Not Found")
    apps.delete_namespaced_deployment("boat", "default")
    dynamic = kubernetes.dynamic.DynamicClient(api)
    maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    applied = maps.server_side_apply(
        namespace="default", field_manager="test",
        body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v", "l": "w"}},
        force_conflicts=True,
    )  # fmt: skip
    assert applied.data.to_dict() == {"k": "v", "l": "w"}
