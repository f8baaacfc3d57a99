"""Namespaces get what every one has, and give all back before they go."""

from pathlib import Path
from typing import Any

import pytest

from machinery.api.resources import CONFIG_MAPS, NAMESPACES, PODS, SECRETS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.errors import NotFound
from tests.support.waiting import until_gone, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]


@pytest.fixture
async def shop(client: Client) -> str:
    await client.create(NAMESPACES, {"metadata": {"name": "shop"}})
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="shop")
    await until_one(client, CONFIG_MAPS, "kube-root-ca.crt", lambda _: True, namespace="shop")
    return "shop"


def condition(namespace: dict[str, Any], kind: str) -> dict[str, Any]:
    found = namespace.get("status", {}).get("conditions", ())
    return next((one for one in found if one["type"] == kind), {})


def bundle_of(config: ClientConfig) -> str:
    return Path(config.ca_file).read_text()


async def test_a_namespace_gets_the_ca_of_its_api_server(client: Client, config: ClientConfig, shop: str) -> None:
    found = await client.get(CONFIG_MAPS, "kube-root-ca.crt", shop)
    assert found["data"] == {"ca.crt": bundle_of(config)}


async def test_what_every_namespace_has_comes_back(client: Client, shop: str) -> None:
    before = await client.get(SERVICE_ACCOUNTS, "default", shop)
    await client.delete(SERVICE_ACCOUNTS, "default", shop)
    await until_one(
        client,
        SERVICE_ACCOUNTS,
        "default",
        lambda new: new["metadata"]["uid"] != before["metadata"]["uid"],
        namespace=shop,
    )
    await client.patch(CONFIG_MAPS, "kube-root-ca.crt", {"data": {"ca.crt": "false", "more": "x"}}, shop)
    await until_one(
        client, CONFIG_MAPS, "kube-root-ca.crt", lambda found: "BEGIN" in found["data"]["ca.crt"], namespace=shop
    )
    assert "more" not in (await client.get(CONFIG_MAPS, "kube-root-ca.crt", shop))["data"]


async def test_a_deleted_namespace_is_emptied_and_goes(client: Client, shop: str) -> None:
    await client.create(SECRETS, {"metadata": {"name": "s"}}, shop)
    await client.create(PODS, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "m", "image": "i"}]}}, shop)
    await client.delete(NAMESPACES, shop)
    await until_gone(client, NAMESPACES, shop)
    for resource, name in ((SECRETS, "s"), (PODS, "p"), (SERVICE_ACCOUNTS, "default")):
        with pytest.raises(NotFound):
            await client.get(resource, name, shop)


async def test_a_namespace_says_what_holds_it_up_and_goes_when_that_is_over(client: Client, shop: str) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}, shop)
    await client.delete(NAMESPACES, shop)
    held = await until_one(
        client, NAMESPACES, shop, lambda found: condition(found, "NamespaceFinalizersRemaining").get("status") == "True"
    )
    assert held["status"]["phase"] == "Terminating"
    assert condition(held, "NamespaceContentRemaining")["message"] == (
        "Some resources are remaining: configmaps. has 1 resource instances"
    )
    assert condition(held, "NamespaceFinalizersRemaining")["message"] == (
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    )
    await client.patch(CONFIG_MAPS, "held", {"metadata": {"finalizers": None}}, shop)
    await until_gone(client, NAMESPACES, shop)


async def test_pods_that_stop_slowly_go_before_what_they_use(client: Client, shop: str) -> None:
    spec = {"containers": [{"name": "m", "image": "i"}], "nodeName": "n1"}
    await client.create(PODS, {"metadata": {"name": "slow"}, "spec": spec}, shop)
    await client.create(SECRETS, {"metadata": {"name": "used"}}, shop)
    await client.delete(NAMESPACES, shop)
    await until_one(
        client, NAMESPACES, shop, lambda found: condition(found, "NamespaceContentRemaining").get("status") == "True"
    )
    assert await client.get(SECRETS, "used", shop)
    await client.delete(PODS, "slow", shop, options={"gracePeriodSeconds": 0})
    await until_gone(client, NAMESPACES, shop)
