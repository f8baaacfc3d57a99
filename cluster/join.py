"""`wherry join`: how another machine becomes a node.

It trusts nobody until the CA it is shown has the hash it was given; then it asks for a node's certificates with the
token, and from then on it is one: a runtime and an agent, kept by a supervisor as those of `wherry up`.
Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/
"""

import base64
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.connection import Connection
from cluster.kubeconfig import write_kubeconfig
from cluster.layout import Layout
from cluster.tokens import INFO, SETTINGS_KEY, ca_hash
from machinery.client.kubeconfig import ClientConfig
from machinery.files import write_atomically

_REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_SIGNED_SECONDS = 60.0
_PAUSE_SECONDS = 0.1
CLIENT, SERVING = "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"
_USAGES = {CLIENT: ["digital signature", "client auth"], SERVING: ["digital signature", "server auth"]}


class JoinError(Exception):
    """The machine could not join; the message says why."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster to be joined: where its API server is, who signs for it, and what nodes are to know."""

    server: str
    ca_pem: bytes
    settings: Mapping[str, str]


def discover(url: str, expected_hash: str) -> Cluster:
    """Return the cluster at a URL. Raises: JoinError unless its CA has the hash."""
    path = f"/api/v1/namespaces/kube-public/configmaps/{INFO}"
    found = json.loads(Connection(ClientConfig(url, insecure=True)).request("GET", path))
    ca = _ca_of(found)
    if (shown := ca_hash(ca)) != expected_hash:
        raise JoinError(f"the cluster at {url} shows a CA of the hash {shown}, not {expected_hash}: not joining it")
    # The same once more, from someone who holds that CA's certificate.
    found = json.loads(Connection(ClientConfig(url, ca_data=ca)).request("GET", path))
    return Cluster(url, ca, json.loads(found["data"].get(SETTINGS_KEY, "{}")))


def _ca_of(info: Mapping[str, Mapping[str, str]]) -> bytes:
    try:
        kubeconfig = json.loads(info["data"]["kubeconfig"])
        return base64.b64decode(kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"])
    except (KeyError, IndexError, ValueError) as error:
        raise JoinError(f"kube-public/{INFO} names no CA; `wherry token create` writes it") from error


def enrol(layout: Layout, cluster: Cluster, token: str, node: str) -> None:
    """Get a node's certificates and write its kubeconfig. Raises: JoinError, APIError."""
    layout.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_file = layout.pki / "ca.crt"
    ca_file.write_bytes(cluster.ca_pem)
    guest = Connection(ClientConfig(cluster.server, ca_data=cluster.ca_pem, token=token))
    client_cert, client_key = layout.pki / "node-client.crt", layout.pki / "node-client.key"
    _certificate(guest, CLIENT, node, client_cert, client_key)
    write_kubeconfig(
        layout.component_kubeconfig("agent"), server=cluster.server, ca_file=ca_file, cert_file=client_cert,
        key_file=client_key, user=f"system:node:{node}", inline=False,
    )  # fmt: skip
    config = ClientConfig(
        cluster.server, ca_data=cluster.ca_pem, cert_file=str(client_cert), key_file=str(client_key)
    )  # fmt: skip
    _certificate(Connection(config), SERVING, node, layout.pki / "agent.crt", layout.pki / "agent.key")


def _certificate(connection: Connection, signer: str, node: str, cert_file: Path, key_file: Path) -> None:
    """Ask for a certificate, wait for it, and write it beside its key."""
    key_pem, csr_pem = _request(node, [node] if signer == SERVING else [])
    spec = {"request": base64.b64encode(csr_pem).decode(), "signerName": signer, "usages": _USAGES[signer]}
    name = f"node-csr-{node}-{secrets.token_hex(4)}"
    body = {"metadata": {"name": name}, "spec": spec}
    connection.request("POST", _REQUESTS, body=json.dumps(body).encode())
    deadline = time.monotonic() + _SIGNED_SECONDS
    while time.monotonic() < deadline:
        status = json.loads(connection.request("GET", f"{_REQUESTS}/{name}")).get("status") or {}
        if status.get("certificate"):
            write_atomically(key_file, key_pem, mode=0o600)
            write_atomically(cert_file, base64.b64decode(status["certificate"]), mode=0o644)
            return
        for condition in status.get("conditions") or ():
            if condition["type"] in ("Denied", "Failed"):
                raise JoinError(f"the request {name} was {condition['type'].lower()}: {condition.get('message', '')}")
        time.sleep(_PAUSE_SECONDS)
    raise JoinError(f"the request {name} was not signed within {_SIGNED_SECONDS:.0f} s; is it approved?")


def _request(node: str, names: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a new key and a signing request of a node, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        listed = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(listed, critical=False)
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key_pem, builder.sign(key, hashes.SHA256()).public_bytes(pem)
