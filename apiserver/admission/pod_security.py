"""PodSecurity: holds the pods of a namespace to the level its labels name, or warns and notes what breaks it.

Source: https://kubernetes.io/docs/concepts/security/pod-security-admission/
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from apiserver.admission.attributes import Attributes
from apiserver.admission.pod_security_checks import LATEST, Version, Violation, violations
from apiserver.registry.kind import Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.resources import NAMESPACES, PODS
from machinery.errors import Cause

_PREFIX = "pod-security.kubernetes.io/"
_MARK = _PREFIX.encode()
LEVELS = ("privileged", "baseline", "restricted")
MODES = ("enforce", "audit", "warn")
_VERSION = re.compile(r"v1\.(0|[1-9][0-9]*)")
_MOST_PODS = 3000
_SUBRESOURCES = ("", "ephemeralcontainers", "resize")
# Where the pod template of other kinds is.
_TEMPLATES: Mapping[str, Sequence[str]] = {
    "Deployment": ("spec", "template"), "ReplicaSet": ("spec", "template"), "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"), "ReplicationController": ("spec", "template"), "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"), "PodTemplate": ("template",),
}  # fmt: skip


class Policy(NamedTuple):
    """A level, and the version of the standard it is of."""

    level: str = "privileged"
    shown_version: str = "latest"

    @property
    def version(self) -> Version:
        """The version, to be compared."""
        match = _VERSION.fullmatch(self.shown_version)
        return (1, int(match[1])) if match else LATEST

    def __str__(self) -> str:
        return f"{self.level}:{self.shown_version}"


@dataclass(frozen=True, slots=True)
class PodSecurityConfig:
    """What holds where labels say nothing, and who is exempt."""

    defaults: Mapping[str, Policy] = field(default_factory=lambda: dict.fromkeys(MODES, Policy()))
    usernames: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    runtime_classes: frozenset[str] = frozenset()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "PodSecurityConfig":
        """Read a PodSecurityConfiguration."""
        given, exempt = document.get("defaults") or {}, document.get("exemptions") or {}
        defaults = {
            mode: Policy(given.get(mode) or "privileged", given.get(f"{mode}-version") or "latest") for mode in MODES
        }
        sets = (frozenset(exempt.get(name) or ()) for name in ("usernames", "namespaces", "runtimeClasses"))
        return cls(defaults, *sets)


class PodSecurity:
    """Judges pods, what makes pods, and namespaces."""

    def __init__(self, cache: WatchCache, config: PodSecurityConfig) -> None:
        self._cache = cache
        self._config = config
        self._by_default = any(one.level != "privileged" for one in config.defaults.values())

    def judge(self, request: Attributes) -> None:
        """Refuse a request, or add warnings and annotations to it. Raises: Forbidden, Invalid (labels)."""
        kind = request.kind.built_in_kind
        if kind == "Namespace":
            if not request.subresource:
                self._judge_namespace(request)
        elif kind == "Pod" and request.subresource in _SUBRESOURCES:
            if request.operation == "CREATE" or request.old is None or _is_significant(request.present, request.old):
                self._judge_pod(request, request.present, enforced=True)
        elif kind in _TEMPLATES and not request.subresource:
            template: Any = request.present
            for step in _TEMPLATES[kind]:
                template = (template or {}).get(step)
            if template:
                self._judge_pod(request, template, enforced=False)

    def _judge_pod(self, request: Attributes, pod: Object, *, enforced: bool) -> None:
        policies = self._policies(request.namespace)
        user = request.user.name if request.user is not None else ""
        if policies is None or request.namespace in self._config.namespaces or user in self._config.usernames:
            return
        spec = pod.get("spec") or {}
        if spec.get("runtimeClassName") in self._config.runtime_classes:
            return
        annotations = (pod.get("metadata") or {}).get("annotations") or {}

        def told(mode: str) -> str:
            found = violations(policies[mode].level, policies[mode].version, spec, annotations)
            return (
                f'violate{"s" if mode == "enforce" else ""} PodSecurity "{policies[mode]}": {_listed(found)}'
                if found
                else ""
            )

        if (text := told("audit")) and request.annotations is not None:
            request.annotations[_PREFIX + "audit-violations"] = f"would {text}"
        if enforced:
            if request.annotations is not None:
                request.annotations[_PREFIX + "enforce-policy"] = str(policies["enforce"])
            if text := told("enforce"):
                raise _forbidden(request, text)
        if text := told("warn"):
            request.warnings.append(f"would {text}")

    def _policies(self, namespace: str) -> Mapping[str, Policy] | None:
        """Return the policy for each mode; None when nothing is asked of this namespace's pods."""
        entry = self._cache.collection(NAMESPACES.group_resource).get(f"/registry/namespaces/{namespace}")
        if entry is None or (not self._by_default and _MARK not in entry.value):
            return None
        policies, _ = self._read(entry.labels())
        return policies if any(one.level != "privileged" for one in policies.values()) else None

    def _read(self, labels: Mapping[str, str]) -> tuple[dict[str, Policy], list[Cause]]:
        """Return the policies that labels name, and what is wrong with them; a wrong level means restricted."""
        found, wrong = {}, []
        for mode in MODES:
            default = self._config.defaults[mode]
            level, version = labels.get(_PREFIX + mode), labels.get(f"{_PREFIX}{mode}-version")
            if level is not None and level not in LEVELS:
                wrong.append(_cause(mode, level, f"must be one of {', '.join(LEVELS)}"))
                # Told wrong, pods are rather refused than let in; warnings are no use then.
                level = "restricted" if mode == "enforce" else "privileged"
            if version is not None and version != "latest" and not _VERSION.fullmatch(version):
                wrong.append(_cause(f"{mode}-version", version, 'must be "latest" or "v1.x"'))
                version = "latest"
            found[mode] = Policy(level or default.level, version or ("latest" if level else default.shown_version))
        enforce = found["enforce"]
        if _PREFIX + "warn" not in labels and LEVELS.index(enforce.level) > LEVELS.index(found["warn"].level):
            found["warn"] = enforce  # so that those who make a Deployment learn that its pods will be refused
        return found, wrong

    # ---- namespaces

    def _judge_namespace(self, request: Attributes) -> None:
        labels, before = (((one or {}).get("metadata") or {}).get("labels") or {} for one in (request.obj, request.old))
        new, wrong = self._read(labels)
        old, wrong_before = self._read(before)
        if wrong and wrong != wrong_before:
            texts = ", ".join(f"{one.field}: {one.message}" for one in wrong)
            raise errors.Invalid(
                f'Namespace "{request.name}" is invalid: {texts}', kind="Namespace", name=request.name, causes=wrong
            )
        after = new["enforce"]
        stricter = after != old["enforce"] and (
            after.version != old["enforce"].version or LEVELS.index(after.level) > LEVELS.index(old["enforce"].level)
        )
        if request.operation == "UPDATE" and stricter and after.level != "privileged":
            request.warnings += self._told_of_pods(request.name, after)

    def _told_of_pods(self, namespace: str, policy: Policy) -> list[str]:
        """Return warnings for the pods that are there already and break a new level."""
        entries = self._cache.collection(PODS.group_resource).entries(f"/registry/pods/{namespace}/")
        names: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for entry in entries[:_MOST_PODS]:
            pod = entry.object()
            annotations = pod["metadata"].get("annotations") or {}
            reasons = ", ".join(
                reason for reason, _ in violations(policy.level, policy.version, pod["spec"], annotations)
            )
            if reasons:
                names.setdefault(reasons, entry.name)
                counts[reasons] += 1
        found = []
        if len(entries) > _MOST_PODS:
            only = f"the first {_MOST_PODS} of {len(entries)} existing pods"
            found.append(f"new PodSecurity enforce level only checked against {only}")
        if counts:
            told = f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{policy}"'
            found.append(told)
        return found + sorted(f"{names[reasons]}{_others(count)}: {reasons}" for reasons, count in counts.items())


def _others(count: int) -> str:
    if count == 1:
        return ""
    return f" (and {count - 1} other pod{'' if count == 2 else 's'})"


def _listed(found: Sequence[Violation]) -> str:
    return ", ".join(f"{reason} ({detail})" if detail else reason for reason, detail in found)


def _cause(label: str, value: str, rule: str) -> Cause:
    path = f"metadata.labels[{_PREFIX}{label}]"
    return Cause("FieldValueInvalid", f'Invalid value: "{value}": {rule}', path)


def _is_significant(new: Object, old: Object) -> bool:
    """Whether a change of a pod can bear on security: images, and containers that were added."""

    def parts(pod: Object) -> list[tuple[str, str]]:
        groups = ("initContainers", "containers", "ephemeralContainers")
        return [(one["name"], one.get("image", "")) for group in groups for one in pod["spec"].get(group) or ()]

    return parts(new) != parts(old)


def _forbidden(request: Attributes, why: str) -> errors.Forbidden:
    return errors.Forbidden(f'pods "{request.name}" is forbidden: {why}', kind="pods", name=request.name)
