"""Certificates, tokens and how new machines are let in, on a real API server."""

import base64
import datetime
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controllers.certificate_signer import Authority
from machinery.api.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CLUSTER_ROLE_BINDINGS,
    CONFIG_MAPS,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.conftest import running_controllers
from tests.support.waiting import until_gone, until_one

pytestmark = pytest.mark.slow

CLIENT = "kubernetes.io/kube-apiserver-client"
NODE_CLIENT, NODE_SERVER = "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"


@pytest.fixture
async def controllers(config: ClientConfig, tmp_path: Path) -> AsyncIterator[None]:
    authority = Authority(tmp_path / "pki/ca.crt", tmp_path / "pki/ca.key")
    async with running_controllers(config, authority=authority):
        yield


def request(
    signer: str, name: str, groups: tuple[str, ...] = (), *, usages: tuple[str, ...], hosts: tuple[str, ...] = ()
) -> dict[str, Any]:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), critical=False)
    pem = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )
    spec = {"signerName": signer, "usages": list(usages), "request": base64.b64encode(pem).decode()}
    return {"metadata": {"name": "asked"}, "spec": {**spec, "expirationSeconds": 3600}}


async def approve(client: Client) -> None:
    condition = {"type": "Approved", "status": "True", "reason": "ByTest", "message": "it may"}
    patch = {"status": {"conditions": [condition]}}
    await client.patch(CERTIFICATE_SIGNING_REQUESTS, "asked", patch, subresource="approval")


async def issued(client: Client) -> x509.Certificate:
    found = await until_one(
        client, CERTIFICATE_SIGNING_REQUESTS, "asked", lambda obj: obj.get("status", {}).get("certificate")
    )
    return x509.load_pem_x509_certificate(base64.b64decode(found["status"]["certificate"]))


async def test_an_approved_request_of_a_client_is_signed_for_as_long_as_it_asks(
    client: Client, controllers: None, tmp_path: Path
) -> None:
    asked = request(CLIENT, "jane", ("dev",), usages=("client auth", "digital signature"))
    await client.create(CERTIFICATE_SIGNING_REQUESTS, asked)
    await approve(client)
    certificate = await issued(client)
    ca = x509.load_pem_x509_certificate((tmp_path / "pki/ca.crt").read_bytes())
    certificate.verify_directly_issued_by(ca)
    assert certificate.subject.rfc4514_string() == "CN=jane,O=dev"
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=55) < left <= datetime.timedelta(hours=1)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request(CLIENT, "jane", usages=("server auth",)), "usages did not match"),
        (request(NODE_SERVER, "system:node:a", ("system:nodes",), usages=("digital signature", "server auth")),
         "subjectAltName is required"),
        (request(NODE_SERVER, "jane", ("system:nodes",), usages=("digital signature", "server auth"), hosts=("a",)),
         "common name"),
        (request(NODE_CLIENT, "system:node:a", ("dev",), usages=("digital signature", "client auth")), "organization"),
    ],
    ids=["usages", "no-hosts", "no-node", "no-group"],
)  # fmt: skip
async def test_what_a_signer_does_not_sign_is_marked_failed(
    client: Client, controllers: None, asked: dict[str, Any], why: str
) -> None:
    await client.create(CERTIFICATE_SIGNING_REQUESTS, asked)
    await approve(client)
    found = await until_one(
        client, CERTIFICATE_SIGNING_REQUESTS, "asked",
        lambda obj: any(c["type"] == "Failed" for c in obj["status"]["conditions"]),
    )  # fmt: skip
    [failed] = [c for c in found["status"]["conditions"] if c["type"] == "Failed"]
    assert failed["reason"] == "SignerValidationFailure"
    assert why in failed["message"]
    assert "certificate" not in found["status"]


async def test_a_node_gets_its_certificate_without_a_human_where_rbac_says_so(
    client: Client, controllers: None
) -> None:
    usages = ("digital signature", "client auth")
    await client.create(
        CERTIFICATE_SIGNING_REQUESTS, request(NODE_CLIENT, "system:node:a", ("system:nodes",), usages=usages)
    )
    certificate = await issued(client)  # who asked here may do anything
    assert "CN=system:node:a" in certificate.subject.rfc4514_string()
    found = await client.get(CERTIFICATE_SIGNING_REQUESTS, "asked")
    [approved] = found["status"]["conditions"]
    assert (approved["type"], approved["reason"]) == ("Approved", "AutoApproved")


async def test_a_token_secret_is_filled_and_ends_with_its_account(
    client: Client, config: ClientConfig, controllers: None
) -> None:
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}}, "default")
    binding = {
        "metadata": {"name": "robot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    }
    await client.create(CLUSTER_ROLE_BINDINGS, binding)
    annotations = {"kubernetes.io/service-account.name": "robot"}
    secret = {"metadata": {"name": "key", "annotations": annotations}, "type": "kubernetes.io/service-account-token"}
    await client.create(SECRETS, secret, "default")
    found = await until_one(client, SECRETS, "key", lambda obj: obj.get("data", {}).get("token"), namespace="default")
    assert base64.b64decode(found["data"]["namespace"]) == b"default"
    assert base64.b64decode(found["data"]["ca.crt"]).startswith(b"-----BEGIN CERTIFICATE-----")
    assert found["metadata"]["annotations"]["kubernetes.io/service-account.uid"]
    token = base64.b64decode(found["data"]["token"]).decode()
    robot = ClientConfig(server=config.server, ca_file=config.ca_file, token=token)
    async with Client(robot) as other:
        await until_one(other, CONFIG_MAPS, "kube-root-ca.crt", lambda obj: bool(obj["data"]), namespace="default")
    await client.delete(SERVICE_ACCOUNTS, "robot", "default")
    await until_gone(client, SECRETS, "key", namespace="default")


def bootstrap_token(token_id: str, *, expires: str = "", signs: bool = True) -> dict[str, Any]:
    data = {"token-id": token_id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}
    data |= {"usage-bootstrap-signing": "true"} if signs else {}
    data |= {"expiration": expires} if expires else {}
    return {
        "metadata": {"name": f"bootstrap-token-{token_id}"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }  # fmt: skip


async def test_cluster_info_is_signed_by_each_token_and_old_tokens_go(client: Client, controllers: None) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "x"}}, "kube-public")
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    await client.create(SECRETS, bootstrap_token("aaaaaa"), "kube-system")
    await client.create(SECRETS, bootstrap_token("bbbbbb", expires=soon), "kube-system")
    await client.create(SECRETS, bootstrap_token("cccccc", signs=False), "kube-system")

    def signed_by(*ids: str) -> Any:
        wanted = {"kubeconfig", *(f"jws-kubeconfig-{one}" for one in ids)}
        return lambda obj: set(obj["data"]) == wanted

    found = await until_one(client, CONFIG_MAPS, "cluster-info", signed_by("aaaaaa", "bbbbbb"), namespace="kube-public")
    header, content, signature = found["data"]["jws-kubeconfig-aaaaaa"].split(".")
    assert content == ""
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "HS256", "kid": "aaaaaa"}
    signed = f"{header}.{base64.urlsafe_b64encode(b'x').decode().rstrip('=')}".encode()
    expected = hmac.digest(b"0123456789abcdef", signed, hashlib.sha256)
    assert base64.urlsafe_b64decode(signature + "==") == expected
    await until_gone(client, SECRETS, "bootstrap-token-bbbbbb", namespace="kube-system")
    await until_one(client, CONFIG_MAPS, "cluster-info", signed_by("aaaaaa"), namespace="kube-public")
