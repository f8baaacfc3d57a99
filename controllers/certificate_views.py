"""The fields of certificate signing requests that controllers read."""

import base64

from controllers.views import JSON, ObjectMeta, View


class RequestSpec(View, frozen=True):
    """What is asked, by whom."""

    request: str = ""
    signerName: str = ""
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}
    usages: tuple[str, ...] = ()
    expirationSeconds: int | None = None

    @property
    def pem(self) -> bytes:
        """The request itself, PEM."""
        return base64.b64decode(self.request)


class RequestStatus(View, frozen=True):
    """What was decided and signed."""

    conditions: tuple[JSON, ...] = ()
    certificate: str | None = None


class SigningRequest(View, frozen=True):
    """A CertificateSigningRequest."""

    metadata: ObjectMeta
    spec: RequestSpec = RequestSpec()
    status: RequestStatus = RequestStatus()

    def condition(self, kind: str) -> JSON | None:
        """Return the condition of a type where it is true."""
        return next(
            (c for c in self.status.conditions if c["type"] == kind and c.get("status", "True") == "True"), None
        )
