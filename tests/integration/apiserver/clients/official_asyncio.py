"""The official client for asyncio."""

import asyncio
import sys

import kubernetes_asyncio as kubernetes
import kubernetes_asyncio.dynamic
import pytest

from tests.integration.apiserver.clients.fixtures import LABELS


async def main(kubeconfig: str) -> None:
    async with await kubernetes.config.new_client_from_config(kubeconfig) as api:
        core = kubernetes.client.CoreV1Api(api)
        await core.create_namespaced_config_map("default", {"metadata": {"name": "m", "labels": LABELS}, "data": {}})
        listed = await core.list_namespaced_config_map("default", label_selector="app=boat")
        assert [item.metadata.name for item in listed.items] == ["m"]
        changed = await core.patch_namespaced_config_map("m", "default", {"data": {"k": "v"}})
        assert changed.data == {"k": "v"}
        seen = []
        async with kubernetes.watch.Watch() as watch:
            stream = watch.stream(
                core.list_namespaced_config_map, "default", resource_version=listed.metadata.resource_version,
                timeout_seconds=2,
            )  # fmt: skip
            async for event in stream:
                seen.append((event["type"], event["object"].data))
                break
        assert seen == [("MODIFIED", {"k": "v"})]
        dynamic = await kubernetes.dynamic.DynamicClient(api)
        maps = await dynamic.resources.get(api_version="v1", kind="ConfigMap")
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"l": "w"}}
        applied = await maps.server_side_apply(namespace="default", field_manager="test", body=body)
        assert applied.data.to_dict() == {"k": "v", "l": "w"}
        await core.delete_namespaced_config_map("m", "default")
        with pytest.raises(kubernetes.client.ApiException) as caught:
            await core.read_namespaced_config_map("m", "default")
        assert caught.value.status == 404


asyncio.run(main(sys.argv[1]))
