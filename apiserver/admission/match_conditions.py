"""matchConditions: CEL expressions that all have to be true for a webhook or a policy to be asked.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-matchconditions
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from apiserver.admission.attributes import Attributes
from apiserver.storage.watch_cache import WatchCache
from machinery.api.resources import NAMESPACES
from machinery.cel.authorizing import authorizer

VARIABLES = {
    "object": "dyn",
    "oldObject": "dyn",
    "request": "dyn",
    "namespaceObject": "dyn",
    "params": "dyn",
    "authorizer": "dyn",
}


class Outcome(NamedTuple):
    """Whether all conditions hold; `error` tells of one that could not be evaluated while none is false."""

    met: bool
    error: str = ""


class Conditions:
    """Evaluates conditions over requests."""

    def met(self, conditions: Iterable[Mapping[str, Any]], request: Attributes, cache: WatchCache) -> Outcome:
        """Say whether all conditions hold. One that is false decides, whatever the others do."""
        from machinery.cel.program import CompileError, EvaluationError, compile_expression

        given, error = bindings_of(request, cache), ""
        for condition in conditions:
            try:
                value = compile_expression(condition["expression"], VARIABLES).evaluate(given)
            except (CompileError, EvaluationError) as problem:
                error = error or f"match condition {condition.get('name')!r} failed: {problem}"
                continue
            if value is not True:
                return Outcome(met=False)
        return Outcome(met=not error, error=error)


def bindings_of(request: Attributes, cache: WatchCache, params: Any = None) -> dict[str, Any]:
    """Return what expressions about a request may look at."""
    resource, user = request.kind.resource, request.user
    namespace = None
    if request.namespace:
        entry = cache.collection(NAMESPACES.group_resource).get(f"/registry/namespaces/{request.namespace}")
        namespace = entry.object() if entry is not None else None
    named, kind = request.named, request.body_kind
    asked = {
        "kind": kind, "resource": named, "subResource": request.subresource, "requestKind": kind,
        "requestResource": named, "requestSubResource": request.subresource, "name": request.name,
        "namespace": request.namespace, "operation": request.operation, "dryRun": request.dry_run,
        "options": request.options(),
        "userInfo": {
            "username": user.name if user else "", "uid": user.uid if user else "",
            "groups": list(user.groups) if user else [],
            "extra": {key: list(values) for key, values in user.extra.items()} if user else {},
        },
    }  # fmt: skip
    return {
        "object": request.obj, "oldObject": request.old, "request": asked, "namespaceObject": namespace,
        "params": params,
        "authorizer": authorizer(
            group=resource.group, resource=resource.plural, subresource=request.subresource,
            namespace=request.namespace, name=request.name,
        ),
    }  # fmt: skip
