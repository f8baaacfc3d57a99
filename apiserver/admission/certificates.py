"""Requests for certificates: who asks is written by the server, not by the client.

Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

from apiserver.auth.user import User
from apiserver.registry.kind import Object


def note_requester(request: Object, user: User | None) -> None:
    """Write the user who asks into a new request."""
    spec = request["spec"]
    for field in ("username", "uid", "groups", "extra"):
        spec.pop(field, None)
    if user is None:
        return
    spec["username"] = user.name
    spec["groups"] = list(user.groups)
    if user.uid:
        spec["uid"] = user.uid
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in dict(user.extra).items()}
