"""Pods: defaults, validation and columns; pod templates of the workload kinds share them.

Defaults and rules: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from apiserver.registry import (
    affinity_rules,
    container_rules,
    names,
    pod_rules,
    resource_rules,
    security_rules,
    variable_rules,
    volume_rules,
    windows_rules,
)  # fmt: skip
from apiserver.registry.annotation_rules import annotation_causes
from apiserver.registry.columns import AGE, NAME, NONE
from apiserver.registry.kind import (
    Column,
    Object,
    Since,
    default_text,
    duplicate,
    forbidden,
    invalid,
    required,
    unsupported,
)  # fmt: skip
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

_MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
# Fields of a spec that are one of a few words.
_CHOICES = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
    "preemptionPolicy": ("PreemptLowerPriority", "Never"),
}
_PROBE_DEFAULTS = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
# Volume sources whose files get a mode, and under which field.
_MODED = ("configMap", "secret", "downwardAPI", "projected")
_TOKEN_SECONDS = 3600


def default_pod(pod: Object) -> None:
    """Fill in what a pod leaves open."""
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        _default_requests(container)
        if spec.get("hostNetwork"):
            _default_host_ports(container)
    if spec.get("resources"):
        resource_rules.default_pod_requests(spec)
    spec.setdefault("enableServiceLinks", True)


def default_pod_spec(spec: Object) -> None:
    """Fill in what a pod spec leaves open, in a pod or in a template."""
    default_text(spec, "restartPolicy", "Always")
    default_text(spec, "dnsPolicy", "ClusterFirst")
    default_text(spec, "schedulerName", "default-scheduler")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or ():
            _default_container(container)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def _default_container(container: Object) -> None:
    default_text(container, "terminationMessagePath", "/dev/termination-log")
    default_text(container, "terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    if image := container.get("image"):
        default_text(container, "imagePullPolicy", "Always" if _is_latest(image) else "IfNotPresent")
    for port in container.get("ports") or ():
        default_text(port, "protocol", "TCP")
    for env in container.get("env") or ():
        field_ref = (env.get("valueFrom") or {}).get("fieldRef")
        if field_ref is not None:
            default_text(field_ref, "apiVersion", "v1")
    for name in container_rules.PROBES:
        if probe := container.get(name):
            _default_probe(probe)
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _default_http_get(hook)


def _is_latest(image: str) -> bool:
    """Whether an image is named with the tag latest, or with none and no digest."""
    if "@" in image:
        return False
    tag = image.rpartition("/")[2].partition(":")[2]
    return tag in ("", "latest")


def _default_probe(probe: Object) -> None:
    for name, value in _PROBE_DEFAULTS.items():
        probe.setdefault(name, value)
    _default_http_get(probe)
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_http_get(handler: Object) -> None:
    if http_get := handler.get("httpGet"):
        default_text(http_get, "path", "/")
        default_text(http_get, "scheme", "HTTP")


def _default_host_ports(container: Object) -> None:
    """In the network of the node, ports are the node's."""
    for port in container.get("ports") or ():
        if port.get("containerPort") and not port.get("hostPort"):
            port["hostPort"] = port["containerPort"]


def _default_requests(container: Object) -> None:
    """A limit without a request asks for as much as it allows."""
    resources = container.setdefault("resources", {})
    if limits := resources.get("limits"):
        requests = resources.setdefault("requests", {})
        for name, value in limits.items():
            requests.setdefault(name, value)


def _default_volume(volume: Object) -> None:
    if set(volume) == {"name"}:
        volume["emptyDir"] = {}
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    for source in _MODED:
        if source in volume:
            volume[source].setdefault("defaultMode", 0o644)
    _default_field_refs(volume.get("downwardAPI") or {})
    for source in (volume.get("projected") or {}).get("sources") or ():
        if "serviceAccountToken" in source:
            source["serviceAccountToken"].setdefault("expirationSeconds", _TOKEN_SECONDS)
        _default_field_refs(source.get("downwardAPI") or {})


def _default_field_refs(source: Object) -> None:
    for item in source.get("items") or ():
        if "fieldRef" in item:
            default_text(item["fieldRef"], "apiVersion", "v1")


def prepare_pod(pod: Object) -> None:
    """Start a new pod's status, as the server does and not the client; put what its labels are into its selectors."""
    labels = pod["metadata"].get("labels") or {}
    for term in _terms(pod["spec"]) if labels else ():
        _merge_keys(term, labels)
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(pod["spec"])}


def _terms(spec: Object) -> Iterator[Object]:
    """Yield what may say that pods have to be like this one in some label."""
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        part = affinity.get(kind) or {}
        yield from part.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        for weighted in part.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            yield weighted.get("podAffinityTerm") or {}
    yield from spec.get("topologySpreadConstraints") or ()


def _merge_keys(term: Object, labels: Object) -> None:
    selector = term.get("labelSelector")
    if selector is None:
        return
    for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")):
        more = [
            {"key": key, "operator": operator, "values": [labels[key]]}
            for key in term.get(field) or ()
            if key in labels
        ]
        if more:
            selector["matchExpressions"] = [*(selector.get("matchExpressions") or ()), *more]


def qos_class(spec: Object) -> str:
    """Return Guaranteed, Burstable or BestEffort, from requests and limits of cpu and memory."""
    containers = (spec.get("containers") or []) + (spec.get("initContainers") or [])
    whole = spec.get("resources") or {}
    if whole.get("requests") or whole.get("limits"):  # what is given to the pod as a whole decides
        containers = [{"resources": whole}]
    guaranteed, any_set = True, False
    for container in containers:
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for name in ("cpu", "memory"):
            limit, request = parse_quantity(limits.get(name, "0")), parse_quantity(requests.get(name, "0"))
            any_set = any_set or bool(limit or request)
            guaranteed = guaranteed and bool(limit) and request in (0, limit)
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def validate_pod(pod: Object) -> list[Cause]:
    """Return what is wrong with a pod."""
    return [*annotation_causes(pod), *pod_spec_causes(pod.get("spec") or {}, "spec", pod=pod)]


def pod_spec_causes(
    spec: Object, path: str, claims: Iterable[str] = (), *, pod: Object | None = None
) -> Iterator[Cause]:
    """Yield what is wrong with a pod spec at `path`.

    Args: `claims` are names of volumes its pods will have besides; `pod` is given where the spec is of no template.
    """
    volumes, wrong = volume_rules.volumes_of(spec, path, pod)
    yield from wrong
    volumes.update({name: {"persistentVolumeClaim": {}} for name in claims})
    if device_claims := spec.get("resourceClaims"):
        yield from resource_rules.pod_claim_causes(device_claims, f"{path}.resourceClaims")
    yield from _containers_causes(spec, path, volumes, is_pod=pod is not None)
    yield from resource_rules.pod_resource_causes(spec, f"{path}.resources")
    yield from pod_rules.host_port_causes(spec, path, is_pod=pod is not None)
    yield from _scalar_causes(spec, path)
    yield from names.label_causes(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")
    yield from security_rules.pod_security_causes(spec, path)
    yield from affinity_rules.affinity_causes(spec.get("affinity") or {}, f"{path}.affinity")
    yield from pod_rules.gate_causes(spec, path)
    if spreads := spec.get("topologySpreadConstraints"):
        at = f"{path}.topologySpreadConstraints"
        yield from affinity_rules.spread_causes(spreads, at, is_pod=pod is not None)
    yield from pod_rules.name_causes(spec, path)
    yield from pod_rules.spec_causes(spec, path)
    if (overhead := spec.get("overhead")) is not None:  # judged as the limits of a container
        yield from resource_rules.resource_causes({"limits": overhead}, f"{path}.overhead")
    yield from windows_rules.system_causes(spec, path)


def _scalar_causes(spec: Object, path: str) -> Iterator[Cause]:
    for field, known in _CHOICES.items():
        if (value := spec.get(field)) is not None and value not in known:
            yield unsupported(f"{path}.{field}", value, known)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline < 2**31:
        yield invalid(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")


def _containers_causes(spec: Object, path: str, volumes: Mapping[str, Object], *, is_pod: bool) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    taken: set[str] = set()
    grace = spec.get("terminationGracePeriodSeconds", 30)
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(group) or ()):
            at = f"{path}.{group}[{index}]"
            yield from _container_causes(container, at, spec, volumes, is_pod=is_pod)
            name = container.get("name", "")
            if name in taken:
                yield duplicate(f"{at}.name", name)
            elif name:
                taken.add(name)
            if group == "initContainers":
                yield from _init_causes(container, at)
            if group == "containers" or container.get("restartPolicy") == "Always":
                yield from container_rules.hook_causes(container, at, grace)
                yield from container_rules.probe_causes(container, at)


def _container_causes(
    container: Object, path: str, spec: Object, volumes: Mapping[str, Object], *, is_pod: bool
) -> Iterator[Cause]:
    name, image = container.get("name", ""), container.get("image") or ""
    if name and (wrong := names.dns_label(name)):
        yield invalid(f"{path}.name", name, wrong)
    if not image:
        yield required(f"{path}.image")
    elif is_pod and image != image.strip():
        yield invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    for field, known in (("terminationMessagePolicy", _MESSAGE_POLICIES), ("imagePullPolicy", _PULL_POLICIES)):
        if container.get(field, known[0]) not in known:
            yield unsupported(f"{path}.{field}", container[field], known)
    yield from container_rules.port_causes(container, path)
    yield from variable_rules.variable_causes(container, path)
    yield from variable_rules.env_file_causes(container, path, spec.get("volumes") or ())
    yield from volume_rules.mount_causes(container, volumes, path)
    if resources := container.get("resources"):
        claims = [one.get("name", "") for one in spec.get("resourceClaims") or ()]
        yield from resource_rules.resource_causes(resources, f"{path}.resources", claims)
    yield from container_rules.resize_causes(container, path, spec.get("restartPolicy", ""))
    yield from container_rules.restart_causes(container, path)
    if context := container.get("securityContext"):
        host_users = spec.get("hostUsers") is not False
        yield from security_rules.container_security_causes(context, f"{path}.securityContext", host_users=host_users)


def _init_causes(container: Object, path: str) -> Iterator[Cause]:
    if container.get("restartPolicy") == "Always":
        return
    for field in ("lifecycle", *container_rules.PROBES):
        if container.get(field):
            yield forbidden(f"{path}.{field}", "may not be set for init containers without restartPolicy=Always")


def _ready_text(pod: Object) -> str:
    total = len(pod["spec"].get("containers") or ())
    total += sum(one.get("restartPolicy") == "Always" for one in pod["spec"].get("initContainers") or ())
    statuses = pod.get("status", {}).get("containerStatuses") or []
    sidecars = {one["name"] for one in pod["spec"].get("initContainers") or () if one.get("restartPolicy") == "Always"}
    init = [one for one in pod.get("status", {}).get("initContainerStatuses") or () if one["name"] in sidecars]
    ready = sum(bool(one.get("ready") and "running" in (one.get("state") or {})) for one in statuses)
    ready += sum(bool(one.get("ready")) for one in init)
    return f"{ready}/{total}"


def status_text(pod: Object) -> str:
    """Return what kubectl shows under STATUS: a phase, or the reason that tells more.

    Source: the rules of the server-side printer, https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
    """
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase") or "Unknown"
    if any(
        c.get("type") == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in status.get("conditions") or ()
    ):
        reason = "SchedulingGated"
    reason = _init_reason(pod) or _container_reason(status, reason)
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return reason


def _init_reason(pod: Object) -> str:
    specs = {one["name"]: one for one in pod["spec"].get("initContainers") or ()}
    for index, status in enumerate((pod.get("status") or {}).get("initContainerStatuses") or ()):
        state = status.get("state") or {}
        sidecar = specs.get(status["name"], {}).get("restartPolicy") == "Always"
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and terminated.get("exitCode") == 0:
            continue
        if sidecar and status.get("started"):
            continue
        if terminated is not None:
            return "Init:" + _exit_text(terminated)
        if waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{len(specs)}"
    return ""


def _exit_text(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _container_reason(status: Object, reason: str) -> str:
    running = False
    for container in reversed(status.get("containerStatuses") or ()):
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif "terminated" in state:
            reason = _exit_text(state["terminated"])
        elif container.get("ready") and "running" in state:
            running = True
    if reason == "Completed" and running:
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
        reason = "Running" if ready else "NotReady"
    return reason


def _restarts(pod: Object) -> Since | str:
    status = pod.get("status") or {}
    statuses = (status.get("containerStatuses") or []) + [
        one for one in status.get("initContainerStatuses") or () if one.get("started")
    ]
    total = sum(one.get("restartCount", 0) for one in statuses)
    ends = [(one.get("lastState") or {}).get("terminated", {}).get("finishedAt") for one in statuses]
    last = max((end for end in ends if end), default=None)
    return Since(last, f"{total} (", " ago)") if total and last else str(total)


def _readiness_gates(pod: Object) -> str:
    gates = pod["spec"].get("readinessGates") or ()
    if not gates:
        return NONE
    conditions = {c["type"]: c["status"] for c in (pod.get("status") or {}).get("conditions") or ()}
    return f"{sum(conditions.get(gate['conditionType']) == 'True' for gate in gates)}/{len(gates)}"


def _status_field(field: str) -> Any:
    return lambda pod: (pod.get("status") or {}).get(field) or NONE


POD_COLUMNS = (
    NAME,
    Column("Ready", _ready_text, description="The aggregate readiness state of this pod for accepting traffic."),
    Column("Status", status_text, description="The aggregate status of the containers in this pod."),
    Column("Restarts", _restarts, description="The number of times the containers in this pod have been restarted."),
    AGE,
    Column("IP", _status_field("podIP"), priority=1),
    Column("Node", lambda pod: pod["spec"].get("nodeName") or NONE, priority=1),
    Column("Nominated Node", _status_field("nominatedNodeName"), priority=1),
    Column("Readiness Gates", _readiness_gates, priority=1),
)
