"""The groups scheduling.k8s.io and node.k8s.io: priority classes and runtime classes.

Sources: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/,
https://kubernetes.io/docs/concepts/containers/runtime-class/
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME, text_at
from apiserver.registry.kind import Column, Kind, Object, forbidden, immutable, invalid, unsupported
from apiserver.registry.pod_rules import toleration_causes
from apiserver.registry.resource_rules import resource_causes
from machinery.api import resources
from machinery.errors import Cause

MAX_USER_PRIORITY = 1_000_000_000
SYSTEM_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_POLICIES = ("Never", "PreemptLowerPriority")


def _default_priority(priority: Object) -> None:
    priority.setdefault("preemptionPolicy", "PreemptLowerPriority")
    priority.setdefault("value", 0)


def _priority_causes(priority: Object) -> Iterator[Cause]:
    name, value = priority["metadata"].get("name", ""), priority["value"]
    if name.startswith("system-"):
        if SYSTEM_PRIORITIES.get(name) != value:
            why = "priority class names with 'system-' prefix are reserved for system use only. error: " + (
                f"value of {name} PriorityClass must be {SYSTEM_PRIORITIES[name]}" if name in SYSTEM_PRIORITIES
                else f"{name} is not a known system priority class"
            )  # fmt: skip
            yield forbidden("metadata.name", why)
    elif value > MAX_USER_PRIORITY:
        yield forbidden("value", f"maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}")
    if priority["preemptionPolicy"] not in _POLICIES:
        yield unsupported("preemptionPolicy", priority["preemptionPolicy"], _POLICIES)


def _priority_update(new: Object, old: Object) -> list[Cause]:
    causes = [] if new["value"] == old["value"] else [forbidden("value", "may not be changed in an update.")]
    policy = new.get("preemptionPolicy"), old.get("preemptionPolicy")
    return causes + immutable("preemptionPolicy", *policy)


def _runtime_causes(runtime: Object) -> Iterator[Cause]:
    if runtime.get("handler") and (wrong := names.dns_label(runtime["handler"])):
        yield invalid("handler", runtime["handler"], wrong)
    if (overhead := runtime.get("overhead")) is not None:  # judged as the limits of a container
        yield from resource_causes({"limits": overhead.get("podFixed") or {}}, "overhead")
    placing = runtime.get("scheduling") or {}
    yield from names.label_causes(placing.get("nodeSelector") or {}, "scheduling.nodeSelector")
    for index, toleration in enumerate(placing.get("tolerations") or ()):
        yield from toleration_causes(toleration, f"scheduling.tolerations[{index}]")


KINDS = (
    Kind(
        resources.PRIORITY_CLASSES, "io.k8s.api.scheduling.v1.PriorityClass", "priorityclass", ("pc",),
        columns=(
            NAME, Column("Value", lambda obj: obj["value"], type="integer"),
            Column("Global-Default", lambda obj: obj.get("globalDefault", False), type="boolean"), AGE,
            Column("PreemptionPolicy", text_at("preemptionPolicy")),
        ),
        default=_default_priority, validate=lambda obj: list(_priority_causes(obj)), validate_update=_priority_update,
        has_generation=True,
    ),
    Kind(
        resources.RUNTIME_CLASSES, "io.k8s.api.node.v1.RuntimeClass", "runtimeclass",
        columns=(NAME, Column("Handler", text_at("handler")), AGE),
        validate=lambda obj: list(_runtime_causes(obj)),
        validate_update=lambda new, old: immutable("handler", new.get("handler"), old.get("handler")),
        unconditional_update=False,
    ),
)  # fmt: skip
