"""The paths of OpenAPI that are about no kind: what groups and versions there are, the server's version, its keys.

Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition
"""

from collections.abc import Iterable, Sequence
from typing import Any

from apiserver.endpoints.openapi_paths import references
from apiserver.registry.kind import Kind
from machinery.api.schema import definitions

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
# Document -> what the answer is, the operation, what it does, and under which word it is listed.
ROOTS: dict[str, tuple[str, str, str, str]] = {
    ".well-known/openid-configuration": (
        "", "getServiceAccountIssuerOpenIDConfiguration",
        "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", "WellKnown",
    ),
    "api": (f"{_META}APIVersions", "getCoreAPIVersions", "get available API versions", "core"),
    "apis": (f"{_META}APIGroupList", "getAPIVersions", "get available API versions", "apis"),
    "openid/v1/jwks": (
        "", "getServiceAccountIssuerOpenIDKeyset",
        "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", "openid",
    ),
    "version": (
        "io.k8s.apimachinery.pkg.version.Info", "getCodeVersion", "get the version information for this server",
        "version",
    ),
}  # fmt: skip


def roots_of(kinds: Iterable[Kind]) -> Sequence[str]:
    """Return the paths, without a slash in front, that tell of the resources of these kinds' versions."""
    found = {
        f"apis/{kind.resource.group}/{kind.resource.version}" if kind.resource.group else f"api/{kind.resource.version}"
        for kind in kinds
        if not kind.user_defined
    }
    return sorted(found)


def _told(root: str) -> tuple[str, str, str, str]:
    if root in ROOTS:
        return ROOTS[root]
    parts = root.split("/")
    group = parts[1] if parts[0] == "apis" else "core"
    name = "".join(word.title() for word in group.removesuffix(".k8s.io").split("."))
    version = parts[-1] if len(parts) == 3 or parts[0] == "api" else ""
    first, *others = group.removesuffix(".k8s.io").split(".")
    word = first + "".join(other.title() for other in others)
    if not version:
        return f"{_META}APIGroup", f"get{name}APIGroup", "get information of a group", word
    word = f"{word}_{version}"
    return f"{_META}APIResourceList", f"get{name}{version.title()}APIResources", "get available resources", word


def root_paths(root: str, reference: str, *, v3: bool) -> dict[str, Any]:
    """Return the path of such a document. Args: `reference` is where schemas are."""
    definition, operation, told, word = _told(root)
    schema = {"$ref": reference + definition} if definition else {"type": "string"}
    media = "application/jwk-set+json" if root == "openid/v1/jwks" else "application/json"
    done: dict[str, Any] = {"tags": [word], "description": told, "operationId": operation}
    if v3:
        answer: dict[str, Any] = {"description": "OK", "content": {media: {"schema": schema}}}
    else:
        done |= {"produces": [media], "schemes": ["https"]}
        answer = {"description": "OK", "schema": schema}
    return {f"/{root}/": {"get": {**done, "responses": {"200": answer, "401": {"description": "Unauthorized"}}}}}


def root_definitions(root: str) -> dict[str, Any]:
    """Return the definitions that such a document refers to."""
    known = definitions()
    found: dict[str, Any] = {}
    todo = [_told(root)[0]]
    while todo:
        name = todo.pop()
        if name and name not in found:
            found[name] = known[name]
            todo += references(known[name])
    return found
