"""Whether a node takes a pod that was bound to it; a refusal becomes the pod's end, with a reason.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/ (the node checks again what the scheduler found)
"""

from collections.abc import Iterable, Mapping
from typing import Any

from agent.pod_state import Pod, Spec, is_sidecar, specs
from agent.security import forbidden_sysctl, merged
from machinery.api.quantity import cpu_millis, to_bytes

Refusal = tuple[str, str]  # reason and message


def refusal(
    pod: Pod, admitted: Iterable[Pod], allocatable: Mapping[str, str], node: Mapping[str, Any], *, apparmor: bool
) -> Refusal | None:
    """Return reason and message when the node can't take a pod beside those it has; None when it can.

    Args: `node` is the Node object, empty while it isn't known; `apparmor` tells whether this host has AppArmor.
    """
    if text := forbidden_sysctl(pod):
        return "SysctlForbidden", text
    if not apparmor and (text := _apparmor_needed(pod)):
        return "AppArmor", text
    return _misplaced(pod, node) or _short_of(pod, list(admitted), allocatable)


def _apparmor_needed(pod: Pod) -> str:
    for group in ("initContainers", "containers"):
        for spec in specs(pod, group):
            profile = merged(pod, spec).get("appArmorProfile") or {}
            if profile.get("type") in ("Localhost", "RuntimeDefault"):
                return "Cannot enforce AppArmor: AppArmor is not enabled on the host"
    return ""


def _misplaced(pod: Pod, node: Mapping[str, Any]) -> Refusal | None:
    if not node:
        return None
    labels = node["metadata"].get("labels") or {}
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    return None


def _short_of(pod: Pod, admitted: list[Pod], allocatable: Mapping[str, str]) -> Refusal | None:
    most = int(allocatable.get("pods", "110"))
    if len(admitted) + 1 > most:
        return "OutOfpods", _text("pods", 1, len(admitted), most)
    for name in sorted(_asked_names(pod)):
        asked, used = requested(pod, name), sum(requested(one, name) for one in admitted)
        most = _read(name, allocatable.get(name, "0"))
        if asked and asked + used > most:
            return f"OutOf{name}", _text(name, asked, used, most)
    return None


def _text(name: str, asked: int, used: int, most: int) -> str:
    return f"Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {most}"


def _asked_names(pod: Pod) -> set[str]:
    found = set(pod["spec"].get("overhead") or {})
    for group in ("initContainers", "containers"):
        for spec in specs(pod, group):
            found |= set((spec.get("resources") or {}).get("requests") or {})
    return found


def _read(name: str, value: str) -> int:
    return cpu_millis(value) if name == "cpu" else to_bytes(value)


def requested(pod: Pod, name: str) -> int:
    """Return how much of a resource a pod asks for: millicores of cpu, else bytes or a number.

    An init container needs its own beside the sidecars before it; the pod needs the larger of that and of what runs
    later. Source: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers
    """

    def ask(spec: Spec) -> int:
        return _read(name, ((spec.get("resources") or {}).get("requests") or {}).get(name, "0"))

    lasting = most = 0
    for spec in specs(pod, "initContainers"):
        if is_sidecar(spec):
            lasting += ask(spec)
            most = max(most, lasting)
        else:
            most = max(most, lasting + ask(spec))
    main = lasting + sum(ask(spec) for spec in specs(pod, "containers"))
    of_pod = ((pod["spec"].get("resources") or {}).get("requests") or {}).get(name)
    total = _read(name, of_pod) if of_pod is not None else max(main, most)
    return total + _read(name, (pod["spec"].get("overhead") or {}).get(name, "0"))
