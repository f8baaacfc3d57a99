"""From a metric of an autoscaler's spec to the number of replicas it calls for, and how the status shows it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controllers.hpa_behavior import TOLERANCE
from controllers.hpa_metrics import MetricsReader, thousandths
from controllers.hpa_replicas import Outcome, Sample, Tolerances, Unknown, by_total, by_utilization, by_value
from controllers.hpa_views import Rules
from controllers.views import Pod, Resources
from machinery.api.meta import Resource
from machinery.api.quantity import format_quantity, parse_quantity
from machinery.errors import APIError

FindResource = Callable[[str, str], Awaitable[Resource]]


@dataclass(frozen=True, slots=True)
class ScaleTarget:
    """What is scaled: its resource and name, its selector and pods, the replicas it shall have and has."""

    resource: Resource
    name: str
    namespace: str
    selector: str
    replicas: int
    actual: int
    pods: Sequence[Pod]


@dataclass(frozen=True, slots=True)
class Proposal:
    """How many replicas a metric calls for, its name in messages, and its entry in the status."""

    replicas: int
    name: str
    status: dict[str, Any]


def quantity(value: int) -> str:
    """Return thousandths as a quantity."""
    return format_quantity(parse_quantity(f"{value}m"))


class MetricValues:
    """Works out proposals."""

    def __init__(self, reader: MetricsReader, find_resource: FindResource) -> None:
        self._reader = reader
        self._find_resource = find_resource

    async def propose(
        self, metric: Mapping[str, Any], target: ScaleTarget, rules: tuple[Rules, Rules], *, at: datetime
    ) -> Proposal:
        """Return what a metric calls for. Raises: Unknown, in upstream's words; APIError."""
        tolerances = Tolerances(_tolerance(rules[1]), _tolerance(rules[0]))
        match metric["type"]:
            case "Resource":
                return await self._of_resource(metric, "resource", target, tolerances, at)
            case "ContainerResource":
                return await self._of_resource(metric, "containerResource", target, tolerances, at)
            case "Pods":
                return await self._of_pods(metric, target, tolerances, at)
            case "Object":
                return await self._of_object(metric, target, tolerances)
            case "External":
                return await self._of_external(metric, target, tolerances)
            case other:
                raise Unknown(f'unknown metric source type "{other}"')

    async def _of_resource(
        self, metric: Mapping[str, Any], field: str, target: ScaleTarget, tolerances: Tolerances, at: datetime
    ) -> Proposal:
        source = metric[field]
        name, container, wanted = source["name"], source.get("container", ""), source["target"]
        utilization = wanted.get("averageUtilization")
        kind = "utilization" if utilization is not None else "resource metric value"
        try:
            samples = await self._reader.of_resource(name, target.namespace, target.selector, container)
            outcome = _by_resource(target, samples, name, container, wanted, tolerances, at)
        except Unknown as error:
            raise Unknown(f"failed to get {name} {kind}: {_unable(name, error)}") from error
        current: dict[str, Any] = {"averageValue": quantity(outcome.average_value)}
        if outcome.average_utilization is not None:
            current["averageUtilization"] = outcome.average_utilization
        shown = {"name": name, "current": current, **({"container": container} if container else {})}
        called = f"{name} container resource" if container else f"{name} resource"
        what = "utilization (percentage of request)" if utilization is not None else ""
        return Proposal(outcome.replicas, f"{called} {what}".strip(), {"type": metric["type"], field: shown})

    async def _of_pods(
        self, metric: Mapping[str, Any], target: ScaleTarget, tolerances: Tolerances, at: datetime
    ) -> Proposal:
        source = metric["pods"]
        name, wanted = source["metric"]["name"], thousandths(source["target"]["averageValue"])
        try:
            samples = await self._reader.of_pods(source["metric"], target.namespace, target.selector)
            outcome = by_value(
                list(target.pods), samples, target.replicas, wanted, cpu=False, tolerances=tolerances, at=at
            )
        except Unknown as error:
            raise Unknown(f"failed to get pods metric value: unable to get metric {name}: {error}") from error
        shown = {"metric": source["metric"], "current": {"averageValue": quantity(outcome.average_value)}}
        return Proposal(outcome.replicas, f"pods metric {name}", {"type": "Pods", "pods": shown})

    async def _of_object(self, metric: Mapping[str, Any], target: ScaleTarget, tolerances: Tolerances) -> Proposal:
        source = metric["object"]
        name, about = source["metric"]["name"], source["describedObject"]
        try:
            resource = await self._find_resource(about.get("apiVersion", ""), about["kind"])
            total = await self._reader.of_object(source["metric"], target.namespace, resource, about["name"])
        except (Unknown, APIError) as error:
            where = f"{about['kind']} on {target.namespace} {about['name']}/"
            raise Unknown(f"failed to get object metric value: unable to get metric {name}: {where}{error}") from error
        replicas, current = _by_total(total, source["target"], target, tolerances)
        shown = {"metric": source["metric"], "describedObject": about, "current": current}
        return Proposal(replicas, f"{about['kind']} metric {name}", {"type": "Object", "object": shown})

    async def _of_external(self, metric: Mapping[str, Any], target: ScaleTarget, tolerances: Tolerances) -> Proposal:
        source = metric["external"]
        name = source["metric"]["name"]
        try:
            total = await self._reader.of_external(source["metric"], target.namespace)
        except Unknown as error:
            where = f"unable to get external metric {target.namespace}/{name}"
            raise Unknown(f"failed to get {name} external metric value: {where}: {error}") from error
        replicas, current = _by_total(total, source["target"], target, tolerances)
        shown = {"metric": source["metric"], "current": current}
        return Proposal(replicas, f"external metric {name}", {"type": "External", "external": shown})


def _unable(name: str, error: Unknown) -> str:
    text = str(error)
    from_server = text.startswith(("unable to fetch", "no metrics returned from"))
    return f"unable to get metrics for resource {name}: {text}" if from_server else text


def _tolerance(rules: Rules) -> float:
    return TOLERANCE if rules.tolerance is None else float(parse_quantity(rules.tolerance))


def _by_resource(
    target: ScaleTarget, samples: Mapping[str, Sample], name: str, container: str, wanted: Mapping[str, Any],
    tolerances: Tolerances, at: datetime,
) -> Outcome:  # fmt: skip
    pods, cpu, current = list(target.pods), name == "cpu", target.replicas
    if wanted.get("averageUtilization") is None:
        value = thousandths(wanted["averageValue"])
        return by_value(pods, samples, current, value, cpu=cpu, tolerances=tolerances, at=at)
    requests = {pod.metadata.name: requested(pod, name, container) for pod in pods}
    share = int(wanted["averageUtilization"])
    return by_utilization(pods, samples, requests, current, share, cpu=cpu, tolerances=tolerances, at=at)


def requested(pod: Pod, name: str, container: str = "") -> int:
    """Return how much of a resource a pod asks for, in thousandths. Raises: Unknown when a container does not say."""
    whole = _asked(pod.spec.resources, name)
    if whole is not None and not container:
        return thousandths(whole)
    sidecars = [one for one in pod.spec.initContainers if one.restartPolicy == "Always"]
    total, found = 0, False
    for one in (*pod.spec.containers, *sidecars):
        if container and one.name != container:
            continue
        asked = _asked(one.resources, name)
        if asked is None:
            raise Unknown(f"missing request for {name} in container {one.name} of Pod {pod.metadata.name}")
        total, found = total + thousandths(asked), True
    if container and not found:
        raise Unknown(f"container {container} not found in Pod {pod.metadata.name}")
    return total


def _asked(found: Resources | None, name: str) -> str | float | None:
    requests = found.requests if found is not None else None
    if requests is None:
        return None
    return requests.cpu if name == "cpu" else requests.memory if name == "memory" else None


def _by_total(
    total: int, wanted: Mapping[str, Any], target: ScaleTarget, tolerances: Tolerances
) -> tuple[int, dict[str, Any]]:
    """Return the replicas that a value for the whole target calls for, and how it is shown."""
    ready = sum(pod.status.phase == "Running" and pod.is_ready for pod in target.pods)
    if wanted.get("averageValue") is not None:
        value = thousandths(wanted["averageValue"])
        replicas = by_total(total, value, target.actual, ready, average=True, tolerances=tolerances)
        if target.actual and tolerances.hold(total / (value * target.actual)):
            replicas = target.replicas
        return replicas, {"averageValue": quantity(-(-total // max(target.actual, 1)))}
    value = thousandths(wanted["value"])
    replicas = by_total(total, value, target.replicas, ready, average=False, tolerances=tolerances)
    return replicas, {"value": quantity(total)}
