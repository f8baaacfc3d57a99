"""Compose objects looked after by the real kopf operator, in a process of its own, over a real API server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machinery.api.meta import Resource
from machinery.api.resources import CONFIG_MAPS, DEPLOYMENTS, SERVICES
from machinery.client.rest import Client, PatchType
from operators.compose.project import COMPOSES
from tests.support.operators import running_operator
from tests.support.waiting import until, until_one

pytestmark = pytest.mark.slow

TEXT = """services:
  web: {image: "web:1", ports: ["80"]}
  db: {image: "db:1", volumes: ["data:/data"]}
volumes: {data: {}}
"""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """An administrator's client of a server whose projects the operator looks after."""
    async with running_operator("compose", tmp_path) as found:
        yield found


async def make(client: Client, **spec: Any) -> None:
    body = {"apiVersion": COMPOSES.api_version, "kind": "Compose", "metadata": {"name": "shop"}, "spec": spec}
    await client.create(COMPOSES, body, "default")


def says(kind: str, status: str, message: str = "") -> Any:
    def check(one: dict[str, Any]) -> bool:
        found = {each["type"]: each for each in (one.get("status") or {}).get("conditions") or ()}
        return kind in found and found[kind]["status"] == status and message in found[kind]["message"]

    return check


async def until_names(client: Client, resource: Resource, expected: set[str]) -> list[dict[str, Any]]:
    label = "wherry.dev/compose=shop"
    return await until(
        client, resource, lambda all_: {one["metadata"]["name"] for one in all_} == expected, namespace="default",
        label_selector=label,
    )  # fmt: skip


async def test_a_project_is_brought_about_changed_repaired_and_cut_down(client: Client) -> None:
    await make(client, project=TEXT)
    made = await until_names(client, DEPLOYMENTS, {"web", "db"})
    await until_names(client, SERVICES, {"web", "db"})
    owner = await until_one(client, COMPOSES, "shop", says("Accepted", "True"), namespace="default")
    assert not owner["metadata"].get("finalizers")
    assert {one["metadata"]["ownerReferences"][0]["uid"] for one in made} == {owner["metadata"]["uid"]}
    await until_one(client, COMPOSES, "shop", says("Ready", "False", "not ready: web, db"), namespace="default")

    await client.patch(COMPOSES, "shop", {"spec": {"project": TEXT.replace("web:1", "web:2")}}, "default")

    def runs(image: str) -> Any:
        return lambda one: one["spec"]["template"]["spec"]["containers"][0]["image"] == image

    await until_one(client, DEPLOYMENTS, "web", runs("web:2"), namespace="default")

    before = (await client.get(DEPLOYMENTS, "web", "default"))["metadata"]["uid"]
    await client.delete(DEPLOYMENTS, "web", "default")
    await until_one(client, DEPLOYMENTS, "web", lambda one: one["metadata"]["uid"] != before, namespace="default")
    wrong = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "other"}]}}}}
    await client.patch(DEPLOYMENTS, "web", wrong, "default", type=PatchType.STRATEGIC)
    await until_one(client, DEPLOYMENTS, "web", runs("web:2"), namespace="default")

    await client.patch(COMPOSES, "shop", {"spec": {"project": 'services: {web: {image: "web:2"}}'}}, "default")
    await until_names(client, DEPLOYMENTS, {"web"})
    await until_names(client, SERVICES, {"web"})


async def test_mistakes_are_told_by_line_and_what_ran_goes_on(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "file"}, "data": {"compose.yaml": TEXT}}, "default")
    await make(client, configMap={"name": "file"})
    await until_names(client, DEPLOYMENTS, {"web", "db"})
    broken = TEXT + "service: {}\n"
    await client.patch(CONFIG_MAPS, "file", {"data": {"compose.yaml": broken}}, "default")
    message = "configmap/file/compose.yaml:5:1: "
    await until_one(client, COMPOSES, "shop", says("Accepted", "False", message), namespace="default")
    assert len((await client.list(DEPLOYMENTS, "default"))["items"]) == 2
    await client.patch(CONFIG_MAPS, "file", {"data": {"compose.yaml": TEXT.replace("db:", "store:", 1)}}, "default")
    await until_names(client, DEPLOYMENTS, {"web", "store"})
    await until_one(client, COMPOSES, "shop", says("Accepted", "True"), namespace="default")


async def test_services_wait_for_what_they_need_and_nothing_of_others_is_taken(client: Client) -> None:
    text = "services: {db: {image: x}, web: {image: x, depends_on: {db: {condition: service_healthy}}}}"
    await make(client, project=text)
    waits = says("Ready", "False", "waiting for what they depend on: web")
    await until_one(client, COMPOSES, "shop", waits, namespace="default")
    generation = (await client.get(DEPLOYMENTS, "db", "default"))["metadata"]["generation"]
    status = {"observedGeneration": generation, "replicas": 1, "readyReplicas": 1}
    await client.patch(DEPLOYMENTS, "db", {"status": status}, "default", subresource="status")
    await until_names(client, DEPLOYMENTS, {"web", "db"})
    await client.create(SERVICES, {"metadata": {"name": "other"}, "spec": {"ports": [{"port": 80}]}}, "default")
    await client.patch(COMPOSES, "shop", {"spec": {"project": "services: {other: {image: x}}"}}, "default")
    refused = says("Accepted", "False", "Service other is there already and is not this project's")
    await until_one(client, COMPOSES, "shop", refused, namespace="default")
