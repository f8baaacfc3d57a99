"""A node's certificates are renewed before they run out.

Source: https://kubernetes.io/docs/tasks/tls/certificate-rotation/
"""

import datetime
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.certificate_request import validity
from agent.certificates import CertificateRotation, Pair, pairs_of, settle
from agent.config import AgentConfig
from agent.metrics import Metrics
from machinery.api.resources import CLUSTER_ROLE_BINDINGS, NODES
from machinery.client.kubeconfig import load_config
from machinery.client.rest import Client
from tests.e2e.conftest import Cluster
from tests.e2e.pods.conftest import Pods

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.only_wherry]
HOUR = datetime.timedelta(hours=1)


def write_old_certificate(cluster: Cluster, pair: Pair, node: str) -> None:
    """Write a certificate that has a twentieth of its life left."""
    pki = cluster.layout.pki
    ca = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes")
    subject = x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}")])
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(ca.subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - 19 * HOUR).not_valid_after(now + HOUR)
    )  # fmt: skip
    signed = builder.sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]
    pem = serialization.Encoding.PEM
    pair.cert_file.write_bytes(signed.public_bytes(pem))
    plain = serialization.NoEncryption()
    pair.key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


async def test_a_node_asks_for_new_certificates_and_uses_them(pods: Pods, tmp_path: Path) -> None:
    node = (await pods.client.list(NODES))["items"][0]["metadata"]["name"]
    known = load_config(str(pods.cluster.layout.kubeconfig))
    cert, key = tmp_path / "client.crt", tmp_path / "client.key"
    own = replace(known, cert_data=b"", key_data=b"", cert_file=str(cert), key_file=str(key))
    serving = {"cert_file": tmp_path / "serving.crt", "key_file": tmp_path / "serving.key"}
    config = AgentConfig(
        client=own, node_name=node, node_ip="127.0.0.1", data_dir=tmp_path, runtime_socket=tmp_path / "s",
        ca_file=pods.cluster.layout.pki / "ca.crt", **serving,
    )  # fmt: skip
    client_pair, serving_pair = pairs_of(config)
    write_old_certificate(pods.cluster, client_pair, node)
    write_old_certificate(pods.cluster, serving_pair, node)
    old = cert.read_bytes()
    metrics = Metrics()
    group, name = "rbac.authorization.k8s.io", f"rotation-{pods.namespace}"  # as `wherry token create` grants it
    role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"
    binding = {
        "kind": "ClusterRoleBinding", "apiVersion": f"{group}/v1", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "Group", "apiGroup": group, "name": "system:nodes"}],
    }  # fmt: skip
    await pods.client.create(CLUSTER_ROLE_BINDINGS, binding)
    async with Client(own) as client:
        rotation = CertificateRotation(config, client, metrics)
        for pair in (client_pair, serving_pair):
            before = validity(pair.cert_file)
            await rotation.renew(pair)
            assert validity(pair.cert_file)[1] > before[1] + 24 * 3600
            ssl.create_default_context().load_cert_chain(pair.cert_file, pair.key_file)  # they belong together
        assert cert.read_bytes() != old
    async with Client(own) as client:  # known as the node by the new one
        assert (await client.get(NODES, node))["metadata"]["name"] == node
    await pods.client.delete(CLUSTER_ROLE_BINDINGS, name)
    served = x509.load_pem_x509_certificate(serving_pair.cert_file.read_bytes())
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [node]


def test_what_was_cut_off_between_key_and_certificate_is_finished(tmp_path: Path) -> None:
    pair = Pair("client", "", tmp_path / "c.crt", tmp_path / "c.key")
    pair.key_file.write_text("new key")
    pair.cert_file.write_text("old")
    (tmp_path / "c.crt.new").write_text("new")
    settle(pair)
    assert pair.cert_file.read_text() == "new"
    (tmp_path / "c.crt.new").write_text("newer")
    (tmp_path / "c.key.new").write_text("newer key")  # neither is in place: as if it had not begun
    settle(pair)
    assert (pair.cert_file.read_text(), pair.key_file.read_text()) == ("new", "new key")
    assert not list(tmp_path.glob("*.new"))
