"""The client libraries people use, each unchanged: made, read, watched, patched, applied, deleted.

They run in threads or on this loop beside the server; what they do is what their own guides show first.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from apiserver.app import APIServer
from machinery.client.rest import Client
from tests.support.server import kubeconfig_file

pytestmark = pytest.mark.slow
LABELS = {"app": "boat"}


@pytest.fixture
def kubeconfig(server: APIServer, client: Client, tmp_path: Path) -> str:
    return str(kubeconfig_file(tmp_path, server.config))


def deployment(image: str) -> dict[str, Any]:
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": image}]}}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "boat", "labels": LABELS},
        "spec": {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": template},
    }  # fmt: skip


async def test_the_official_client(kubeconfig: str) -> None:
    import kubernetes

    def work() -> None:
        with kubernetes.config.new_client_from_config(kubeconfig) as api:
            core, apps = kubernetes.client.CoreV1Api(api), kubernetes.client.AppsV1Api(api)
            apps.create_namespaced_deployment("default", deployment("a:1"))
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

    await asyncio.to_thread(work)


async def test_the_official_client_for_asyncio(kubeconfig: str) -> None:
    import kubernetes_asyncio as kubernetes

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


async def test_lightkube(kubeconfig: str) -> None:
    import lightkube
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.apps_v1 import Deployment
    from lightkube.resources.core_v1 import ConfigMap

    config = lightkube.KubeConfig.from_file(kubeconfig)
    api = lightkube.AsyncClient(config=config, field_manager="test", trust_env=False)
    try:
        await api.create(ConfigMap(metadata=ObjectMeta(name="m", namespace="default"), data={"k": "v"}))
        await api.apply(ConfigMap(metadata=ObjectMeta(name="m", namespace="default"), data={"k": "w"}), force=True)
        assert (await api.get(ConfigMap, "m", namespace="default")).data == {"k": "w"}
        await api.create(Deployment.from_dict(deployment("a:1")), namespace="default")
        await api.patch(Deployment.Scale, "boat", {"spec": {"replicas": 2}}, namespace="default")
        assert (await api.get(Deployment, "boat", namespace="default")).spec.replicas == 2
        assert [one.metadata.name async for one in api.list(Deployment, namespace="*", labels=LABELS)] == ["boat"]
        await api.delete(ConfigMap, "m", namespace="default")
        with pytest.raises(lightkube.ApiError, match='configmaps "m" not found'):
            await api.get(ConfigMap, "m", namespace="default")
    finally:
        await api.close()


# It leaves its connections open, which would be a failure of whatever test runs when they are collected.
KR8S = """
import asyncio, sys, warnings
import kr8s
from kr8s.asyncio.objects import ConfigMap, Deployment

async def main(kubeconfig, deployment):
    api = await kr8s.asyncio.api(kubeconfig=kubeconfig)
    made = await Deployment(deployment, api=api)
    await made.create()
    await made.patch({"spec": {"replicas": 2}})
    assert made.replicas == 2
    found = await ConfigMap({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": "v"}}, api=api)
    await found.create()
    await found.label(app="boat")
    print([one.name async for one in api.get("configmaps", namespace="default", label_selector={"app": "boat"})])
    await found.delete()
    print(await found.exists(), (await api.version())["minor"])

warnings.simplefilter("ignore")  # it knows no release that new yet
asyncio.run(main(sys.argv[1], eval(sys.argv[2])))
"""


async def test_kr8s(kubeconfig: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KR8S, kubeconfig, repr(deployment("a:1")),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode() == "['m']\nFalse 36\n"
