"""The group certificates.k8s.io: requests for certificates, their approval and what was signed.

Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

import base64
import binascii
from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME, NONE, text_at, value_at
from apiserver.registry.durations import human_duration
from apiserver.registry.kind import STATUS, Column, Kind, Object, Subresource, immutable, invalid, required
from machinery.api import resources
from machinery.errors import Cause

_USAGES = frozenset(
    {"signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
     "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
     "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
     "microsoft sgc", "netscape sgc"}
)  # fmt: skip


def _default(request: Object) -> None:
    request.setdefault("spec", {}).setdefault("usages", ["digital signature", "key encipherment"])


def _causes(request: Object) -> Iterator[Cause]:
    spec = request["spec"]
    try:
        pem = base64.b64decode(spec.get("request", ""), validate=True)
    except (binascii.Error, ValueError):
        pem = b""
    if b"-----BEGIN CERTIFICATE REQUEST-----" not in pem:
        why = "PEM block type must be CERTIFICATE REQUEST"
        yield invalid("spec.request", spec.get("request", ""), why)
    for index, usage in enumerate(spec["usages"]):
        if usage not in _USAGES:
            yield invalid(f"spec.usages[{index}]", usage, "")
    name = spec.get("signerName", "")
    domain, slash, path = name.partition("/")
    if not name:
        yield required("spec.signerName", "signerName is required")
    elif not slash or not path:
        yield invalid(
            "spec.signerName", name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        )
    elif wrong := names.dns_subdomain(domain):
        yield invalid("spec.signerName", name, wrong)
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        yield invalid(
            "spec.expirationSeconds", seconds, "may not specify a duration less than 600 seconds (10 minutes)"
        )


def _condition_text(request: Object) -> str:
    conditions = {c["type"] for c in value_at(request, "status", "conditions") or ()}
    parts = []
    if "Denied" in conditions:
        parts.append("Denied")
    elif "Approved" in conditions:
        parts.append("Approved")
    else:
        parts.append("Pending")
    if "Failed" in conditions:
        parts.append("Failed")
    if value_at(request, "status", "certificate"):
        parts.append("Issued")
    return ",".join(parts)


def _duration(request: Object) -> str:
    seconds = value_at(request, "spec", "expirationSeconds")
    return NONE if seconds is None else human_duration(seconds)


KINDS = (
    Kind(
        resources.CERTIFICATE_SIGNING_REQUESTS, "io.k8s.api.certificates.v1.CertificateSigningRequest",
        "certificatesigningrequest", ("csr",),
        subresources={"status": STATUS, "approval": Subresource(("get", "patch", "update"))},
        columns=(
            NAME, AGE, Column("SignerName", text_at("spec", "signerName", absent=NONE)),
            Column("Requestor", text_at("spec", "username")), Column("RequestedDuration", _duration),
            Column("Condition", _condition_text),
        ),
        selectable={"spec.signerName": text_at("spec", "signerName")},
        default=_default, validate=lambda obj: list(_causes(obj)),
        validate_update=lambda new, old: immutable("spec", new.get("spec"), old.get("spec")),

    ),
)  # fmt: skip
