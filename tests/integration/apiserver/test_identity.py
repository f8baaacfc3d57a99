"""Acting as others, granting what one has, and tokens that outsiders can check."""

from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest

from apiserver.app import APIServer
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl
from tests.support.server import client_config

RBAC = "rbac.authorization.k8s.io"
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)


async def grant(client: Client, user: str, *rules: dict[str, Any]) -> None:
    """Give a user these rules everywhere."""
    name = f"of-{user}"
    await client.create(CLUSTER_ROLES, {"metadata": {"name": name}, "rules": list(rules)})
    subjects = [{"kind": "User", "apiGroup": RBAC, "name": user}]
    role = {"kind": "ClusterRole", "apiGroup": RBAC, "name": name}
    await client.create(CLUSTER_ROLE_BINDINGS, {"metadata": {"name": name}, "roleRef": role, "subjects": subjects})


def rule(verbs: str, group: str, resources: str) -> dict[str, Any]:
    return {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}


@pytest.mark.slow
async def test_kubectl_acts_as_another(kubectl: Kubectl, client: Client) -> None:
    code, out, _ = await kubectl("auth", "whoami", "--as=ann", "--as-group=dev", "-o", "json")
    assert code == 0
    told = orjson.loads(out)["status"]["userInfo"]
    assert (told["username"], told["groups"]) == ("ann", ["dev", "system:authenticated"])
    code, _, problem = await kubectl("get", "pods", "--as=ann")
    assert code == 1
    assert 'User "ann" cannot list resource "pods" in API group "" in the namespace "default"' in problem
    assert (await kubectl("auth", "can-i", "list", "pods", "--as=system:serviceaccount:default:default"))[1] == "no\n"


async def test_only_who_may_acts_as_another(client: Client, server: APIServer, tmp_path: Path) -> None:
    async with Client(client_config(tmp_path, server.config, user="bob", groups=())) as bob:
        headers = {"Impersonate-User": "ann"}
        with pytest.raises(errors.Forbidden, match='User "bob" cannot impersonate resource "users"'):
            await bob.request("GET", "/api/v1/namespaces/default/pods", headers=headers)
        await grant(client, "bob", rule("impersonate", "", "users"))
        await grant(client, "ann", rule("list", "", "pods"))
        assert b'"items":[]' in await bob.request("GET", "/api/v1/namespaces/default/pods", headers=headers)
        with pytest.raises(errors.Forbidden, match='cannot impersonate resource "groups"'):
            more = {**headers, "Impersonate-Group": "system:masters"}
            await bob.request("GET", "/api/v1/namespaces/default/pods", headers=more)


async def test_nobody_grants_what_he_has_not(client: Client, server: APIServer, tmp_path: Path) -> None:
    await grant(client, "bob", rule("create update", RBAC, "roles rolebindings"), rule("get list", "", "pods"))
    async with Client(client_config(tmp_path, server.config, user="bob", groups=())) as bob:
        fine = {"metadata": {"name": "read"}, "rules": [rule("get", "", "pods")]}
        await bob.create(ROLES, fine, "default")
        with pytest.raises(errors.Forbidden) as caught:
            much = {"metadata": {"name": "write"}, "rules": [rule("get delete", "", "pods")]}
            await bob.create(ROLES, much, "default")
        assert str(caught.value) == (
            'roles.rbac.authorization.k8s.io "write" is forbidden: user "bob" (groups=["system:authenticated"]) is '
            'attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}'
        )
        binding: dict[str, Any] = {
            "metadata": {"name": "b"},
            "subjects": [{"kind": "User", "apiGroup": RBAC, "name": "x"}],
        }
        own = {"kind": "Role", "apiGroup": RBAC, "name": "read"}
        await bob.create(ROLE_BINDINGS, {**binding, "roleRef": own}, "default")
        with pytest.raises(errors.Forbidden, match="attempting to grant RBAC permissions not currently held"):
            every = {"kind": "ClusterRole", "apiGroup": RBAC, "name": "cluster-admin"}
            await bob.create(ROLE_BINDINGS, {**binding, "metadata": {"name": "c"}, "roleRef": every}, "default")


async def test_outsiders_can_check_our_tokens(client: Client) -> None:
    body = {"spec": {"audiences": ["outside"], "expirationSeconds": 600}}
    made = await client.create(SERVICE_ACCOUNTS, body, "default", name="default", subresource="token")
    token = made["status"]["token"]
    document = orjson.loads(await client.request("GET", "/.well-known/openid-configuration"))
    assert document["jwks_uri"].endswith("/openid/v1/jwks")
    keys = jwt.PyJWKSet.from_dict(orjson.loads(await client.request("GET", "/openid/v1/jwks")))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key.key, algorithms=["ES256"], audience="outside", issuer=document["issuer"])
    assert claims["sub"] == "system:serviceaccount:default:default"


async def test_a_review_tells_for_whom_a_token_is(client: Client) -> None:
    body = {"spec": {"audiences": ["outside"], "expirationSeconds": 600}}
    token = (await client.create(SERVICE_ACCOUNTS, body, "default", name="default", subresource="token"))["status"][
        "token"
    ]
    good = await client.create(TOKEN_REVIEWS, {"spec": {"token": token, "audiences": ["outside", "other"]}})
    assert (good["status"]["authenticated"], good["status"]["audiences"]) == (True, ["outside"])
    assert good["status"]["user"]["username"] == "system:serviceaccount:default:default"
    bad = await client.create(TOKEN_REVIEWS, {"spec": {"token": token}})  # it is not meant for this server
    assert bad["status"].get("authenticated", False) is False
