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
from apiserver.registry.kind import STATUS, Column, Kind, Object, duplicate, immutable, invalid, required, unsupported
from machinery.api import meta, resources
from machinery.errors import Cause

_LEGACY_SIGNER = "kubernetes.io/legacy-unknown"
_USAGES = frozenset(
    {"signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
     "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
     "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
     "microsoft sgc", "netscape sgc"}
)  # fmt: skip


def _causes(request: Object) -> Iterator[Cause]:
    spec = request["spec"]
    try:
        pem = base64.b64decode(spec.get("request", ""), validate=True)
    except (binascii.Error, ValueError):
        pem = b""
    if b"-----BEGIN CERTIFICATE REQUEST-----" not in pem:
        why = "PEM block type must be CERTIFICATE REQUEST"
        yield invalid("spec.request", spec.get("request", ""), why)
    usages = spec.get("usages") or []
    if not usages:
        yield required("spec.usages")
    for index, usage in enumerate(usages):
        if usage not in _USAGES:
            yield unsupported(f"spec.usages[{index}]", usage, sorted(_USAGES))
        if usage in usages[:index]:
            yield duplicate(f"spec.usages[{index}]", usage)
    yield from _signer_causes(spec.get("signerName", ""))
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        yield invalid(
            "spec.expirationSeconds", seconds, "may not specify a duration less than 600 seconds (10 minutes)"
        )
    yield from _condition_causes(_conditions(request))


def _signer_causes(name: str) -> Iterator[Cause]:
    field, parts = "spec.signerName", name.split("/")
    if not name:
        yield required(field)
    elif name == _LEGACY_SIGNER:
        yield invalid(field, name, "the legacy signerName is not allowed via this API version")
    elif len(parts) != 2:
        yield invalid(field, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
    else:
        domain, path = parts
        for label in domain.split("."):
            if wrong := names.dns_label(label):
                yield invalid(field, domain, f'validating label "{label}": {wrong}')
        if "." not in domain:
            yield invalid(field, domain, "should be a domain with at least two segments separated by dots")
        for label in path.split("."):
            if wrong := names.dns_label(label):
                yield invalid(field, path, f'validating label "{label}": {wrong}')


def _condition_causes(conditions: list[Object]) -> Iterator[Cause]:
    """Yield what is wrong with decisions: they are made once, for good, and not both ways."""
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        path, kind, status = f"status.conditions[{index}]", condition.get("type", ""), condition.get("status", "True")
        known = ("True",) if kind in (*_DECISIONS, "Failed") else ("False", "True", "Unknown")
        if not kind:
            yield required(f"{path}.type")
        if status not in known:
            yield unsupported(f"{path}.status", status, known)
        if kind in _DECISIONS and set(_DECISIONS) <= {kind, *seen}:
            yield invalid(f"{path}.type", kind, "Approved and Denied conditions are mutually exclusive")
        if kind in seen:
            yield duplicate(f"{path}.type", kind)
        seen.add(kind)


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
        validate=lambda obj: list(_causes(obj)),
        validate_update=lambda new, old: immutable("spec", new.get("spec"), old.get("spec")),

    ),
)  # fmt: skip
