"""Admission steps that are asked for, left out, or configured by a file.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

import base64
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apiserver.admission.plugins import AdmissionSettings, ConfigurationError, settings
from apiserver.app import APIServer, serving
from apiserver.storage.sqlite import SQLiteStore
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CONFIG_MAPS,
    EVENTS,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    STORAGE_CLASSES,
)
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import pod
from tests.integration.apiserver.test_identity import grant, rule
from tests.support.server import client_config, server_config

CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")


@contextlib.asynccontextmanager
async def server_with(folder: Path, admission: AdmissionSettings) -> AsyncIterator[tuple[APIServer, Client]]:
    config = dataclasses.replace(server_config(folder), admission=admission)
    store = SQLiteStore(folder / "store.sqlite")
    try:
        async with serving(store, config, sole_writer=True) as server, Client(client_config(folder, config)) as client:
            await server.health.bootstrapped.wait()
            await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default")
            yield server, client
    finally:
        await store.close()


async def test_steps_are_added_and_left_out(tmp_path: Path) -> None:
    asked = settings(["AlwaysPullImages"], ["DefaultTolerationSeconds", "ServiceAccount"], None)
    async with server_with(tmp_path, asked) as (_, client):
        made = await client.create(PODS, pod("web"), "default")
        assert made["spec"]["containers"][0]["imagePullPolicy"] == "Always"
        assert "volumes" not in made["spec"]
        assert not made["spec"].get("tolerations")


def test_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown admission plugins: Wish"):
        settings(["Wish"], [], None)
    with pytest.raises(ConfigurationError, match="overlapped"):
        settings(["PodSecurity"], ["PodSecurity"], None)
    path = tmp_path / "a.yaml"
    path.write_text("kind: Pod\n")
    with pytest.raises(ConfigurationError):
        settings([], [], path)


async def test_a_file_configures_pod_security_and_event_rates(tmp_path: Path) -> None:
    path = tmp_path / "admission.yaml"
    path.write_text(
        """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    defaults: {enforce: baseline, enforce-version: latest}
    exemptions: {namespaces: [kube-system]}
- name: EventRateLimit
  path: rates.yaml
"""
    )
    (tmp_path / "rates.yaml").write_text("limits: [{type: Namespace, qps: 1, burst: 2}]\n")
    async with server_with(tmp_path, settings(["EventRateLimit"], [], path)) as (_, client):
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "kube-system")
        with pytest.raises(errors.Forbidden, match='violates PodSecurity "baseline:latest"'):
            await client.create(PODS, pod("web", hostNetwork=True), "default")
        await client.create(PODS, pod("web", hostNetwork=True), "kube-system")
        about = {"involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}, "reason": "r", "message": "m"}
        for index in range(2):
            await client.create(EVENTS, {"metadata": {"name": f"e{index}"}, **about}, "default")
        with pytest.raises(errors.TooManyRequests, match="limit reached on type Namespace for key default"):
            await client.create(EVENTS, {"metadata": {"name": "e3"}, **about}, "default")


async def test_owners_are_set_by_those_who_may(tmp_path: Path) -> None:
    async with server_with(tmp_path, settings(["OwnerReferencesPermissionEnforcement"], [], None)) as (server, client):
        owner = await client.create(CONFIG_MAPS, {"metadata": {"name": "owner"}}, "default")
        await client.create(CONFIG_MAPS, {"metadata": {"name": "mine"}}, "default")
        await grant(client, "bob", rule("get patch create", "", "configmaps"))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        async with Client(client_config(tmp_path, server.config, user="bob", groups=())) as bob:
            with pytest.raises(errors.Forbidden, match="cannot set an ownerRef on a resource you can't delete"):
                await bob.patch(CONFIG_MAPS, "mine", {"metadata": {"ownerReferences": [reference]}}, "default")
            blocking = {**reference, "blockOwnerDeletion": True}
            with pytest.raises(errors.Forbidden, match="you can't set finalizers on"):
                await bob.create(CONFIG_MAPS, {"metadata": {"name": "new", "ownerReferences": [blocking]}}, "default")
            await bob.create(CONFIG_MAPS, {"metadata": {"name": "new", "ownerReferences": [reference]}}, "default")


async def test_a_new_node_takes_no_pods_until_it_is_ready(client: Client) -> None:
    made = await client.create(NODES, {"metadata": {"name": "n"}})
    assert made["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]


async def test_a_claim_grows_where_its_class_lets_it(client: Client) -> None:
    for name, expands in (("fixed", False), ("grows", True)):
        body = {"metadata": {"name": name}, "provisioner": "p", "allowVolumeExpansion": expands}
        await client.create(STORAGE_CLASSES, body)
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "resources": {"requests": {"storage": "1Gi"}},
        }
        await client.create(CLAIMS, {"metadata": {"name": name}, "spec": spec}, "default")
        await client.patch(CLAIMS, name, {"status": {"phase": "Bound"}}, "default", subresource="status")
    more = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    await client.patch(CLAIMS, "grows", more, "default")
    with pytest.raises(errors.Forbidden, match="the storageclass that provisions the pvc must support resize"):
        await client.patch(CLAIMS, "fixed", more, "default")


# ---- requests for certificates


def asking(signer: str, *groups: str) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, "ann")] + [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups
    ]
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, hashes.SHA256())
    pem = base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()
    return {"metadata": {"name": "ann"}, "spec": {"request": pem, "signerName": signer, "usages": ["client auth"]}}


async def test_no_certificate_makes_a_master(client: Client) -> None:
    with pytest.raises(errors.Forbidden, match="signer with system:masters group is not allowed"):
        await client.create(
            CERTIFICATE_SIGNING_REQUESTS, asking("kubernetes.io/kube-apiserver-client", "system:masters")
        )


async def test_only_who_may_approves_and_signs(client: Client, server: APIServer, tmp_path: Path) -> None:
    await client.create(CERTIFICATE_SIGNING_REQUESTS, asking("example.com/mine"))
    csr = "certificates.k8s.io"
    await grant(
        client,
        "bob",
        rule("get patch update", csr, "certificatesigningrequests/approval certificatesigningrequests/status"),
    )
    approved = {"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}}
    signed = {
        "status": {
            "certificate": base64.b64encode(b"-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n").decode()
        }
    }
    async with Client(client_config(tmp_path, server.config, user="bob", groups=())) as bob:
        with pytest.raises(
            errors.Forbidden, match='user not permitted to approve requests with signerName "example.com/mine"'
        ):
            await bob.patch(CERTIFICATE_SIGNING_REQUESTS, "ann", approved, subresource="approval")
        with pytest.raises(
            errors.Forbidden, match='user not permitted to sign requests with signerName "example.com/mine"'
        ):
            await bob.patch(CERTIFICATE_SIGNING_REQUESTS, "ann", signed, subresource="status")
    await grant(
        client,
        "eve",
        rule("get patch", csr, "certificatesigningrequests/approval"),
        {**rule("approve", csr, "signers"), "resourceNames": ["example.com/*"]},
    )
    async with Client(client_config(tmp_path, server.config, user="eve", groups=())) as eve:
        made = await eve.patch(CERTIFICATE_SIGNING_REQUESTS, "ann", approved, subresource="approval")
        assert made["status"]["conditions"][0]["type"] == "Approved"
