"""lightkube."""

import asyncio
import sys

import lightkube
import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap

from tests.integration.apiserver.clients.fixtures import DEPLOYMENT, LABELS


async def main(kubeconfig: str) -> None:
    config = lightkube.KubeConfig.from_file(kubeconfig)
    api = lightkube.AsyncClient(config=config, field_manager="test", trust_env=False)
    try:
        await api.create(ConfigMap(metadata=ObjectMeta(name="m", namespace="default"), data={"k": "v"}))
        await api.apply(ConfigMap(metadata=ObjectMeta(name="m", namespace="default"), data={"k": "w"}), force=True)
        assert (await api.get(ConfigMap, "m", namespace="default")).data == {"k": "w"}
        await api.create(Deployment.from_dict(DEPLOYMENT), namespace="default")
        await api.patch(Deployment.Scale, "boat", {"spec": {"replicas": 2}}, namespace="default")
        assert (await api.get(Deployment, "boat", namespace="default")).spec.replicas == 2
        assert [one.metadata.name async for one in api.list(Deployment, namespace="*", labels=LABELS)] == ["boat"]
        seen = []
        async for kind, one in api.watch(ConfigMap, namespace="default", server_timeout=5):
            seen.append((kind, one.metadata.name))
            if len(seen) == 1:
                await api.delete(ConfigMap, "m", namespace="default")
            else:
                break
        assert seen == [("ADDED", "m"), ("DELETED", "m")]
        with pytest.raises(lightkube.ApiError, match='configmaps "m" not found'):
            await api.get(ConfigMap, "m", namespace="default")
    finally:
        await api.close()


asyncio.run(main(sys.argv[1]))
