"""Signs approved requests for certificates with the cluster's CA, and clears away those that are long done.

Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

import asyncio
import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from controllers import conditions
from controllers.certificate_rules import SIGNERS, Refused, check, extensions, load_request
from controllers.certificate_views import SigningRequest
from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from machinery.api.meta import ObjectKey, now, parse_time
from machinery.api.resources import CERTIFICATE_SIGNING_REQUESTS
from machinery.client.rest import Client
from machinery.errors import NotFound

DONE_SECONDS = 3600.0
"""Requests that were issued, denied or failed are kept so long."""
PENDING_SECONDS = 24 * 3600.0
_BACKDATE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """Where the CA's certificate and key lie, PEM, and how long what it signs is good for."""

    cert_file: Path
    key_file: Path
    lifetime: timedelta = timedelta(days=365)


class CertificateSigner(Controller[ObjectKey]):
    """Signs for all of Kubernetes' own signers."""

    name = "certificate-signer"

    def __init__(self, client: Client, informers: InformerFactory, *, authority: Authority) -> None:
        super().__init__()
        self._client = client
        self._authority = authority
        self._requests = informers.informer(CERTIFICATE_SIGNING_REQUESTS, SigningRequest)
        self._requests.add_handler(self._changed)

    def _changed(self, old: SigningRequest | None, new: SigningRequest | None) -> None:
        if new is not None and new.spec.signerName in SIGNERS and new.condition("Approved"):
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Sign one request, or say why not."""
        request = self._requests.get(key)
        if request is None or request.status.certificate or request.condition("Failed"):
            return DONE
        if not request.condition("Approved") or request.condition("Denied"):
            return DONE
        status: dict[str, Any]
        try:
            pem = await asyncio.to_thread(sign, request, self._authority, at=datetime.now(UTC))
            status = {"certificate": base64.b64encode(pem).decode()}
        except Refused as error:
            failed = conditions.made("Failed", "True", "SignerValidationFailure", str(error))
            status = {"conditions": [*request.status.conditions, {**failed, "lastUpdateTime": now()}]}
        patch = {"metadata": {"resourceVersion": request.metadata.resourceVersion}, "status": status}
        try:
            await self._client.patch(CERTIFICATE_SIGNING_REQUESTS, key.name, patch, subresource="status")
        except NotFound:
            return DONE
        return DONE


def sign(request: SigningRequest, authority: Authority, *, at: datetime) -> bytes:
    """Return the certificate, PEM. Raises: Refused."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    csr = load_request(request)
    check(request, csr)
    ca = x509.load_pem_x509_certificate(authority.cert_file.read_bytes())
    key: Any = serialization.load_pem_private_key(authority.key_file.read_bytes(), None)
    lifetime = authority.lifetime
    if request.spec.expirationSeconds is not None:
        lifetime = min(lifetime, timedelta(seconds=request.spec.expirationSeconds))
    builder = (
        x509.CertificateBuilder()
        .subject_name(csr.subject).issuer_name(ca.subject).public_key(csr.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _BACKDATE).not_valid_after(min(at + lifetime, ca.not_valid_after_utc))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )  # fmt: skip
    for extension, critical in extensions(request):
        builder = builder.add_extension(extension, critical=critical)
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        pass
    else:
        builder = builder.add_extension(names.value, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class CertificateCleaner(Controller[ObjectKey]):
    """Deletes requests nobody will look at any more."""

    name = "certificate-cleaner"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._requests = informers.informer(CERTIFICATE_SIGNING_REQUESTS, SigningRequest)
        self._requests.add_handler(self._changed)

    def _changed(self, old: SigningRequest | None, new: SigningRequest | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Delete one request when its time is over."""
        request = self._requests.get(key)
        if request is None:
            return DONE
        left = seconds_to_keep(request, at=datetime.now(UTC))
        if left > 0:
            return Result(requeue_after=left)
        try:
            await self._client.delete(
                CERTIFICATE_SIGNING_REQUESTS, key.name, options={"preconditions": {"uid": request.metadata.uid}}
            )
        except NotFound:
            return DONE
        return DONE


def seconds_to_keep(request: SigningRequest, *, at: datetime) -> float:
    """Return how long a request is kept still: 0 or less when its time is over."""

    def left(since: str, limit: float) -> float:
        return limit - (at - parse_time(since)).total_seconds()

    decided = request.condition("Denied") or request.condition("Failed")
    if decided is None and request.status.certificate:
        decided = request.condition("Approved")
    if decided is not None:
        since = decided.get("lastUpdateTime") or decided.get("lastTransitionTime")
        return left(since or request.metadata.creationTimestamp, DONE_SECONDS)
    return left(request.metadata.creationTimestamp, PENDING_SECONDS)
