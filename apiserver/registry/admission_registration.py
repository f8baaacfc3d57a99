"""The group admissionregistration.k8s.io: webhooks and policies that admit objects.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME, NONE, text_at, value_at
from apiserver.registry.kind import STATUS, Column, Kind, Object, duplicate, invalid, required, unsupported
from apiserver.registry.webhook_rules import client_causes
from machinery.api import resources
from machinery.api.meta import Resource
from machinery.errors import Cause

ADMISSION = "io.k8s.api.admissionregistration.v1."
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_SUPPORTED_REVIEWS = ("v1", "v1beta1")


def _default_webhooks(configuration: Object) -> None:
    mutating = configuration["kind"].startswith("Mutating")
    for hook in configuration.get("webhooks") or ():
        hook.setdefault("failurePolicy", "Fail")
        hook.setdefault("matchPolicy", "Equivalent")
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        hook.setdefault("timeoutSeconds", 10)
        if mutating:
            hook.setdefault("reinvocationPolicy", "Never")
        _default_rules(hook.get("rules"))
        if service := (hook.get("clientConfig") or {}).get("service"):
            service.setdefault("port", 443)


def _default_rules(rules: Any) -> None:
    for rule in rules or ():
        rule.setdefault("scope", "*")


def _webhook_causes(configuration: Object) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, hook in enumerate(configuration.get("webhooks") or ()):
        path, name = f"webhooks[{index}]", hook.get("name", "")
        if wrong := names.dns_subdomain(name):
            yield invalid(f"{path}.name", name, wrong)
        elif name.count(".") < 2:
            why = "should be a domain with at least three segments separated by dots"
            yield invalid(f"{path}.name", name, why)
        if name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)
        yield from _choice_causes(hook, path)
        yield from client_causes(hook.get("clientConfig") or {}, f"{path}.clientConfig")
        for number, rule in enumerate(hook.get("rules") or ()):
            yield from _rule_causes(rule, f"{path}.rules[{number}]")
        for number, condition in enumerate(hook.get("matchConditions") or ()):
            yield from _condition_causes(condition, f"{path}.matchConditions[{number}]")


def _choice_causes(hook: Object, path: str) -> Iterator[Cause]:
    for field, known in (
        ("failurePolicy", ("Fail", "Ignore")), ("matchPolicy", ("Equivalent", "Exact")),
        ("sideEffects", ("None", "NoneOnDryRun")),
    ):  # fmt: skip
        if hook.get(field) is not None and hook[field] not in known:
            yield unsupported(f"{path}.{field}", hook[field], known)
    seconds = hook["timeoutSeconds"]
    if not 1 <= seconds <= 30:
        limit = "the timeout value must be between 1 and 30 seconds"
        yield invalid(f"{path}.timeoutSeconds", seconds, limit)
    versions = hook.get("admissionReviewVersions") or []
    if versions and not any(one in _SUPPORTED_REVIEWS for one in versions):
        why = f"must include at least one of {', '.join(_SUPPORTED_REVIEWS)}"
        yield invalid(f"{path}.admissionReviewVersions", versions, why)


def _rule_causes(rule: Object, path: str) -> Iterator[Cause]:
    for field in ("operations", "apiGroups", "apiVersions", "resources"):
        values = rule.get(field) or []
        if not values:
            yield required(f"{path}.{field}")
        elif "*" in values and len(values) > 1 and field != "resources":
            yield invalid(f"{path}.{field}", values, "if '*' is present, must not specify other " + _words(field))
    for index, operation in enumerate(rule.get("operations") or ()):
        if operation not in _OPERATIONS:
            yield unsupported(f"{path}.operations[{index}]", operation, _OPERATIONS)


def _words(field: str) -> str:
    return {"operations": "operations", "apiGroups": "API groups", "apiVersions": "API versions"}[field]


def _condition_causes(condition: Object, path: str) -> Iterator[Cause]:
    if not condition.get("name"):
        yield required(f"{path}.name")
    if not (condition.get("expression") or "").strip():
        yield required(f"{path}.expression")
    yield from _expression_causes(condition.get("expression"), f"{path}.expression")


# What expressions may speak of.
_GIVEN = ("object", "oldObject", "request", "namespaceObject", "params", "variables", "authorizer")


def _expression_causes(expression: str | None, path: str) -> Iterator[Cause]:
    if not expression or not expression.strip():
        return
    from machinery.cel.program import CompileError, compile_expression  # the engine is large, and seldom needed

    try:
        compile_expression(expression, dict.fromkeys(_GIVEN, "dyn"))
    except CompileError as error:
        yield invalid(path, expression, f"compilation failed: {error}")


# -- policies


def _default_policy(policy: Object) -> None:
    spec = policy.setdefault("spec", {})
    spec.setdefault("failurePolicy", "Fail")
    if "matchConstraints" in spec:
        _default_match(spec["matchConstraints"])
    if policy["kind"].startswith("Mutating"):
        spec.setdefault("reinvocationPolicy", "Never")


def _default_match(match: Object) -> None:
    match.setdefault("matchPolicy", "Equivalent")
    match.setdefault("namespaceSelector", {})
    match.setdefault("objectSelector", {})
    _default_rules(match.get("resourceRules"))
    _default_rules(match.get("excludeResourceRules"))


def _default_binding(binding: Object) -> None:
    match = (binding.get("spec") or {}).get("matchResources")
    if match is not None:
        _default_match(match)


def _policy_causes(policy: Object) -> Iterator[Cause]:
    spec = policy["spec"]
    if spec["failurePolicy"] not in ("Fail", "Ignore"):
        yield unsupported("spec.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore"))
    rules = value_at(spec, "matchConstraints", "resourceRules") or []
    if not spec.get("matchConstraints"):
        yield required("spec.matchConstraints")
    elif not rules:
        yield required("spec.matchConstraints.resourceRules")
    for index, rule in enumerate(rules):
        yield from _rule_causes(rule, f"spec.matchConstraints.resourceRules[{index}]")
    mutating = policy["kind"].startswith("Mutating")
    content = ("mutations",) if mutating else ("validations", "auditAnnotations")
    if not any(spec.get(field) for field in content):
        yield required(f"spec.{content[0]}", f"{' or '.join(content)} must contain at least one item")
    for index, check in enumerate(spec.get("validations") or ()):
        if not (check.get("expression") or "").strip():
            yield required(f"spec.validations[{index}].expression", "expression is not specified")
    yield from _policy_expression_causes(spec)


_POLICY_EXPRESSIONS = (
    ("validations", "expression"), ("validations", "messageExpression"), ("variables", "expression"),
    ("auditAnnotations", "valueExpression"),
)  # fmt: skip


def _policy_expression_causes(spec: Object) -> Iterator[Cause]:
    for index, condition in enumerate(spec.get("matchConditions") or ()):
        yield from _condition_causes(condition, f"spec.matchConditions[{index}]")
    for field, name in _POLICY_EXPRESSIONS:
        for index, one in enumerate(spec.get(field) or ()):
            yield from _expression_causes(one.get(name), f"spec.{field}[{index}].{name}")


def _binding_causes(binding: Object) -> Iterator[Cause]:
    spec = binding.get("spec") or {}
    if not spec.get("policyName"):
        yield required("spec.policyName")
    if binding["kind"].startswith("Mutating"):
        return
    actions, known = spec.get("validationActions") or [], ("Audit", "Deny", "Warn")
    if not actions:
        yield required("spec.validationActions")
    for index, action in enumerate(actions):
        if action not in known:
            yield unsupported(f"spec.validationActions[{index}]", action, known)
    if "Deny" in actions and "Warn" in actions:
        why = (
            "must not contain both Deny and Warn (repeating the same validation failure information in the API "
            "response and headers serves no purpose)"
        )
        yield invalid("spec.validationActions", actions, why)


def _param_kind(policy: Object) -> str:
    kind = value_at(policy, "spec", "paramKind")
    return f"{kind['apiVersion']}/{kind['kind']}" if kind else "<unset>"


def _param_reference(binding: Object) -> str:
    reference = value_at(binding, "spec", "paramRef")
    if not reference:
        return "<unset>"
    if reference.get("name"):
        space = reference.get("namespace")
        return f"{space}/{reference['name']}" if space else str(reference["name"])
    return "*"


def _webhooks(resource: Resource) -> Kind:
    return Kind(
        resource, ADMISSION + resource.kind, resource.kind.lower(), (), ("api-extensions",),
        columns=(NAME, Column("Webhooks", lambda obj: len(obj.get("webhooks") or ()), type="integer"), AGE),
        default=_default_webhooks, validate=lambda obj: list(_webhook_causes(obj)), has_generation=True,
        unconditional_update=False,
    )  # fmt: skip


def _policies(resource: Resource, field: str) -> Kind:
    return Kind(
        resource, ADMISSION + resource.kind, resource.kind.lower(), (), ("api-extensions",),
        subresources={"status": STATUS} if field == "validations" else {},
        columns=(
            NAME, Column(field.title(), lambda obj: len(obj["spec"].get(field) or ()), type="integer"),
            Column("ParamKind", _param_kind), AGE,
        ),
        default=_default_policy, validate=lambda obj: list(_policy_causes(obj)), has_generation=True,
        unconditional_update=False,
    )  # fmt: skip


def _bindings(resource: Resource) -> Kind:
    return Kind(
        resource, ADMISSION + resource.kind, resource.kind.lower(), (), ("api-extensions",),
        columns=(
            NAME, Column("PolicyName", text_at("spec", "policyName", absent=NONE)),
            Column("ParamRef", _param_reference), AGE,
        ),
        default=_default_binding, validate=lambda obj: list(_binding_causes(obj)), has_generation=True,
        unconditional_update=False,
    )  # fmt: skip


KINDS = (
    _webhooks(resources.MUTATING_WEBHOOKS),
    _webhooks(resources.VALIDATING_WEBHOOKS),
    _policies(resources.VALIDATING_POLICIES, "validations"),
    _bindings(resources.VALIDATING_POLICY_BINDINGS),
    _policies(resources.MUTATING_POLICIES, "mutations"),
    _bindings(resources.MUTATING_POLICY_BINDINGS),
)
