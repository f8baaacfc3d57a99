"""Mutating admission policies: changes in CEL, by configurations that are applied or by JSON patches.

Source: https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/
"""

import copy
from collections.abc import Mapping
from typing import Any

import orjson

from apiserver.admission.attributes import Attributes
from apiserver.admission.equivalents import as_asked, as_version
from apiserver.admission.match_conditions import bindings_of
from apiserver.admission.policies import BoundPolicies, PolicyError, evaluate
from apiserver.admission.webhooks import Complete
from apiserver.registry.kind import Kind, Object, shape_for
from machinery import errors
from machinery.api.field_merge import Unmergeable, merged
from machinery.api.patch import PatchError, apply_json_patch
from machinery.api.resources import MUTATING_POLICIES, MUTATING_POLICY_BINDINGS

_FIXED = ("name", "namespace", "generateName", "uid", "creationTimestamp", "resourceVersion")


class MutatingPolicies(BoundPolicies):
    """Changes objects by the mutating admission policies that are bound."""

    resources = (MUTATING_POLICIES, MUTATING_POLICY_BINDINGS)

    async def mutate(self, request: Attributes, complete: Complete) -> None:
        """Let all policies change a request's object, one after another; those that ask for it once more.

        Raises: Invalid when one fails and must not.
        """
        if request.obj is None:
            return
        seen: list[tuple[Object, Object, Kind, bytes]] = []
        for policy, binding, kind in self._for(request):
            await self._apply_as(kind, policy, binding, request, complete)
            seen.append((policy, binding, kind, orjson.dumps(request.obj)))
        last = seen[-1][3] if seen else b""
        for policy, binding, kind, left in seen:
            if policy["spec"].get("reinvocationPolicy") == "IfNeeded" and left != last:
                await self._apply_as(kind, policy, binding, request, complete)

    async def _apply_as(
        self, kind: Kind, policy: Object, binding: Object, request: Attributes, complete: Complete
    ) -> None:
        """Apply a policy to the objects in the version of a kind; what it changed comes back in the request's."""
        if kind is request.kind:
            self._apply(policy, binding, request, complete)
            return
        shown = await as_version(request, kind)
        self._apply(policy, binding, shown, lambda changed: changed)
        request.obj = complete(await as_asked(shown.present, kind, request))

    def _apply(self, policy: Object, binding: Object, request: Attributes, complete: Complete) -> None:
        before = request.obj
        try:
            if not self._meets_conditions(policy, request):
                return
            for params in self._params(policy, binding, request):
                for mutation in policy["spec"].get("mutations") or ():
                    self._change(policy, mutation, request, params, complete)
        except PolicyError as error:
            request.obj = before
            if policy["spec"].get("failurePolicy", "Fail") == "Fail":
                raise _denied(policy, binding, request, str(error)) from error

    def _change(
        self,
        policy: Object,
        mutation: Mapping[str, Any],
        request: Attributes,
        params: Object | None,
        complete: Complete,
    ) -> None:
        from machinery.cel.literals import as_maps

        given = bindings_of(request, self._cache, params)
        kind = mutation.get("patchType", "")
        source = mutation.get("jsonPatch" if kind == "JSONPatch" else "applyConfiguration") or {}
        try:
            expression = as_maps(source.get("expression", ""))
        except ValueError as error:
            raise PolicyError(f"compilation error: {error}") from error
        made = evaluate(expression, policy["spec"].get("variables") or (), given)
        obj = copy.deepcopy(request.present)
        changed = _patched(obj, made) if kind == "JSONPatch" else _configured(request, obj, made)
        before, after = request.present["metadata"], changed.get("metadata") or {}
        if any(before.get(name) != after.get(name) for name in _FIXED):
            raise PolicyError("error applying mutation: a policy may not change what names an object")
        try:
            request.obj = complete(changed)
        except errors.APIError as error:
            raise PolicyError(f"error applying mutation: {error}") from error


def _patched(obj: Object, made: Any) -> Object:
    if not isinstance(made, list) or not all(isinstance(one, dict) for one in made):
        raise PolicyError("type mismatch: JSONPatch expression should evaluate to array of JSONPatch")
    try:
        return dict(apply_json_patch(obj, made))
    except PatchError as error:
        raise PolicyError(f"JSON Patch: {error}") from error


def _configured(request: Attributes, obj: Object, made: Any) -> Object:
    if not isinstance(made, dict):
        raise PolicyError("type mismatch: apply configuration expression should evaluate to Object")
    fixed = [name for name in ("apiVersion", "kind") if name in made]
    if fixed:
        raise PolicyError(f"error applying mutation: {fixed[0]} may not be set")
    try:
        return dict(merged(obj, made, shape_for(request.kind)))
    except Unmergeable as error:
        raise PolicyError(f"error applying patch: {error}") from error


def _denied(policy: Object, binding: Object, request: Attributes, why: str) -> errors.Invalid:
    resource = request.kind.resource
    told = f"MutatingAdmissionPolicy '{policy['metadata']['name']}' with binding '{binding['metadata']['name']}'"
    return errors.Invalid(
        f'{resource.group_resource} "{request.name}" is forbidden: {told} denied request: {why}',
        group=resource.group, kind=resource.plural, name=request.name, causes=[errors.Cause("", why, "")],
    )  # fmt: skip
