"""Build objects looked after by the real kopf operator over a real API server; the pods' ends are told by us."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machinery.api.meta import Resource
from machinery.api.resources import CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, PODS
from machinery.client.rest import Client
from machinery.errors import Invalid
from operators.build.pods import BUILDS, REBUILD
from tests.support.operators import running_operator
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """An administrator's client of a server whose Builds the operator looks after."""
    async with running_operator("build", tmp_path) as found:
        accounts = Resource("", "v1", "serviceaccounts", "ServiceAccount")
        await found.create(accounts, {"metadata": {"name": "default"}}, "default")
        yield found


def says(status: str, reason: str, message: str = "") -> Any:
    def check(one: dict[str, Any]) -> bool:
        found = (one.get("status") or {}).get("conditions") or [{}]
        said = found[0]
        return (said.get("status"), said.get("reason")) == (status, reason) and message in said.get("message", "")

    return check


async def end(client: Client, pod: str, code: int, message: str) -> None:
    state = {"terminated": {"exitCode": code, "message": message, "reason": "Error" if code else "Completed"}}
    one = {"name": "build", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [one]}
    await client.patch(PODS, pod, {"status": status}, "default", subresource="status")


async def test_a_build_runs_again_when_what_it_is_made_from_changes(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "context"}, "data": {"Dockerfile": "FROM x"}}, "default")
    spec = {
        "context": {"configMap": {"name": "context"}},
        "image": "registry:5000/app:1",
        "buildArgs": {"A": "$(PATH); x"},
    }
    await client.create(BUILDS, {"metadata": {"name": "app"}, "spec": spec}, "default")
    await until_one(client, BUILDS, "app", says("Unknown", "Starting"), namespace="default")
    first = await until_one(client, PODS, "app-build-1", lambda _: True, namespace="default")
    assert first["spec"]["hostUsers"] is False
    assert not first["spec"]["containers"][0]["securityContext"].get("privileged")
    assert "--build-arg=A=$(PATH); x" in first["spec"]["containers"][0]["command"]
    claims = await client.list(PERSISTENT_VOLUME_CLAIMS, "default")
    assert [one["metadata"]["name"] for one in claims["items"]] == ["app-build-cache"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "app-build-cache"}} in first["spec"]["volumes"]
    await end(client, "app-build-1", 1, "step 2\nno such file: page")
    failed = await until_one(client, BUILDS, "app", says("False", "Failed", "no such file: page"), namespace="default")
    assert failed["status"]["log"] == "step 2\nno such file: page"

    await client.patch(CONFIG_MAPS, "context", {"data": {"page": "x"}}, "default")
    await until_one(client, PODS, "app-build-2", lambda _: True, namespace="default")
    await end(client, "app-build-2", 0, "sha256:abc")
    done = await until_one(client, BUILDS, "app", says("True", "Pushed"), namespace="default")
    assert (done["status"]["digest"], done["status"]["run"], done["status"]["log"]) == ("sha256:abc", 2, "")

    await client.patch(BUILDS, "app", {"metadata": {"annotations": {REBUILD: "1"}}}, "default")
    await until_one(client, PODS, "app-build-3", lambda _: True, namespace="default")
    # One that was overtaken before its end is ended, and another takes its place.
    await client.patch(BUILDS, "app", {"spec": {"image": "registry:5000/app:2"}}, "default")
    left = {"app-build-1", "app-build-2", "app-build-4"}
    await until(client, PODS, lambda all_: {one["metadata"]["name"] for one in all_} == left, namespace="default")


async def test_what_is_missing_or_wrong_is_told(client: Client) -> None:
    spec = {"context": {"configMap": {"name": "absent"}}, "image": "registry:5000/app:1"}
    await client.create(BUILDS, {"metadata": {"name": "app"}, "spec": spec}, "default")
    await until_one(client, BUILDS, "app", says("False", "NoContext", "configmap absent"), namespace="default")
    await client.create(CONFIG_MAPS, {"metadata": {"name": "absent"}, "data": {"Dockerfile": "FROM x"}}, "default")
    await until_one(client, PODS, "app-build-1", lambda _: True, namespace="default")
    for wrong in (
        {"git": {"url": "ext::sh -c id"}},
        {"git": {"url": "https://x/y", "revision": "--upload-pack=id"}},
        {},
    ):
        with pytest.raises(Invalid):
            body = {"metadata": {"name": "wrong"}, "spec": {"context": wrong, "image": "x"}}
            await client.create(BUILDS, body, "default")
