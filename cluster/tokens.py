"""Bootstrap tokens: what a machine that joins shows, and what must be in the cluster so that it may.

Names and forms are kubeadm's: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/,
https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/
"""

import base64
import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cli.connection import Connection
from machinery.errors import AlreadyExists

TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
GROUP = "system:bootstrappers:kubeadm:default-node-token"
TYPE = "bootstrap.kubernetes.io/token"
_ALPHABET = string.ascii_lowercase + string.digits
_SECRETS = "/api/v1/namespaces/kube-system/secrets"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_PUBLIC = "kube-public"
INFO = "cluster-info"
SETTINGS_KEY = "wherry"


def new_token() -> str:
    """Return a token: id and secret."""
    identity, secret = ("".join(secrets.choice(_ALPHABET) for _ in range(size)) for size in (6, 16))
    return f"{identity}.{secret}"


def create(connection: Connection, token: str, *, ttl_seconds: int, description: str = "") -> None:
    """Make a token good for joining, for a time; 0 for ever. Raises: APIError."""
    identity, _, secret = token.partition(".")
    data = {
        "token-id": identity, "token-secret": secret, "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true", "auth-extra-groups": GROUP,
    }  # fmt: skip
    if ttl_seconds:
        data["expiration"] = (datetime.now(UTC) + timedelta(seconds=ttl_seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    if description:
        data["description"] = description
    metadata = {"name": f"bootstrap-token-{identity}", "namespace": "kube-system"}
    secret_object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TYPE, "stringData": data}
    connection.request("POST", _SECRETS, body=json.dumps(secret_object).encode())


def listed(connection: Connection) -> Iterator[Mapping[str, str]]:
    """Yield the tokens there are: their fields."""
    answer = json.loads(connection.request("GET", _SECRETS, params={"fieldSelector": f"type={TYPE}"}))
    for one in answer["items"]:
        yield {key: base64.b64decode(value).decode() for key, value in (one.get("data") or {}).items()}


def delete(connection: Connection, identity: str) -> None:
    """Revoke a token by its id, or by the whole of it. Raises: APIError."""
    connection.request("DELETE", f"{_SECRETS}/bootstrap-token-{identity.partition('.')[0]}")


def ca_hash(ca_pem: bytes) -> str:
    """Return what pins a CA: the SHA-256 of its public key, in kubeadm's form."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key = x509.load_pem_x509_certificate(ca_pem).public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"


def make_joinable(connection: Connection, server: str, ca_file: Path, settings: Mapping[str, str]) -> None:
    """Put into the cluster what a machine that joins must find, and be allowed.

    Args:
        connection: an administrator's.
        server: the URL others reach the API server at.
        ca_file: the cluster's CA.
        settings: what a node is to know of the cluster's network.
    """
    ca = base64.b64encode(ca_file.read_bytes()).decode()
    kubeconfig: dict[str, Any] = {
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "users": [], "contexts": None, "current-context": "",
        "clusters": [{"name": "", "cluster": {"server": server, "certificate-authority-data": ca}}],
    }  # fmt: skip
    data = {"kubeconfig": json.dumps(kubeconfig), SETTINGS_KEY: json.dumps(dict(settings))}
    info = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": INFO, "namespace": _PUBLIC}, "data": data}
    path = f"/api/v1/namespaces/{_PUBLIC}/configmaps"
    try:
        connection.request("POST", path, body=json.dumps(info).encode())
    except AlreadyExists:
        patch = json.dumps({"data": data}).encode()
        connection.request("PATCH", f"{path}/{INFO}", body=patch, content_type="application/merge-patch+json")
    for path, obj in _grants():
        try:
            connection.request("POST", path, body=json.dumps(obj).encode())
        except AlreadyExists:
            continue


def _grants() -> Iterator[tuple[str, dict[str, Any]]]:
    reader = "kubeadm:bootstrap-signer-clusterinfo"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [INFO], "verbs": ["get"]}
    public = f"{_RBAC}/namespaces/{_PUBLIC}"
    yield f"{public}/roles", {"metadata": {"name": reader, "namespace": _PUBLIC}, "rules": [rule]}
    yield f"{public}/rolebindings", {
        "metadata": {"name": reader, "namespace": _PUBLIC}, "roleRef": _role("Role", reader),
        "subjects": [_subject("User", "system:anonymous")],
    }  # fmt: skip
    requests = "system:certificates.k8s.io:certificatesigningrequests"
    for name, role, group in (
        ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", GROUP),
        ("kubeadm:node-autoapprove-bootstrap", f"{requests}:nodeclient", GROUP),
        ("kubeadm:node-autoapprove-certificate-rotation", f"{requests}:selfnodeclient", "system:nodes"),
    ):
        binding = {"metadata": {"name": name}, "roleRef": _role("ClusterRole", role)}
        yield f"{_RBAC}/clusterrolebindings", {**binding, "subjects": [_subject("Group", group)]}


def _role(kind: str, name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def _subject(kind: str, name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
