"""Kinds that are answered and never stored: reviews of who is who and who may what, and bindings of pods to nodes.

Declared for discovery, OpenAPI and roles; endpoints/reviews.py and endpoints/subresources.py answer them.
"""

from apiserver.registry.kind import Kind
from machinery.api.meta import Resource

_AUTHENTICATION, _AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
_DEFINITIONS = {_AUTHENTICATION: "io.k8s.api.authentication.v1.", _AUTHORIZATION: "io.k8s.api.authorization.v1."}


def _posted(group: str, plural: str, kind: str, *, namespaced: bool = False) -> Kind:
    resource = Resource(group, "v1", plural, kind, namespaced=namespaced)
    definition = _DEFINITIONS.get(group, "io.k8s.api.core.v1.") + kind
    return Kind(resource, definition, kind.lower(), verbs=("create",), is_stored=False)


KINDS = (
    _posted("", "bindings", "Binding", namespaced=True),
    _posted(_AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
    _posted(_AUTHENTICATION, "tokenreviews", "TokenReview"),
    _posted(_AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", namespaced=True),
    _posted(_AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    _posted(_AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    _posted(_AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
)
