"""A process of its own for what needs the cryptography package: that would cost the agent 10 MB for good.

`python -m agent.certificate_request validity FILE` prints when a certificate begins and ends to be valid, in seconds
since 1970; `… make NODE KEYFILE [NAME …]` writes a new key and prints a signing request.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


def validity(path: Path) -> tuple[float, float]:
    """Return from when to when a certificate is valid. Raises: ValueError, OSError."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def make(node: str, key_file: Path, names: Sequence[str]) -> str:
    """Write a new key and return a node's signing request with it, PEM; `names` are for serving."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes")
    subject = x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        listed = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(listed, critical=False)
    pem = serialization.Encoding.PEM
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return builder.sign(key, hashes.SHA256()).public_bytes(pem).decode()


if __name__ == "__main__":
    if sys.argv[1] == "validity":
        print(*validity(Path(sys.argv[2])))
    else:
        print(make(sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
