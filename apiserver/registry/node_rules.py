"""Rules and defaults of a node: its taints, its ranges of addresses for pods, what of its resources pods may take.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
"""

import ipaddress
from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, duplicate, invalid, required, unsupported
from machinery.errors import Cause

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def default_node(node: Object) -> None:
    """All of a node's capacity may be allocated, where nobody says how much."""
    status = node.get("status") or {}
    if status.get("capacity") and status.get("allocatable") is None:
        status["allocatable"] = dict(status["capacity"])


def node_causes(node: Object) -> Iterator[Cause]:
    """Yield what is wrong with a node's spec."""
    spec, seen = node.get("spec") or {}, set()
    for index, taint in enumerate(spec.get("taints") or ()):
        path = f"spec.taints[{index}]"
        key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect", "")
        if wrong := names.qualified_name(key):
            yield invalid(f"{path}.key", key, wrong)
        if wrong := names.label_value(value):
            yield invalid(f"{path}.value", value, wrong)
        if not effect:
            yield required(f"{path}.effect")
        elif effect not in _EFFECTS:
            yield unsupported(f"{path}.effect", effect, _EFFECTS)
        if (key, effect) in seen:
            twice = duplicate(path, taint)
            yield Cause(twice.reason, f"{twice.message}: taints must be unique by key and effect pair", path)
        seen.add((key, effect))
    yield from _range_causes(spec.get("podCIDRs") or ())


def _range_causes(blocks: list[str] | tuple[str, ...]) -> Iterator[Cause]:
    versions = []
    for index, block in enumerate(blocks):
        try:
            versions.append(ipaddress.ip_network(block, strict=False).version)
        except ValueError:
            why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield invalid(f"spec.podCIDRs[{index}]", block, why)
    if len(set(versions)) < len(versions):
        yield invalid("spec.podCIDRs", list(blocks), "may specify no more than one CIDR for each IP family")
