"""What a signer of Kubernetes' own puts its name to. Pure; loads the cryptography library when the first request comes.

Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers
"""

from typing import TYPE_CHECKING, Any

from controllers.certificate_views import SigningRequest

if TYPE_CHECKING:
    from cryptography import x509

CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY = (
    "kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving", "kubernetes.io/legacy-unknown",
)  # fmt: skip
SIGNERS = frozenset((CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY))
_NODES, _NODE_PREFIX = "system:nodes", "system:node:"
_KEY_USAGES = {
    "signing": "digital_signature", "digital signature": "digital_signature",
    "content commitment": "content_commitment", "key encipherment": "key_encipherment",
    "data encipherment": "data_encipherment", "key agreement": "key_agreement", "cert sign": "key_cert_sign",
    "crl sign": "crl_sign", "encipher only": "encipher_only", "decipher only": "decipher_only",
}  # fmt: skip
_EXTENDED_USAGES = {
    "any": "ANY_EXTENDED_KEY_USAGE", "server auth": "SERVER_AUTH", "client auth": "CLIENT_AUTH",
    "code signing": "CODE_SIGNING", "email protection": "EMAIL_PROTECTION", "timestamping": "TIME_STAMPING",
    "ocsp signing": "OCSP_SIGNING",
}  # fmt: skip


class Refused(ValueError):
    """The signer does not sign this; the message says why."""


def load_request(request: SigningRequest) -> "x509.CertificateSigningRequest":
    """Return the request in its PEM block. Raises: Refused."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_csr(request.spec.pem)
    except ValueError as error:
        raise Refused(f"unable to parse csr: {error}") from error
    if not found.is_signature_valid:
        raise Refused("unable to parse csr: signature is not valid")
    return found


def check(request: SigningRequest, csr: "x509.CertificateSigningRequest") -> None:
    """Hold a request to its signer's rules. Raises: Refused."""
    usages = set(request.spec.usages)
    match request.spec.signerName:
        case "kubernetes.io/kube-apiserver-client":
            _check_usages(usages, {"client auth"}, {"digital signature", "key encipherment", "client auth"})
        case "kubernetes.io/kube-apiserver-client-kubelet":
            check_node_client(request, csr)
        case "kubernetes.io/kubelet-serving":
            _check_node(csr)
            _check_usages(
                usages, {"digital signature", "server auth"}, {"digital signature", "key encipherment", "server auth"}
            )
            kinds = set(_names(csr))
            if not kinds & {"DNSName", "IPAddress"}:
                raise Refused("subjectAltName is required")
            if kinds - {"DNSName", "IPAddress"}:
                raise Refused("only DNS and IP subjectAltNames are permitted")


def check_node_client(request: SigningRequest, csr: "x509.CertificateSigningRequest") -> None:
    """Hold a request to the rules of agents' client certificates. Raises: Refused."""
    _check_node(csr)
    if _names(csr):
        raise Refused("subjectAltNames are not allowed")
    _check_usages(
        set(request.spec.usages), {"digital signature", "client auth"},
        {"digital signature", "key encipherment", "client auth"},
    )  # fmt: skip


def _check_usages(usages: set[str], needed: set[str], allowed: set[str]) -> None:
    if not needed <= usages or not usages <= allowed:
        listed = ", ".join(sorted(allowed))
        raise Refused(f"usages did not match {{{listed}}}")


def _check_node(csr: "x509.CertificateSigningRequest") -> None:
    if organizations(csr) != [_NODES]:
        raise Refused("organization is not system:nodes")
    if not common_name(csr).startswith(_NODE_PREFIX):
        raise Refused("subject common name does not begin with system:node:")


def common_name(csr: "x509.CertificateSigningRequest") -> str:
    """Return the name the request is for."""
    from cryptography.x509.oid import NameOID

    return next((str(one.value) for one in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)), "")


def organizations(csr: "x509.CertificateSigningRequest") -> list[str]:
    """Return the groups the request is for."""
    from cryptography.x509.oid import NameOID

    return [str(one.value) for one in csr.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]


def _names(csr: "x509.CertificateSigningRequest") -> list[str]:
    """Return the kinds of alternative names."""
    from cryptography import x509

    try:
        found = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [type(name).__name__ for name in found.value]


def extensions(request: SigningRequest) -> "list[tuple[x509.ExtensionType, bool]]":
    """Return the usages of the certificate as its extensions, and whether each is critical."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    chosen = {_KEY_USAGES[usage] for usage in request.spec.usages if usage in _KEY_USAGES}
    flags: dict[str, Any] = dict.fromkeys(_KEY_USAGES.values(), False) | dict.fromkeys(chosen, True)
    if not flags["key_agreement"]:
        flags |= {"encipher_only": False, "decipher_only": False}
    found: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(ca=False, path_length=None), True)]
    if chosen:
        found.append((x509.KeyUsage(**flags), True))
    extended = [
        getattr(ExtendedKeyUsageOID, _EXTENDED_USAGES[usage])
        for usage in request.spec.usages if usage in _EXTENDED_USAGES
    ]  # fmt: skip
    if extended:
        found.append((x509.ExtendedKeyUsage(extended), False))
    return found
