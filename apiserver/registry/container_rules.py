"""What a container may say of itself beside its resources and variables: ports, probes, hooks, restarts.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Container
"""

import re
from collections.abc import Iterator
from typing import Any

from apiserver.registry.kind import Object, duplicate, forbidden, invalid, required, too_many, unsupported
from apiserver.registry.pod_rules import port_name_problem
from machinery.errors import Cause

PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_SCHEMES = ("HTTP", "HTTPS")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS = ("exec", "httpGet", "tcpSocket", "sleep")
_PORT_RULE = "must be between 1 and 65535, inclusive"
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_HEADER_RULE = (
    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for "
    "validation is '[-A-Za-z0-9]+')"
)
_RESTARTS = ("Always", "OnFailure", "Never")
_ACTIONS = ("Restart", "RestartAllContainers")
_OPERATORS = ("In", "NotIn")
_MAX_RULES, _MAX_CODES = 20, 255
_RESIZED = ("cpu", "memory")
_RESIZES = ("NotRequired", "RestartContainer")


def restart_causes(container: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with when a container begins anew by rules of its own."""
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or ()
    if policy is None and rules:
        yield required(f"{path}.restartPolicy", "must specify restartPolicy when restart rules are used")
    elif policy is not None and policy not in _RESTARTS:
        yield unsupported(f"{path}.restartPolicy", policy, _RESTARTS)
    if len(rules) > _MAX_RULES:
        yield too_many(f"{path}.restartPolicyRules", len(rules), _MAX_RULES)
    for index, rule in enumerate(rules):
        at = f"{path}.restartPolicyRules[{index}]"
        if rule.get("action") not in _ACTIONS:
            yield unsupported(f"{at}.action", rule.get("action"), _ACTIONS)
        codes = rule.get("exitCodes")
        if codes is None:
            yield required(f"{at}.exitCodes", "must be specified")
            continue
        if codes.get("operator") not in _OPERATORS:
            yield unsupported(f"{at}.exitCodes.operator", codes.get("operator"), _OPERATORS)
        if (count := len(codes.get("values") or ())) > _MAX_CODES:
            yield too_many(f"{at}.exitCodes.values", count, _MAX_CODES)


def resize_causes(container: Object, path: str, pod_policy: str) -> Iterator[Cause]:
    """Yield what is wrong with how a container takes other resources. Args: `pod_policy` says when the pod restarts."""
    seen = set()
    at = f"{path}.resizePolicy"
    for index, one in enumerate(container.get("resizePolicy") or ()):
        name, policy = one.get("resourceName"), one.get("restartPolicy")
        if name in seen:
            yield duplicate(f"{at}[{index}]", name)
        seen.add(name)
        for value, known in ((name, _RESIZED), (policy, _RESIZES)):
            if not value:
                yield required(at)
            elif value not in known:
                yield unsupported(at, value, known)
        if pod_policy == "Never" and policy != "NotRequired":
            yield invalid(at, policy, "must be 'NotRequired' when `restartPolicy` is 'Never'")


def port_causes(container: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the ports a container tells of."""
    seen: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        at, name = f"{path}.ports[{index}]", port.get("name") or ""
        if name and (wrong := port_name_problem(name)):
            yield invalid(f"{at}.name", name, wrong)
        elif name and name in seen:
            yield duplicate(f"{at}.name", name)
        seen.add(name)
        for field in ("containerPort", "hostPort"):
            if (number := port.get(field)) and not 0 < number < 65536:
                yield invalid(f"{at}.{field}", number, _PORT_RULE)
        if not port.get("containerPort"):
            yield required(f"{at}.containerPort")
        if port.get("protocol", "TCP") not in _PROTOCOLS:
            yield unsupported(f"{at}.protocol", port["protocol"], _PROTOCOLS)


def probe_causes(container: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a container's probes."""
    for name in PROBES:
        if probe := container.get(name):
            yield from _probe_causes(probe, f"{path}.{name}", is_readiness=name == "readinessProbe")


def _probe_causes(probe: Object, path: str, *, is_readiness: bool) -> Iterator[Cause]:
    yield from _handler_causes(probe, _HANDLERS, path, None)
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(field, 0) < 0:
            yield invalid(f"{path}.{field}", probe[field], "must be greater than or equal to 0")
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        yield invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
    if is_readiness:
        if grace is not None:
            yield invalid(f"{path}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes")
    elif probe.get("successThreshold", 1) != 1:
        yield invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def hook_causes(container: Object, path: str, grace_seconds: int) -> Iterator[Cause]:
    """Yield what is wrong with what a container does after its start and before its end.

    Args: `grace_seconds` is the time its pod has to end.
    """
    lifecycle = container.get("lifecycle") or {}
    for name in ("postStart", "preStop"):
        if name in lifecycle:
            yield from _handler_causes(lifecycle[name], _HOOKS, f"{path}.lifecycle.{name}", grace_seconds)


def _handler_causes(handler: Object, known: tuple[str, ...], path: str, grace_seconds: int | None) -> Iterator[Cause]:
    given = [name for name in known if name in handler]
    for extra in given[1:]:
        yield forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    if not given:
        yield required(path, "must specify a handler type")
        return
    name, at = given[0], f"{path}.{given[0]}"
    if name == "exec" and not handler["exec"].get("command"):
        yield required(f"{at}.command")
    if name in ("httpGet", "tcpSocket", "grpc"):
        yield from _handler_port_causes(handler[name].get("port"), f"{at}.port")
    if name == "httpGet":
        yield from _http_causes(handler["httpGet"], at)
    seconds = handler["sleep"].get("seconds", 0) if name == "sleep" else 0
    if grace_seconds is not None and not 0 <= seconds <= max(grace_seconds, 0):
        why = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_seconds})"
        yield invalid(at, seconds, why)


def _http_causes(action: Object, path: str) -> Iterator[Cause]:
    if action.get("scheme", "HTTP") not in _SCHEMES:
        yield unsupported(f"{path}.scheme", action["scheme"], _SCHEMES)
    for header in action.get("httpHeaders") or ():
        if not re.fullmatch(r"[-A-Za-z0-9]+", header.get("name") or ""):
            yield invalid(f"{path}.httpHeaders", header.get("name") or "", _HEADER_RULE)


def _handler_port_causes(port: Any, path: str) -> Iterator[Cause]:
    if isinstance(port, int) and not 0 < port < 65536:
        yield invalid(path, port, _PORT_RULE)
    if isinstance(port, str) and (wrong := port_name_problem(port)):
        yield invalid(path, port, wrong)
