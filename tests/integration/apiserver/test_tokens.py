"""Tokens of every origin: secrets, bootstrap secrets, other issuers, a webhook; and a proxy's word.

Other issuers and the webhook are real HTTPS servers on loopback.
https://kubernetes.io/docs/reference/access-authn-authz/authentication/
"""

import asyncio
import base64
import contextlib
import dataclasses
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import orjson
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from apiserver.app import APIServer, ServerConfig, serving
from apiserver.auth.oidc import ConfigurationError, read_configuration
from apiserver.storage.sqlite import SQLiteStore
from cluster.pki import Pki
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.client.tls import ssl_context
from tests.integration.apiserver.conftest import pod
from tests.support.server import client_config, server_config
from tests.support.waiting import until_gone, until_one

TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)


def bearing(config: ClientConfig, token: str) -> ClientConfig:
    return dataclasses.replace(config, cert_file="", key_file="", token=token)


async def who(config: ClientConfig, token: str) -> dict[str, Any]:
    """Return what the server takes the bearer of a token for. Raises: Unauthorized."""
    async with Client(bearing(config, token)) as client:
        review = orjson.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        answer = await client.request("POST", path, body=review, headers={"Content-Type": "application/json"})
        return json.loads(answer)["status"]["userInfo"]


def encoded(**data: str) -> dict[str, str]:
    return {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()}


async def test_a_secret_is_filled_with_a_token_and_goes_with_its_account(client: Client, config: ClientConfig) -> None:
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}}, "default")
    annotations = {"kubernetes.io/service-account.name": "robot"}
    secret = {"metadata": {"name": "key", "annotations": annotations}, "type": "kubernetes.io/service-account-token"}
    await client.create(SECRETS, secret, "default")
    made = await until_one(client, SECRETS, "key", lambda one: "token" in (one.get("data") or {}), namespace="default")
    token = base64.b64decode(made["data"]["token"]).decode()
    assert base64.b64decode(made["data"]["ca.crt"]).startswith(b"-----BEGIN CERTIFICATE")
    assert base64.b64decode(made["data"]["namespace"]) == b"default"
    assert (await who(config, token))["username"] == "system:serviceaccount:default:robot"
    await client.delete(SERVICE_ACCOUNTS, "robot", "default")
    await until_gone(client, SECRETS, "key", namespace="default")


@pytest.mark.parametrize("kind", ["Pod", "Secret", "Node"])
async def test_a_token_is_bound_to_what_it_names(
    client: Client, config: ClientConfig, server: APIServer, kind: str
) -> None:
    bodies = {"Pod": (PODS, pod("it")), "Secret": (SECRETS, {"metadata": {"name": "it"}}), "Node": (NODES, {"metadata": {"name": "it"}})}  # fmt: skip
    resource, body = bodies[kind]
    namespace = "default" if resource.namespaced else ""
    await client.create(resource, body, namespace)
    spec = {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": "it"}, "expirationSeconds": 600}
    made = await client.create(SERVICE_ACCOUNTS, {"spec": spec}, "default", name="default", subresource="token")
    token = made["status"]["token"]
    assert (await who(config, token))["username"] == "system:serviceaccount:default:default"
    await client.delete(resource, "it", namespace, options={"gracePeriodSeconds": 0})
    server.authenticator._known.clear()  # as some seconds later
    with pytest.raises(errors.Unauthorized):
        await who(config, token)


async def test_a_token_is_not_bound_to_a_pod_of_another_account(client: Client) -> None:
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "other"}}, "default")
    await client.create(PODS, pod("web"), "default")
    spec = {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web"}}
    with pytest.raises(errors.BadRequest, match="to pod running with different serviceaccount name"):
        await client.create(SERVICE_ACCOUNTS, {"spec": spec}, "default", name="other", subresource="token")
    with pytest.raises(errors.Conflict, match="does not match the UID in record"):
        spec["boundObjectRef"]["uid"] = "other"
        await client.create(SERVICE_ACCOUNTS, {"spec": spec}, "default", name="default", subresource="token")


async def test_a_token_is_good_for_its_audiences_alone(client: Client, config: ClientConfig) -> None:
    spec = {"audiences": ["vault"], "expirationSeconds": 600}
    made = await client.create(SERVICE_ACCOUNTS, {"spec": spec}, "default", name="default", subresource="token")
    token = made["status"]["token"]
    with pytest.raises(errors.Unauthorized):
        await who(config, token)
    review = await client.create(TOKEN_REVIEWS, {"spec": {"token": token, "audiences": ["vault", "x"]}})
    assert review["status"]["audiences"] == ["vault"]
    assert (await client.create(TOKEN_REVIEWS, {"spec": {"token": token}}))["status"]["authenticated"] is False


async def test_a_bootstrap_token_stands_for_a_bootstrapper_until_it_ends(client: Client, config: ClientConfig) -> None:
    data = encoded(
        token_id="abcdef", token_secret="0123456789abcdef", usage_bootstrap_authentication="true",
        auth_extra_groups="system:bootstrappers:wherry", expiration="2999-01-01T00:00:00Z",
    )  # fmt: skip
    secret = {"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": data}
    await client.create(SECRETS, secret, "kube-system")
    found = await who(config, "abcdef.0123456789abcdef")
    assert found["username"] == "system:bootstrap:abcdef"
    assert found["groups"] == ["system:bootstrappers", "system:bootstrappers:wherry", "system:authenticated"]
    for wrong in ("abcdef.0123456789abcdee", "abcdeg.0123456789abcdef"):
        with pytest.raises(errors.Unauthorized):
            await who(config, wrong)


# ---- others who know tokens


@contextlib.asynccontextmanager
async def https(folder: Path, handler: Any) -> AsyncIterator[str]:
    """Serve over TLS on loopback, with a certificate of the cluster's CA."""
    cert, key = Pki(folder / "pki").server("other", "other", ["127.0.0.1", "localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def server_with(folder: Path, **changes: Any) -> AsyncIterator[tuple[ServerConfig, ClientConfig]]:
    config = dataclasses.replace(server_config(folder), **changes)
    store = SQLiteStore(folder / "other.sqlite")
    try:
        async with serving(store, config, sole_writer=True) as server, asyncio.timeout(10):
            await server.health.bootstrapped.wait()
            yield config, client_config(folder, config)
    finally:
        await store.close()


async def test_another_issuers_tokens_are_checked_by_its_keys(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": "one", "alg": "ES256"}

    async def answer(request: web.BaseRequest) -> web.Response:
        url = f"https://{request.host}"
        if request.path == "/keys":
            return web.Response(body=orjson.dumps({"keys": [public]}))
        return web.Response(body=orjson.dumps({"issuer": url, "jwks_uri": f"{url}/keys"}))

    async with https(tmp_path, answer) as url:
        document = {
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": url, "audiences": ["wherry"], "certificateAuthority": (tmp_path / "pki/ca.crt").read_text()},
                "claimValidationRules": [{"expression": "claims.hd == 'example.com'", "message": "wrong house"}],
                "claimMappings": {
                    "username": {"claim": "sub", "prefix": "oidc:"}, "groups": {"expression": "claims.roles.map(r, 'r:' + r)"},
                    "extra": [{"key": "example.com/tenant", "valueExpression": "claims.tenant"}],
                },
                "userValidationRules": [{"expression": "!user.username.startsWith('system:')"}],
            }],
        }  # fmt: skip
        path = tmp_path / "authentication.yaml"
        path.write_text(json.dumps(document))
        async with server_with(tmp_path, authentication=read_configuration(path)) as (_, config):

            def token(**changes: Any) -> str:
                claims = {"iss": url, "aud": "wherry", "sub": "ann", "exp": time.time() + 60, "hd": "example.com", "roles": ["dev"], "tenant": "t1"}  # fmt: skip
                return jwt.encode({**claims, **changes}, key, algorithm="ES256", headers={"kid": "one"})

            found = await who(config, token())
            assert (found["username"], found["groups"]) == ("oidc:ann", ["r:dev", "system:authenticated"])
            assert found["extra"] == {"example.com/tenant": ["t1"]}
            for wrong in ({"aud": "other"}, {"exp": 1}, {"hd": "elsewhere"}, {"iss": "https://else"}):
                with pytest.raises(errors.Unauthorized):
                    await who(config, token(**wrong))
            forged = jwt.encode({"iss": url, "aud": "wherry", "sub": "x", "exp": time.time() + 60}, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "one"})  # fmt: skip
            with pytest.raises(errors.Unauthorized):
                await who(config, forged)


def test_a_configuration_without_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
    for text in ("kind: Other\n", head + "jwt: [{issuer: {url: 'http://x', audiences: [a]}}]\n", head + "jwt: [{issuer: {url: 'https://x'}}]\n"):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ConfigurationError):
            read_configuration(path)


async def test_a_webhook_is_asked_about_tokens_nobody_here_knows(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        review = orjson.loads(await request.read())
        asked.append(review["spec"]["token"])
        good = review["spec"]["token"] == "good"
        status = {
            "authenticated": good,
            "user": {"username": "eve", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}},
        }
        return web.Response(body=orjson.dumps({**review, "status": status if good else {"authenticated": False}}))

    async with https(tmp_path, answer) as url:
        path = tmp_path / "webhook.yaml"
        cluster = {"server": url, "certificate-authority": str(tmp_path / "pki/ca.crt")}
        path.write_text(json.dumps({
            "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
        }))  # fmt: skip
        async with server_with(tmp_path, token_webhook_file=path) as (_, config):
            for _ in range(3):
                found = await who(config, "good")
            assert found == {
                "username": "eve",
                "uid": "7",
                "groups": ["g", "system:authenticated"],
                "extra": {"k": ["v"]},
            }
            for _ in range(2):
                with pytest.raises(errors.Unauthorized):
                    await who(config, "bad")
            assert asked == ["good", "bad"]


async def test_a_proxy_says_who_asks_and_others_can_not(tmp_path: Path) -> None:
    front = Pki(tmp_path / "front", ca_name="front-proxy-ca")
    async with server_with(tmp_path, front_proxy_ca_file=front.ca_file) as (server, config):
        headers = {"X-Remote-User": "ann", "X-Remote-Group": "dev", "X-Remote-Extra-Scopes": "all"}
        url = f"https://127.0.0.1:{server.port}/apis/authentication.k8s.io/v1/selfsubjectreviews"
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}

        async def ask(cert: Path, key: Path) -> tuple[int, Any]:
            context = ssl_context(dataclasses.replace(config, cert_file=str(cert), key_file=str(key)))
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.post(url, json=review, headers=headers) as answer,
            ):
                return answer.status, (await answer.json()).get("status")

        status, told = await ask(*front.client("proxy", "front-proxy-client"))
        assert (status, told["userInfo"]) == (201, {"username": "ann", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["all"]}})  # fmt: skip
        assert (await ask(*front.client("other", "other")))[0] == 403  # anonymous: not a name that may
        status, told = await ask(*Pki(tmp_path / "pki").client("client-bob", "bob"))
        assert (status, told["userInfo"]["username"]) == (201, "bob")
