"""The cluster's certificates: one CA, a certificate for each server and each component, a key for tokens.

Source: https://kubernetes.io/docs/setup/best-practices/certificates/
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from machinery.files import write_atomically

_CA_DAYS, _LEAF_DAYS = 3650, 365
_RENEW_DAYS = 30


class Pki:
    """A folder of certificates; what is missing or near its end is made when asked for."""

    def __init__(self, folder: Path, *, ca_name: str = "wherry-ca") -> None:
        """Args: `ca_name` is the common name of the CA, where one has to be made."""
        self._ca_name = ca_name
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.ca_file = folder / "ca.crt"
        self._ca_key_file = folder / "ca.key"
        self._ensure_ca()

    def _ensure_ca(self) -> None:
        if self.ca_file.exists() and self._ca_key_file.exists():
            self._ca_key = _load_key(self._ca_key_file)
            self._ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
            return
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._ca_name)])
        public = self._ca_key.public_key()
        usage = x509.KeyUsage(
            digital_signature=True, key_encipherment=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self._ca = (
            _builder(name, name, public, _CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )
        _write_key(self._ca_key_file, self._ca_key)
        write_atomically(self.ca_file, self._ca.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def client(self, name: str, user: str, groups: Sequence[str] = ()) -> tuple[Path, Path]:
        """Return certificate and key files that say who a client is: user and groups."""
        return self._leaf(name, user, groups, (), server=False)

    def server(self, name: str, user: str, hosts: Sequence[str], groups: Sequence[str] = ()) -> tuple[Path, Path]:
        """Return certificate and key files of a server reached at these names and addresses."""
        return self._leaf(name, user, groups, hosts, server=True)

    def signing_key(self, name: str) -> Path:
        """Return the file of a private key that signs tokens."""
        path = self.folder / f"{name}.key"
        if not path.exists():
            _write_key(path, ec.generate_private_key(ec.SECP256R1()))
        return path

    def front_proxy(self) -> "Pki":
        """Return the certificates by which a server says who asks; their CA signs nothing else."""
        return Pki(self.folder / "front-proxy", ca_name="wherry-front-proxy-ca")

    def _leaf(
        self, name: str, user: str, groups: Sequence[str], hosts: Sequence[str], *, server: bool
    ) -> tuple[Path, Path]:
        cert_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if cert_file.exists() and key_file.exists() and _is_good(cert_file, hosts):
            return cert_file, key_file
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            _builder(subject, self._ca.subject, key.public_key(), _LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_authority(self._ca), critical=False)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(h) for h in hosts]), critical=False
            )
        certificate = builder.sign(self._ca_key, hashes.SHA256())
        _write_key(key_file, key)
        write_atomically(cert_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        return cert_file, key_file


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(issuer).public_key(public).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=days))
    )  # fmt: skip


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _is_good(cert_file: Path, hosts: Sequence[str]) -> bool:
    certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
    if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=_RENEW_DAYS):
        return False
    if not hosts:
        return True
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(map(_general_name, hosts)) <= set(names)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds no elliptic curve key")
    return key


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(path, text, mode=0o600)
