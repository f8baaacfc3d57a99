"""What a pod asks for, in whole numbers: millicores of cpu, bytes of memory, units of everything else.

Source: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers
and https://kubernetes.io/docs/concepts/scheduling-eviction/pod-overhead/
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from machinery.api.quantity import cpu_millis, to_bytes

Amounts = Mapping[str, int]

# What a container that asks for nothing is taken for when nodes are compared, so that many of them spread all the same.
SCORED_CPU_MILLIS, SCORED_MEMORY_BYTES = 100, 200 * 1024 * 1024
_SCORED = {"cpu": SCORED_CPU_MILLIS, "memory": SCORED_MEMORY_BYTES}


class Resources(Protocol):
    """A container's resources."""

    requests: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Running:
    """What a node has given a pod that runs: to its containers by name, and to the whole."""

    containers: Mapping[str, Mapping[str, Any]]
    whole: Mapping[str, Any]
    keeps: bool = False
    """It asks for something else that the node can never give: what it has is what counts."""


class Container(Protocol):
    """A container, as far as its requests go."""

    name: str
    restartPolicy: str | None
    resources: Any


@lru_cache(maxsize=4096)
def _amount(resource: str, text: Any) -> int:
    return cpu_millis(text) if resource == "cpu" else to_bytes(text)


def amount(resource: str, text: Any) -> int:
    """Return a quantity as the scheduler counts it."""
    return _amount(resource, text)


def amounts(given: Mapping[str, Any] | None) -> dict[str, int]:
    """Return a list of quantities as the scheduler counts them."""
    return {name: _amount(name, text) for name, text in (given or {}).items()}


def larger(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the larger quantity of each resource, as it is written."""
    found = dict(one or {})
    for name, text in (other or {}).items():
        if name not in found or _amount(name, text) > _amount(name, found[name]):
            found[name] = text
    return found


def requests_of(
    containers: Iterable[Container],
    init_containers: Iterable[Container] = (),
    *,
    overhead: Mapping[str, Any] | None = None,
    whole: Mapping[str, Any] | None = None,
    running: Running | None = None,
    defaults: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return what a pod asks for: its containers together, or its largest init container if that is more.

    Args:
        containers: those that run side by side.
        init_containers: those that run before, one by one; a sidecar among them stays.
        overhead: what the runtime class adds.
        whole: requests of the pod as a whole, which take the place of the sum.
        running: what the node has given a pod that is being resized; the larger counts.
        defaults: what a container that does not say is taken for.
    """

    def of(container: Container) -> dict[str, int]:
        found = amounts(container.resources.requests if container.resources else None)
        given = amounts(running.containers.get(container.name)) if running is not None else {}
        if running is not None and running.keeps and given:
            found = given
        _raise(found, given)
        return {**(defaults or {}), **found}

    total: dict[str, int] = {}
    for container in containers:
        _add(total, of(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in init_containers:
        asked = of(container)
        if container.restartPolicy == "Always":
            _add(sidecars, asked)
            asked = {}
        together = dict(sidecars)
        _add(together, asked)
        _raise(peak, together)
    _add(total, sidecars)
    _raise(total, peak)
    of_whole, given = amounts(whole), amounts(running.whole) if running is not None and whole else {}
    if running is not None and running.keeps and given:
        of_whole = given
    _raise(of_whole, given)
    total.update(of_whole)
    _add(total, amounts(overhead))
    return total


def scored_requests_of(
    containers: Iterable[Container], init_containers: Iterable[Container], overhead: Mapping[str, Any]
) -> tuple[int, int]:
    """Return the cpu (millicores) and memory (bytes) a pod counts for when nodes are compared."""
    found = requests_of(containers, init_containers, overhead=overhead, defaults=_SCORED)
    return found.get("cpu", 0), found.get("memory", 0)


def _add(total: dict[str, int], more: Amounts) -> None:
    for name, number in more.items():
        total[name] = total.get(name, 0) + number


def _raise(total: dict[str, int], other: Amounts) -> None:
    for name, number in other.items():
        total[name] = max(total.get(name, 0), number)
