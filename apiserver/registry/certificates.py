"""The group certificates.k8s.io: requests for certificates, their approval and what was signed.

Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import replace

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME, NONE, text_at, value_at
from apiserver.registry.durations import human_duration
from apiserver.registry.kind import STATUS, Column, Kind, Object, immutable, invalid, required
from machinery.api import meta, resources
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


_DECISIONS = ("Approved", "Denied")


def _conditions(request: Object) -> list[Object]:
    found: list[Object] = value_at(request, "status", "conditions") or []
    return found


def _note_times(new: Object, old: Object) -> None:
    """Write when a condition was set, and since when it is as it is."""
    before = {(one.get("type"), one.get("status")): one for one in _conditions(old)}
    for one in _conditions(new):
        known = before.get((one.get("type"), one.get("status")), {})
        one.setdefault("status", "True")
        one.setdefault("lastUpdateTime", meta.now())
        one.setdefault("lastTransitionTime", known.get("lastTransitionTime") or meta.now())


def _keep_decisions(new: Object, old: Object) -> None:
    """The status is the signer's: who decided stays as it was."""
    status = new.setdefault("status", {})
    conditions = [one for one in _conditions(new) if one.get("type") not in _DECISIONS]
    decided = [one for one in _conditions(old) if one.get("type") in _DECISIONS]
    if decided or conditions:
        status["conditions"] = decided + conditions
    _note_times(new, old)


def _keep_signature(new: Object, old: Object) -> None:
    """An approval changes the conditions alone."""
    conditions = _conditions(new)
    new["status"] = {**(old.get("status") or {})}
    if conditions:
        new["status"]["conditions"] = conditions
    _note_times(new, old)


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
        subresources={
            "status": replace(STATUS, prepare=_keep_decisions),
            "approval": replace(STATUS, prepare=_keep_signature),
        },
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
