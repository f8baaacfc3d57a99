"""The tree of API errors: each class is one meta/v1 Status reason.

The API server turns them into HTTP at one place, the client turns HTTP back into them at one place.
Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason among several why a request was refused: a field and what is wrong with it."""

    reason: str
    message: str
    field: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the StatusCause clients are sent."""
        body = {"reason": self.reason, "message": self.message}
        return {**body, "field": self.field} if self.field else body


class APIError(Exception):
    """A request the API server refused or could not serve."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        group: str = "",
        kind: str = "",
        name: str = "",
        uid: str = "",
        causes: Iterable[Cause] = (),
        retry_after_seconds: int = 0,
    ) -> None:
        """Args: `kind` is the plural resource for most reasons, the Kind for Invalid, as upstream has it."""
        super().__init__(message)
        self.group, self.kind, self.name, self.uid = group, kind, name, uid
        self.causes = tuple(causes)
        self.retry_after_seconds = retry_after_seconds

    @property
    def details(self) -> dict[str, Any]:
        """The StatusDetails, empty fields left out."""
        found: dict[str, Any] = {
            "name": self.name,
            "group": self.group,
            "kind": self.kind,
            "uid": self.uid,
            "causes": [cause.to_json() for cause in self.causes],
            "retryAfterSeconds": self.retry_after_seconds,
        }
        return {field: value for field, value in found.items() if value}

    def to_status(self) -> dict[str, Any]:
        """Return the meta/v1 Status body clients are sent."""
        status: dict[str, Any] = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": str(self), "reason": self.reason,
        }  # fmt: skip
        if not self.reason:
            del status["reason"]
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


class BadRequest(APIError):
    """The request itself makes no sense: malformed body, parameter or path."""

    code, reason = 400, "BadRequest"


class Unauthorized(APIError):
    """The server does not know who is asking."""

    code, reason = 401, "Unauthorized"


class Forbidden(APIError):
    """The server knows who is asking, and they may not."""

    code, reason = 403, "Forbidden"


class NotFound(APIError):
    """There is no such object or resource."""

    code, reason = 404, "NotFound"


class MethodNotAllowed(APIError):
    """The resource does not take this verb."""

    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(APIError):
    """No representation the client accepts can be made."""

    code, reason = 406, "NotAcceptable"


class AlreadyExists(APIError):
    """An object of this name is there already."""

    code, reason = 409, "AlreadyExists"


class Conflict(APIError):
    """The object changed since the caller read it: read it again, then retry."""

    code, reason = 409, "Conflict"


class Gone(APIError):
    """The object or subresource was here and is no more."""

    code, reason = 410, "Gone"


class Expired(APIError):
    """The resourceVersion or continue token is older than what the server keeps: list again."""

    code, reason = 410, "Expired"
    continue_token = ""
    """With it the rest of a list can be had as it is now, which does not fit what was listed before."""

    def to_status(self) -> dict[str, Any]:
        """Return the meta/v1 Status body clients are sent."""
        status = super().to_status()
        return {**status, "metadata": {"continue": self.continue_token}} if self.continue_token else status


class RequestEntityTooLarge(APIError):
    """The body is over the limit."""

    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(APIError):
    """The body is in a form the server does not read."""

    code, reason = 415, "UnsupportedMediaType"


class Invalid(APIError):
    """The object was understood and breaks rules; the causes name the fields."""

    code, reason = 422, "Invalid"


class TooManyRequests(APIError):
    """Ask again later; evictions a disruption budget forbids come here too."""

    code, reason = 429, "TooManyRequests"


class InternalError(APIError):
    """The server failed: a bug or a broken part."""

    code, reason = 500, "InternalError"


class ServiceUnavailable(APIError):
    """The server cannot serve now; the store may be away."""

    code, reason = 503, "ServiceUnavailable"


class Timeout(APIError):
    """The server gave up waiting. A write may or may not have happened."""

    code, reason = 504, "Timeout"


_BY_REASON: Mapping[str, type[APIError]] = {
    error.reason: error
    for error in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists, Conflict,
        Gone, Expired, RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, InternalError,
        ServiceUnavailable, Timeout,
    )
}  # fmt: skip
_BY_CODE: Mapping[int, type[APIError]] = {
    400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 405: MethodNotAllowed, 406: NotAcceptable,
    409: Conflict, 410: Gone, 413: RequestEntityTooLarge, 415: UnsupportedMediaType, 422: Invalid,
    429: TooManyRequests, 500: InternalError, 503: ServiceUnavailable, 504: Timeout,
}  # fmt: skip


def from_status(status: Mapping[str, Any], *, code: int = 500) -> APIError:
    """Return the error a Status body stands for; `code` is the HTTP status, used where the body has none."""
    details = status.get("details") or {}
    code = int(status.get("code") or code)
    error = _BY_REASON.get(str(status.get("reason", "")), _BY_CODE.get(code, InternalError))
    causes = tuple(
        Cause(cause.get("reason", ""), cause.get("message", ""), cause.get("field", ""))
        for cause in details.get("causes") or ()
    )
    found = error(
        str(status.get("message", "unknown")),
        group=str(details.get("group", "")),
        kind=str(details.get("kind", "")),
        name=str(details.get("name", "")),
        uid=str(details.get("uid", "")),
        causes=causes,
        retry_after_seconds=int(details.get("retryAfterSeconds", 0)),
    )
    if isinstance(found, Expired):
        found.continue_token = str((status.get("metadata") or {}).get("continue", ""))
    return found
