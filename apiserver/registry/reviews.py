"""Kinds that are asked and answered, never stored: reviews of tokens and of access, and bindings.

They are here for discovery and for schemas; apiserver/endpoints/reviews.py answers them.
"""

from apiserver.registry.kind import Kind
from machinery.api.meta import Resource

_AUTHENTICATION, _AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
_CREATE = ("create",)


def _review(group: str, kind: str, *, namespaced: bool = False) -> Kind:
    package = group.partition(".")[0]
    resource = Resource(group, "v1", kind.lower() + "s", kind, namespaced=namespaced)
    return Kind(resource, f"io.k8s.api.{package}.v1.{kind}", kind.lower(), verbs=_CREATE)


KINDS = (
    Kind(Resource("", "v1", "bindings", "Binding"), "io.k8s.api.core.v1.Binding", "binding", verbs=_CREATE),
    _review(_AUTHENTICATION, "TokenReview"),
    _review(_AUTHENTICATION, "SelfSubjectReview"),
    _review(_AUTHORIZATION, "SubjectAccessReview"),
    _review(_AUTHORIZATION, "SelfSubjectAccessReview"),
    _review(_AUTHORIZATION, "SelfSubjectRulesReview"),
    _review(_AUTHORIZATION, "LocalSubjectAccessReview", namespaced=True),
)
