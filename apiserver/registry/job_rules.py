"""Rules of what a job asks for: how often it tries, which failures count, when it has succeeded.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry import names, templates
from apiserver.registry.kind import Object, duplicate, invalid, required, too_many, unsupported
from machinery.errors import Cause

_NUMBERS = (
    "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
    "backoffLimitPerIndex", "maxFailedIndexes",
)  # fmt: skip
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_OPERATORS, _STATUSES = ("In", "NotIn"), ("False", "True", "Unknown")
_MODES = ("Indexed", "NonIndexed")
_MAX_PARALLEL, _MAX_WITH_MANY = 100_000, 10_000
_MAX_MANAGER, _MAX_RULES, _MAX_CODES = 63, 20, 255


def hostname_causes(job: Object) -> Iterator[Cause]:
    """Yield a cause when the last of an indexed job's pods could have no host name."""
    spec, name = job["spec"], job["metadata"].get("name", "")
    if spec["completionMode"] == "Indexed" and (spec.get("completions") or 0) > 0:
        last = f"{name}-{spec['completions'] - 1}"
        if names.dns_label(last):
            why = f"will not able to create pod with invalid DNS label: {last}"
            yield invalid("metadata.name", name, why)


def job_spec_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the spec of a job, or of a cron job's template."""
    yield from templates.non_negative(spec, *_NUMBERS, path=path)
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        yield required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    yield from _manager_causes(spec.get("managedBy"), f"{path}.managedBy")
    if spec["completionMode"] not in _MODES:
        yield unsupported(f"{path}.completionMode", spec["completionMode"], ("NonIndexed", "Indexed"))
    if spec["completionMode"] == "Indexed":
        yield from _indexed_causes(spec, path)
    else:
        for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
            if spec.get(field) is not None:
                yield invalid(f"{path}.{field}", spec[field], "requires indexed completion mode")
    yield from _failure_policy_causes(spec, f"{path}.podFailurePolicy")
    yield from _success_policy_causes(spec, f"{path}.successPolicy")
    replacement = ("Failed",) if spec.get("podFailurePolicy") else ("Failed", "TerminatingOrFailed")
    if spec["podReplacementPolicy"] not in replacement:
        yield unsupported(f"{path}.podReplacementPolicy", spec["podReplacementPolicy"], replacement)
    yield from _template_causes(spec, f"{path}.template")


def _manager_causes(manager: str | None, path: str) -> Iterator[Cause]:
    if manager is None:
        return
    yield from names.domain_path_causes(manager, path)
    if len(manager) > _MAX_MANAGER:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {_MAX_MANAGER} bytes", path)


def _indexed_causes(spec: Object, path: str) -> Iterator[Cause]:
    if spec.get("completions") is None:
        yield required(f"{path}.completions", "when completion mode is Indexed")
        return
    parallelism, failed = spec["parallelism"], spec.get("maxFailedIndexes")
    if parallelism > _MAX_PARALLEL:
        why = f"must be less than or equal to {_MAX_PARALLEL} when completion mode is Indexed"
        yield invalid(f"{path}.parallelism", parallelism, why)
    if failed is not None and failed > spec["completions"]:
        yield invalid(f"{path}.maxFailedIndexes", failed, "must be less than or equal to completions")
    if failed is not None and failed > _MAX_PARALLEL:
        yield invalid(f"{path}.maxFailedIndexes", failed, f"must be less than or equal to {_MAX_PARALLEL}")
    if spec["completions"] <= _MAX_PARALLEL or spec.get("backoffLimitPerIndex") is None:
        return
    if failed is None:
        yield required(f"{path}.maxFailedIndexes", f"must be specified when completions is above {_MAX_PARALLEL}")
    for field, number in (("parallelism", parallelism), ("maxFailedIndexes", failed)):
        if number is not None and number > _MAX_WITH_MANY:
            why = (
                f"must be less than or equal to {_MAX_WITH_MANY} when completions are above {_MAX_PARALLEL} "
                "and used with backoff limit per index"
            )
            yield invalid(f"{path}.{field}", number, why)


def _template_causes(spec: Object, path: str) -> Iterator[Cause]:
    template = spec["template"]
    restart = template["spec"].get("restartPolicy")
    if restart == "Always":
        yield from templates.template_causes(template, path, ("Always",))
        yield required(f"{path}.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
        return
    yield from templates.template_causes(template, path, ("OnFailure", "Never"))
    if spec.get("podFailurePolicy") and restart != "Never":
        why = 'only "Never" is supported when podFailurePolicy is specified'
        yield invalid(f"{path}.spec.restartPolicy", restart, why)


def _choice_causes(value: str, path: str, known: tuple[str, ...]) -> Iterator[Cause]:
    if not value:
        quoted = " ".join(f'"{one}"' for one in known)
        yield required(path, f"valid values: [{quoted}]")
    elif value not in known:
        yield unsupported(path, value, known)


def _failure_policy_causes(spec: Object, path: str) -> Iterator[Cause]:
    pod = spec["template"]["spec"]
    containers = {one.get("name") for group in ("containers", "initContainers") for one in pod.get(group) or ()}
    rules = (spec.get("podFailurePolicy") or {}).get("rules") or ()
    if len(rules) > _MAX_RULES:
        yield too_many(f"{path}.rules", len(rules), _MAX_RULES)
    for index, rule in enumerate(rules):
        at, action = f"{path}.rules[{index}]", rule.get("action", "")
        if action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            yield invalid(f"{at}.action", action, "requires the backoffLimitPerIndex to be set")
        yield from _choice_causes(action, f"{at}.action", _ACTIONS)
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or ()
        if codes is not None:
            yield from _exit_code_causes(codes, f"{at}.onExitCodes", containers)
        yield from _condition_causes(conditions, f"{at}.onPodConditions")
        if codes is not None and conditions:
            yield _without_value(at, "specifying both OnExitCodes and OnPodConditions is not supported")
        if codes is None and not conditions:
            yield _without_value(at, "specifying one of OnExitCodes and OnPodConditions is required")


def _without_value(path: str, why: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {why}", path)


def _condition_causes(conditions: Any, path: str) -> Iterator[Cause]:
    if len(conditions) > _MAX_RULES:
        yield too_many(path, len(conditions), _MAX_RULES)
    for index, pattern in enumerate(conditions):
        if wrong := names.qualified_name(pattern.get("type", "")):
            yield invalid(f"{path}[{index}].type", pattern.get("type", ""), wrong)
        yield from _choice_causes(pattern["status"], f"{path}[{index}].status", _STATUSES)


def _exit_code_causes(codes: Object, path: str, containers: set[Any]) -> Iterator[Cause]:
    operator = codes.get("operator", "")
    yield from _choice_causes(operator, f"{path}.operator", _OPERATORS)
    name = codes.get("containerName")
    if name is not None and name not in containers:
        why = "must be one of the container or initContainer names in the pod template"
        yield invalid(f"{path}.containerName", name, why)
    values = codes.get("values") or []
    if not values:
        yield invalid(f"{path}.values", values, "at least one value is required")
    elif len(values) > _MAX_CODES:
        yield too_many(f"{path}.values", len(values), _MAX_CODES)
    seen = set()
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            yield invalid(f"{path}.values[{index}]", value, "must not be 0 for the In operator")
        if value in seen:
            yield duplicate(f"{path}.values[{index}]", value)
        seen.add(value)
    if values != sorted(values):
        yield invalid(f"{path}.values", values, "must be ordered")


def _success_policy_causes(spec: Object, path: str) -> Iterator[Cause]:
    policy = spec.get("successPolicy")
    if policy is None:
        return
    if spec["completionMode"] != "Indexed":
        yield invalid(path, policy, "requires indexed completion mode")
        return
    rules = policy.get("rules") or []
    if not rules:
        yield required(f"{path}.rules", "at least one rules must be specified when the successPolicy is specified")
    if len(rules) > _MAX_RULES:
        yield too_many(f"{path}.rules", len(rules), _MAX_RULES)
    for index, rule in enumerate(rules):
        yield from _success_causes(rule, spec.get("completions") or 0, f"{path}.rules[{index}]")


def _success_causes(rule: Object, completions: int, path: str) -> Iterator[Cause]:
    count, indexes = rule.get("succeededCount"), rule.get("succeededIndexes")
    if count is None and indexes is None:
        yield required(path, "at least one of succeededCount or succeededIndexes must be specified")
    total = None
    if indexes is not None:
        try:
            total = count_indexes(indexes, completions)
        except ValueError as error:
            why = f"error parsing succeededIndexes: {error}"
            yield invalid(f"{path}.succeededIndexes", indexes, why)
    if count is None:
        return
    yield from templates.non_negative(rule, "succeededCount", path=path)
    if count > completions:
        why = f"must be less than or equal to {completions} (the number of specified completions)"
        yield invalid(f"{path}.succeededCount", count, why)
    if total is not None and count > total:
        why = f"must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        yield invalid(f"{path}.succeededCount", count, why)


def count_indexes(text: str, completions: int) -> int:
    """Return how many indexes a text such as "1,3-5" names. Raises: ValueError for one that makes no sense."""
    total, last = 0, None
    for part in text.split(",") if text else ():
        bounds = part.split("-")
        if len(bounds) > 2:
            rule = "an index interval can have at most two parts separated by '-'"
            raise ValueError(f'the fragment "{part}" violates the requirement that {rule}')
        for bound in bounds:
            if not (bound.isascii() and bound.isdigit()):
                raise ValueError(f'cannot convert string to integer for index: "{bound}"')
            if int(bound) >= completions:
                raise ValueError(f'too large index: "{bound}"')
        first, end = int(bounds[0]), int(bounds[-1])
        if last is not None and last >= first:
            raise ValueError(f"non-increasing order, previous: {last}, current: {first}")
        if len(bounds) == 2 and first >= end:
            raise ValueError(f"non-increasing order, previous: {first}, current: {end}")
        total, last = total + end - first + 1, end
    return total
