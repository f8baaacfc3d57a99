"""The official client for asyncio."""

import asyncio
import sys

import kubernetes_asyncio as kubernetes

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
        await core.delete_namespaced_config_map("m", "default")


asyncio.run(main(sys.argv[1]))
