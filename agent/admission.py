"""Whether a node takes a pod that was bound to it; a refusal becomes the pod's end, with a reason.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/ (the node checks again what the scheduler found)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from agent.pod_state import Pod, Spec, is_sidecar, is_static, specs
from agent.security import forbidden_sysctl, merged
from machinery.api.placement import pod_selects_node, untolerated
from machinery.api.quantity import cpu_millis, to_bytes

Refusal = tuple[str, str]  # reason and message
_ANY = "0.0.0.0"  # noqa: S104 - the word for every address, not one to listen on


def refusal(
    pod: Pod, admitted: Iterable[Pod], allocatable: Mapping[str, str], node: Mapping[str, Any], *, apparmor: bool,
    allows_sysctl: Callable[[str], bool] = lambda _: False,
) -> Refusal | None:  # fmt: skip
    """Return reason and message when the node can't take a pod beside those it has; None when it can.

    Args: `node` is the Node object, empty while it isn't known; `apparmor` tells whether this host has AppArmor;
    `allows_sysctl` whether an administrator allowed one that is not safe by itself.
    """
    if text := forbidden_sysctl(pod, allows_sysctl):
        return "SysctlForbidden", text
    if not apparmor and (text := _apparmor_needed(pod)):
        return "AppArmor", text
    others = list(admitted)
    # Resources that nobody here knows of are others' business: the node's status tells of those an administrator added.
    known = {**((node.get("status") or {}).get("allocatable") or {}), **allocatable}
    return _short_of(pod, others, known) or _misplaced(pod, others, node)


def _apparmor_needed(pod: Pod) -> str:
    for group in ("initContainers", "containers"):
        for spec in specs(pod, group):
            profile = merged(pod, spec).get("appArmorProfile") or {}
            if profile.get("type") in ("Localhost", "RuntimeDefault"):
                return "Cannot enforce AppArmor: AppArmor is not enabled on the host"
    return ""


def _misplaced(pod: Pod, admitted: list[Pod], node: Mapping[str, Any]) -> Refusal | None:
    metadata, spec = node.get("metadata"), pod["spec"]
    if metadata and not pod_selects_node(spec, metadata["name"], metadata.get("labels") or {}):
        return _failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
    if any(_clash(ours, theirs) for one in admitted for theirs in _host_ports(one) for ours in _host_ports(pod)):
        return _failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
    taints = (node.get("spec") or {}).get("taints") or ()
    if not is_static(pod) and untolerated(taints, spec.get("tolerations") or (), ("NoExecute",)) is not None:
        return _failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
    return None


def _failed(predicate: str, why: str) -> Refusal:
    return predicate, f"Predicate {predicate} failed: {why}"


def _host_ports(pod: Pod) -> Iterator[tuple[int, str, str]]:
    """Yield port, protocol and address of each port of the node that a pod takes."""
    lasting = [one for one in specs(pod, "initContainers") if is_sidecar(one)]
    for spec in (*lasting, *specs(pod, "containers")):
        for port in spec.get("ports") or ():
            if port.get("hostPort"):
                yield port["hostPort"], port.get("protocol") or "TCP", port.get("hostIP") or _ANY


def _clash(one: tuple[int, str, str], other: tuple[int, str, str]) -> bool:
    return one[:2] == other[:2] and (one[2] == other[2] or _ANY in (one[2], other[2]))


def _short_of(pod: Pod, admitted: list[Pod], allocatable: Mapping[str, str]) -> Refusal | None:
    most = int(allocatable.get("pods", "110"))
    if len(admitted) + 1 > most:
        return "OutOfpods", _text("pods", 1, len(admitted), most)
    for name in sorted(_asked_names(pod) - _from_claims(pod)):
        if name not in allocatable and _is_extended(name):
            continue
        asked, used = requested(pod, name), sum(requested(one, name) for one in admitted)
        most = _read(name, allocatable.get(name, "0"))
        if asked and asked + used > most:
            return f"OutOf{name}", _text(name, asked, used, most)
    return None


def missing(pod: Pod, admitted: Iterable[Pod], allocatable: Mapping[str, str]) -> dict[str, int]:
    """Return how much of what a node lacks to take a pod beside those it has."""
    others = list(admitted)
    found = {"pods": len(others) + 1 - int(allocatable.get("pods", "110"))}
    for name in _asked_names(pod) & allocatable.keys():
        used = sum(requested(one, name) for one in others)
        found[name] = requested(pod, name) + used - _read(name, allocatable[name])
    return {name: amount for name, amount in found.items() if amount > 0}


def _from_claims(pod: Pod) -> set[str]:
    """Return the extended resources that devices stand for which the pod has been given already."""
    told = (pod.get("status") or {}).get("extendedResourceClaimStatus") or {}
    return {one["resourceName"] for one in told.get("requestMappings") or ()}


def _is_extended(name: str) -> bool:
    """Whether a resource is one that only administrators and device plugins know of."""
    return "/" in name and "kubernetes.io/" not in name


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
