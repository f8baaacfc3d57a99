"""What a container may ask for: resources, probes, hooks, and variables taken from elsewhere.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Container
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry import names
from apiserver.registry.kind import Object, forbidden, invalid, required, unsupported
from apiserver.registry.pod_rules import port_name_problem
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_STANDARD = ("cpu", "ephemeral-storage", "memory")
_HUGE = "hugepages-"
_SCHEMES = ("HTTP", "HTTPS")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS = ("exec", "httpGet", "tcpSocket", "sleep")
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_ENV_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
_ENV_RESOURCES = tuple(sorted(f"{group}.{name}" for group in ("limits", "requests") for name in _STANDARD))
_PORT_RULE = "must be between 1 and 65535, inclusive"


def resource_causes(resources: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with requests and limits."""
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for group, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            yield from _amount_causes(name, value, f"{path}.{group}[{name}]")
    for name, value in requests.items():
        yield from _request_causes(name, value, limits, path)
    huge = [name for name in (*limits, *requests) if name.startswith(_HUGE)]
    if huge and not any(name in ("cpu", "memory") for name in (*limits, *requests)):
        yield forbidden(path, "HugePages require cpu or memory")


def _amount_causes(name: str, value: str, path: str) -> Iterator[Cause]:
    if "/" not in name and name not in _STANDARD and not name.startswith(_HUGE):
        yield invalid(path, name, "must be a standard resource type or fully qualified")
        yield invalid(path, name, "must be a standard resource for containers")
    elif "/" in name and (wrong := names.qualified_name(name)):
        yield invalid(path, name, wrong)
    amount = parse_quantity(value)
    if amount < 0:
        yield invalid(path, value, "must be greater than or equal to 0")
    if not _may_exceed(name) and not name.startswith(_HUGE) and amount != int(amount):
        yield invalid(path, value, "must be an integer")


def _request_causes(name: str, value: str, limits: Object, path: str) -> Iterator[Cause]:
    if name not in limits:
        if not _may_exceed(name):
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        return
    asked, allowed = parse_quantity(value), parse_quantity(limits[name])
    if asked != allowed and not _may_exceed(name):
        yield invalid(f"{path}.requests", value, f"must be equal to {name} limit of {limits[name]}")
    elif asked > allowed:
        yield invalid(f"{path}.requests", value, f"must be less than or equal to {name} limit of {limits[name]}")


def _may_exceed(name: str) -> bool:
    """Whether more of a resource may be promised than there is."""
    domain, slash, _ = name.partition("/")
    own = not slash or domain == "kubernetes.io" or domain.endswith(".kubernetes.io")
    return own and not name.startswith(_HUGE)


def probe_causes(probe: Any, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a probe."""
    if not probe:
        return
    yield from _handler_causes(probe, _HANDLERS, path)
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(field, 0) < 0:
            yield invalid(f"{path}.{field}", probe[field], "must be greater than or equal to 0")
    grace = probe.get("terminationGracePeriodSeconds")
    if path.endswith("readinessProbe"):
        if grace is not None:
            yield invalid(f"{path}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes")
        return
    if grace is not None and grace <= 0:
        yield invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
    if probe.get("successThreshold", 1) != 1:
        yield invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def hook_causes(container: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with what a container does after its start and before its end."""
    lifecycle = container.get("lifecycle") or {}
    for name in ("postStart", "preStop"):
        if name in lifecycle:
            yield from _handler_causes(lifecycle[name], _HOOKS, f"{path}.lifecycle.{name}")


def _handler_causes(handler: Object, known: tuple[str, ...], path: str) -> Iterator[Cause]:
    given = [name for name in known if name in handler]
    if not given:
        yield required(path, "must specify a handler type")
    for extra in given[1:]:
        yield forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    if not given:
        return
    name, at = given[0], f"{path}.{given[0]}"
    if name == "exec" and not handler["exec"].get("command"):
        yield required(f"{at}.command")
    if name in ("httpGet", "tcpSocket", "grpc"):
        yield from _port_causes(handler[name].get("port"), f"{at}.port")
    if name == "httpGet" and handler[name].get("scheme", "HTTP") not in _SCHEMES:
        yield unsupported(f"{at}.scheme", handler[name]["scheme"], _SCHEMES)


def _port_causes(port: Any, path: str) -> Iterator[Cause]:
    if isinstance(port, int) and not 0 < port < 65536:
        yield invalid(path, port, _PORT_RULE)
    if isinstance(port, str) and port and (wrong := port_name_problem(port)):
        yield invalid(path, port, wrong)


def variable_causes(container: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with where a container's variables come from."""
    for index, variable in enumerate(container.get("env") or ()):
        if (source := variable.get("valueFrom")) is not None:
            yield from _source_causes(source, f"{path}.env[{index}].valueFrom")
    for index, source in enumerate(container.get("envFrom") or ()):
        at = f"{path}.envFrom[{index}]"
        given = [name for name in ("configMapRef", "secretRef") if name in source]
        if not given:
            yield invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
        if len(given) > 1:
            yield invalid(at, "", "may not have more than one field specified at a time")
        if given and not source[given[0]].get("name"):
            yield required(f"{at}.{given[0]}.name")


def _source_causes(source: Object, path: str) -> Iterator[Cause]:
    given = [name for name in _SOURCES if name in source]
    if not given:
        known = ", ".join(f"`{name}`" for name in _SOURCES[:-1])
        yield invalid(path, "", f"must specify one of: {known} or `{_SOURCES[-1]}`")
    if len(given) > 1:
        yield invalid(path, "", "may not have more than one field specified at a time")
    if field := (source.get("fieldRef") or {}).get("fieldPath"):
        yield from _field_causes(field, f"{path}.fieldRef.fieldPath")
    resource = (source.get("resourceFieldRef") or {}).get("resource")
    if resource and resource not in _ENV_RESOURCES and ".hugepages-" not in resource:
        yield unsupported(f"{path}.resourceFieldRef.resource", resource, _ENV_RESOURCES)
    for name in ("configMapKeyRef", "secretKeyRef"):
        if name in source and not source[name].get("name"):
            yield required(f"{path}.{name}.name")


def _field_causes(field: str, path: str) -> Iterator[Cause]:
    base, bracket, rest = field.partition("[")
    if bracket:
        if base not in ("metadata.annotations", "metadata.labels"):
            yield invalid(path, field, "does not support subscript")
        elif not (rest.startswith("'") and rest.endswith("']")):
            yield invalid(path, field, f"error converting fieldPath: field label not supported: {field}")
    elif field in ("metadata.annotations", "metadata.labels"):
        yield unsupported(path, field, _ENV_FIELDS)
    elif field not in _ENV_FIELDS:
        yield invalid(path, field, f"error converting fieldPath: field label not supported: {field}")
