"""Who may write the status of a claim of devices: who hands devices out, and each driver of its own on its own node.

Source: https://kubernetes.io/docs/concepts/security/hardening-guide/dynamic-resource-allocation/
"""

from typing import Any

import orjson
import pytest

from machinery import errors
from machinery.api.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, DEVICE_CLASSES, RESOURCE_CLAIMS
from machinery.client.rest import Client

GROUP, DRIVER = "resource.k8s.io", "gpu.example.com"
PATH = f"/apis/{GROUP}/v1/namespaces/default/resourceclaims/c/status"


async def grant(client: Client, user: str, *rules: dict[str, Any]) -> None:
    name = user.replace(":", "-")
    given = [{"apiGroups": [GROUP], **rule} for rule in rules]
    await client.create(CLUSTER_ROLES, {"metadata": {"name": name}, "rules": given})
    subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}
    role = {"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": name}
    await client.create(CLUSTER_ROLE_BINDINGS, {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})


async def write(client: Client, user: str, node: str = "", **status: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/merge-patch+json", "Impersonate-User": user}
    if node:
        headers["Impersonate-Extra-authentication.kubernetes.io%2Fnode-name"] = node
    body = orjson.dumps({"status": status})
    found: dict[str, Any] = orjson.loads(await client.request("PATCH", PATH, body=body, headers=headers))
    return found["status"]


async def test_devices_are_handed_out_and_told_of_by_those_who_may(client: Client) -> None:
    await client.create(DEVICE_CLASSES, {"metadata": {"name": "gpu"}, "spec": {}})
    asked = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}
    await client.create(RESOURCE_CLAIMS, {"metadata": {"name": "c"}, "spec": asked}, "default")
    status = {"resources": ["resourceclaims/status"], "verbs": ["patch"]}
    await grant(client, "anybody", status)
    await grant(client, "allocator", status, {"resources": ["resourceclaims/binding"], "verbs": ["patch"]})
    drivers = {"resources": ["resourceclaims/driver"], "resourceNames": [DRIVER]}
    await grant(client, "central", status, {**drivers, "verbs": ["arbitrary-node:patch"]})
    local = "system:serviceaccount:default:driver"
    await grant(client, local, status, {**drivers, "verbs": ["associated-node:patch"]})

    rule = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    results = [
        {"request": "r", "driver": driver, "pool": "p", "device": "d"} for driver in (DRIVER, "other.example.com")
    ]
    allocation = {"devices": {"results": results}, "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [rule]}]}}
    with pytest.raises(errors.Invalid) as caught:
        await write(client, "anybody", allocation=allocation)
    assert str(caught.value) == (
        'ResourceClaim.resource.k8s.io "c" is invalid: status: Forbidden: changing status.allocation or '
        'status.reservedFor requires resource="resourceclaims/binding", verb="patch" permission: '
        'resourceclaims.resource.k8s.io is forbidden: User "anybody" cannot patch resource "resourceclaims/binding" in '
        'API group "resource.k8s.io" at the cluster scope'
    )
    assert (await write(client, "allocator", allocation=allocation))["allocation"] == allocation

    mine, others = ([{"driver": one["driver"], "pool": "p", "device": "d"}] for one in results)
    for user, node, devices in (
        ("allocator", "", mine), ("central", "", others), (local, "", mine), (local, "n2", mine), (local, "n1", others),
    ):  # fmt: skip
        with pytest.raises(errors.Invalid, match=r"status.devices: Forbidden: changing status.devices requires"):
            await write(client, user, node, devices=devices)
    assert (await write(client, "central", devices=mine))["devices"] == mine
    told = [{**mine[0], "data": {"a": 1}}]
    assert (await write(client, local, "n1", devices=told))["devices"] == told
    with pytest.raises(errors.Invalid, match=r'verb="\[associated-node:patch arbitrary-node:patch\]" permission'):
        await write(client, local, "n1", devices=[*told, *others])
