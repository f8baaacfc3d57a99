"""Admission policies: rules in CEL over requests, kept as objects.

Source: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from apiserver.admission.attributes import Attributes
from apiserver.admission.audit_annotations import publish, publish_failure
from apiserver.admission.equivalents import FindVersions, as_version
from apiserver.admission.match_conditions import VARIABLES, Conditions, bindings_of
from apiserver.admission.rules import any_rule_takes, selectors_take
from apiserver.registry.kind import Kind, Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import VALIDATING_POLICIES, VALIDATING_POLICY_BINDINGS
from machinery.api.selectors import from_label_selector

FindResource = Callable[[str, str], Resource | None]
"""Returns the resource of an apiVersion and kind."""

_CODES = {"Invalid": errors.Invalid, "Forbidden": errors.Forbidden, "Unauthorized": errors.Unauthorized}
_EXEMPT_GROUP = "admissionregistration.k8s.io"


class PolicyError(Exception):
    """A policy could not be evaluated; the message says why."""


class BoundPolicies:
    """Policies and what binds them: which of them a request is for, and with what parameters."""

    resources: tuple[Resource, Resource]

    def __init__(self, cache: WatchCache, find_resource: FindResource, versions: FindVersions) -> None:
        self._cache = cache
        self._versions = versions
        self._find_resource = find_resource
        self._conditions = Conditions()
        self._known: tuple[tuple[int, int], Sequence[tuple[Object, Object]]] = ((-1, -1), ())
        for resource in self.resources:
            cache.collection(resource.group_resource)

    def _bound(self) -> Sequence[tuple[Object, Object]]:
        """Return each binding with its policy, by the names of policies and then of bindings."""
        policies, bindings = (self._cache.collection(one.group_resource) for one in self.resources)
        generation = (policies.generation, bindings.generation)
        if self._known[0] != generation:
            by_name = {entry.name: entry.object() for entry in policies.entries("")}
            found = [
                (by_name[binding["spec"]["policyName"]], binding)
                for binding in (entry.object() for entry in bindings.entries(""))
                if binding["spec"]["policyName"] in by_name
            ]
            found.sort(key=lambda pair: pair[0]["metadata"]["name"])
            self._known = generation, found
        return self._known[1]

    def _for(self, request: Attributes) -> Iterator[tuple[Object, Object, Kind]]:
        """Yield the policies that a request is for, each with its binding and the kind in which it sees the objects."""
        bound = self._bound()
        if not bound or request.kind.resource.group == _EXEMPT_GROUP:
            return
        for policy, binding in bound:
            match, narrower = policy["spec"].get("matchConstraints") or {}, binding["spec"].get("matchResources")
            kind = self._taken(match, request)
            if kind is not None and (narrower is None or self._taken(narrower, request, all_kinds=True) is not None):
                yield policy, binding, kind

    def _taken(self, match: Mapping[str, Any], request: Attributes, *, all_kinds: bool = False) -> Kind | None:
        """Return the kind in which a match takes a request: its own, or another version of it; None for neither."""
        if self._takes(match, request, all_kinds=all_kinds):
            return request.kind
        if match.get("matchPolicy", "Equivalent") == "Equivalent":
            for kind in self._versions(request.kind):
                if self._takes(match, replace(request, kind=kind), all_kinds=all_kinds):
                    return kind
        return None

    def _takes(self, match: Mapping[str, Any], request: Attributes, *, all_kinds: bool = False) -> bool:
        rules = match.get("resourceRules") or ()
        if not (any_rule_takes(rules, request) or (all_kinds and not rules)):
            return False
        if any_rule_takes(match.get("excludeResourceRules") or (), request):
            return False
        return selectors_take(self._cache, match, request)

    def _meets_conditions(self, policy: Object, request: Attributes) -> bool:
        """Whether a policy's matchConditions hold. Raises: PolicyError."""
        conditions = policy["spec"].get("matchConditions")
        if not conditions:
            return True
        outcome = self._conditions.met(conditions, request, self._cache)
        if outcome.error:
            raise PolicyError(outcome.error)
        return outcome.met

    def _params(self, policy: Object, binding: Object, request: Attributes) -> Iterator[Object | None]:
        """Yield the parameters a binding names; None once where the policy takes none. Raises: PolicyError."""
        kind, reference = policy["spec"].get("paramKind"), binding["spec"].get("paramRef")
        if kind is None or reference is None:
            yield None
            return
        resource = self._find_resource(kind["apiVersion"], kind["kind"])
        if resource is None:
            raise PolicyError(
                f"failed to find resource referenced by paramKind: '{kind['apiVersion']}, Kind={kind['kind']}'"
            )
        namespace = (reference.get("namespace") or request.namespace) if resource.namespaced else ""
        found = list(self._selected(resource, namespace, reference))
        if not found and reference.get("parameterNotFoundAction", "Deny") == "Deny":
            raise PolicyError("no params found for policy binding with `Deny` parameterNotFoundAction")
        yield from found

    def _selected(self, resource: Resource, namespace: str, reference: Mapping[str, Any]) -> Iterator[Object]:
        prefix = f"/registry/{resource.group_resource}/" + (f"{namespace}/" if namespace else "")
        selector = from_label_selector(reference.get("selector") or {})
        for entry in self._cache.collection(resource.group_resource).entries(prefix):
            obj = entry.object()
            if reference.get("name"):
                if entry.name == reference["name"]:
                    yield obj
            elif selector.matches(obj["metadata"].get("labels") or {}):
                yield obj


class Policies(BoundPolicies):
    """Evaluates the validating admission policies that are bound."""

    resources = (VALIDATING_POLICIES, VALIDATING_POLICY_BINDINGS)

    async def validate(self, request: Attributes) -> None:
        """Apply all policies to a request. Raises: what the first that denies gives as its reason."""
        for policy, binding, kind in self._for(request):
            self._apply(policy, binding, await as_version(request, kind))

    def _apply(self, policy: Object, binding: Object, request: Attributes) -> None:
        spec = policy["spec"]
        fails_closed = spec.get("failurePolicy", "Fail") == "Fail"
        try:
            if not self._meets_conditions(policy, request):
                return
            for params in self._params(policy, binding, request):
                given = bindings_of(request, self._cache, params)
                self._annotate(policy, request, given)
                for index, check in enumerate(spec.get("validations") or ()):
                    self._check(policy, binding, request, index, check, given)
        except PolicyError as error:
            if fails_closed:
                _act(policy, binding, request, 0, str(error), "Invalid")

    def _annotate(self, policy: Object, request: Attributes, given: Mapping[str, Any]) -> None:
        """Tell the audit log what a policy wants told. Raises: PolicyError."""
        spec = policy["spec"]
        for annotation in spec.get("auditAnnotations") or ():
            value = evaluate(annotation["valueExpression"], spec.get("variables") or (), given)
            if value is not None and not isinstance(value, str):
                raise PolicyError(f"valueExpression '{annotation['valueExpression'].strip()}' gave no string")
            publish(request, policy["metadata"]["name"], annotation["key"], value or "")

    def _check(
        self, policy: Object, binding: Object, request: Attributes, index: int, check: Mapping[str, Any],
        given: Mapping[str, Any],
    ) -> None:  # fmt: skip
        variables = policy["spec"].get("variables") or ()
        if evaluate(check["expression"], variables, given) is True:
            return
        message = check.get("message") or f"failed expression: {check['expression'].strip()}"
        if check.get("messageExpression"):
            try:
                told = evaluate(check["messageExpression"], variables, given)
            except PolicyError:
                told = None
            if isinstance(told, str) and told.strip() and "\n" not in told:
                message = told
        _act(policy, binding, request, index, message, check.get("reason") or "Invalid")


def evaluate(expression: str, variables: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Any:
    """Return the value of an expression; the variables it names are worked out first. Raises: PolicyError."""
    from machinery.cel.program import CompileError, EvaluationError, compile_expression

    bindings = dict(given)
    if variables:
        bindings["variables"] = _worked_out(expression, variables, given)
    try:
        return compile_expression(expression, {**VARIABLES, "variables": "dyn"}).evaluate(bindings)
    except CompileError as error:
        raise PolicyError(f"compilation error: {error}") from error
    except EvaluationError as error:
        raise PolicyError(f"expression '{expression.strip()}' resulted in error: {error}") from error


def _worked_out(expression: str, variables: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the variables an expression uses; each may use those before it."""
    wanted = set(re.findall(r"\bvariables\.(\w+)", expression))
    for variable in reversed(variables):
        if variable["name"] in wanted:
            wanted |= set(re.findall(r"\bvariables\.(\w+)", variable["expression"]))
    values: dict[str, Any] = {}
    for index, variable in enumerate(variables):
        if variable["name"] in wanted:
            before = [one for one in variables[:index] if one["name"] in values]
            values[variable["name"]] = evaluate(variable["expression"], before, {**given, "variables": dict(values)})
    return values


def _act(policy: Object, binding: Object, request: Attributes, index: int, message: str, reason: str) -> None:
    """Deny, warn, tell the audit log or go on, as the binding says."""
    actions = binding["spec"].get("validationActions") or ()
    told = f"ValidatingAdmissionPolicy '{policy['metadata']['name']}' with binding '{binding['metadata']['name']}'"
    if "Warn" in actions:
        request.warnings.append(f"Validation failed for {told}: {message}")
    if "Audit" in actions:
        publish_failure(request, policy["metadata"]["name"], binding, index, message)
    if "Deny" not in actions:
        return
    resource = request.kind.resource
    kind = _CODES.get(reason, errors.Invalid)
    if reason == "RequestEntityTooLarge":
        kind = errors.RequestEntityTooLarge
    raise kind(
        f'{resource.group_resource} "{request.name}" is forbidden: {told} denied request: {message}',
        group=resource.group, kind=resource.plural, name=request.name,
        causes=[errors.Cause("", message, "")],
    )  # fmt: skip
