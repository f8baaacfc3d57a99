"""Aggregated ClusterRoles on a real API server."""

import pytest

from machinery.api.resources import CLUSTER_ROLES
from machinery.client.rest import Client
from tests.support.waiting import until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]


async def test_a_role_is_the_sum_of_those_it_selects(client: Client) -> None:
    rule = {"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]}
    labels = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    await client.create(CLUSTER_ROLES, {"metadata": {"name": "things", "labels": labels}, "rules": [rule]})
    for name in ("view", "edit", "admin"):
        found = await until_one(client, CLUSTER_ROLES, name, lambda role: rule in (role.get("rules") or ()))
        assert any("pods" in one.get("resources", ()) for one in found["rules"])
    await client.delete(CLUSTER_ROLES, "things")
    await until_one(client, CLUSTER_ROLES, "admin", lambda role: rule not in role["rules"])
