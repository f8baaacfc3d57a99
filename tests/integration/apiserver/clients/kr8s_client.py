"""kr8s."""

import asyncio
import sys
import warnings

import kr8s
from kr8s.asyncio.objects import ConfigMap, Deployment

from tests.integration.apiserver.clients.fixtures import DEPLOYMENT, LABELS


async def main(kubeconfig: str) -> None:
    api = await kr8s.asyncio.api(kubeconfig=kubeconfig)
    made = await Deployment(DEPLOYMENT, api=api)
    await made.create()
    await made.patch({"spec": {"replicas": 2}})
    assert made.replicas == 2
    found = await ConfigMap({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": "v"}}, api=api)
    await found.create()
    await found.label(app="boat")
    listed = [one.name async for one in api.get("configmaps", namespace="default", label_selector=LABELS)]
    assert listed == ["m"]
    async for kind, one in api.watch("configmaps", namespace="default"):
        assert (kind, one.name, one.labels) == ("ADDED", "m", LABELS)
        break
    await found.patch([{"op": "replace", "path": "/data/k", "value": "w"}], type="json")
    assert found.data.to_dict() == {"k": "w"}
    await found.delete()
    assert not await found.exists()
    assert (await api.version())["minor"] == "36"


warnings.simplefilter("ignore")  # it knows no release that new yet
asyncio.run(main(sys.argv[1]))
