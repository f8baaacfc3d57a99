"""What can go wrong in the runtime, each class with the gRPC status it becomes in server.py."""

from typing import ClassVar

from grpc import StatusCode


class RuntimeFailure(Exception):
    """A call the runtime could not carry out; the text goes to the caller."""

    status: ClassVar[StatusCode] = StatusCode.UNKNOWN


class NotFound(RuntimeFailure):
    """No such sandbox, container or image."""

    status = StatusCode.NOT_FOUND


class InvalidArgument(RuntimeFailure):
    """The request contradicts itself or asks for what cannot be."""

    status = StatusCode.INVALID_ARGUMENT


class FailedPrecondition(RuntimeFailure):
    """The object is in another state than the call needs."""

    status = StatusCode.FAILED_PRECONDITION


class DeadlineExceeded(RuntimeFailure):
    """The command ran longer than it was allowed to."""

    status = StatusCode.DEADLINE_EXCEEDED


class PermissionDenied(RuntimeFailure):
    """The registry wants other credentials."""

    status = StatusCode.PERMISSION_DENIED


class Unavailable(RuntimeFailure):
    """Something outside did not answer; trying again may help."""

    status = StatusCode.UNAVAILABLE


class Unimplemented(RuntimeFailure):
    """CRI has it, this runtime does not."""

    status = StatusCode.UNIMPLEMENTED
