"""Rules of pod specs beside those in pods.py: who runs it, what it tolerates, how it spreads, what containers get.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence

from apiserver.registry import names
from apiserver.registry.kind import Object, duplicate, invalid, not_found, required, unsupported
from apiserver.registry.security_rules import profile_causes
from machinery.errors import Cause

_MAX_ID = 2**31 - 1
_SYSCTL_PART = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL_RULE = f"^({_SYSCTL_PART}[\\./])*{_SYSCTL_PART}$"
_SYSCTL = re.compile(_SYSCTL_RULE)
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_MAX_PORT_NAME = 15
_MAX_SERVERS, _MAX_SEARCHES = 3, 32
_ADDRESS_RULE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_SYSTEMS = ("linux", "windows")
_EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_ENV_RULE = "a valid environment variable name must consist only of printable ASCII characters other than '='"


def spec_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with what a pod says of itself as a whole."""
    context = spec.get("securityContext") or {}
    yield from _identity_causes(context, f"{path}.securityContext", ("runAsUser", "runAsGroup", "fsGroup"))
    yield from profile_causes(context, f"{path}.securityContext")
    for index, sysctl in enumerate(context.get("sysctls") or ()):
        name = sysctl.get("name", "")
        if name and (len(name) > 253 or not _SYSCTL.fullmatch(name)):
            rule = f"must have at most 253 characters and match regex {_SYSCTL_RULE}"
            yield invalid(f"{path}.securityContext.sysctls[{index}].name", name, rule)
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from toleration_causes(toleration, f"{path}.tolerations[{index}]")
    for index, spread in enumerate(spec.get("topologySpreadConstraints") or ()):
        yield from _spread_causes(spread, f"{path}.topologySpreadConstraints[{index}]")
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        why = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        yield required(f"{path}.dnsConfig.nameservers", why)
    yield from _dns_causes(spec.get("dnsConfig") or {}, f"{path}.dnsConfig")
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        if (address := alias.get("ip", "")) and not _is_address(address):
            yield invalid(f"{path}.hostAliases[{index}].ip", address, _ADDRESS_RULE)
        for at, name in enumerate(alias.get("hostnames") or ()):
            if wrong := names.dns_subdomain(name):
                yield invalid(f"{path}.hostAliases[{index}].hostnames[{at}]", name, wrong)


def gate_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with what a pod waits for, the system it is made for, and what it shares with its node."""
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        kind = gate.get("conditionType", "")
        if wrong := names.qualified_name(kind):
            yield invalid(f"{path}.readinessGates[{index}].conditionType", kind, wrong)
    seen = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        name, at = gate.get("name", ""), f"{path}.schedulingGates[{index}].name"
        if wrong := names.qualified_name(name):
            yield invalid(at, name, wrong)
        if name in seen:
            yield duplicate(at, name)
        seen.add(name)
    system = (spec.get("os") or {}).get("name")
    if spec.get("os") is not None and not system:
        yield required(f"{path}.os.name", "name is required")
    elif system and system not in _SYSTEMS:
        yield unsupported(f"{path}.os.name", system, _SYSTEMS)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        why = "ShareProcessNamespace and HostPID cannot both be enabled"
        yield invalid(f"{path}.shareProcessNamespace", True, why)
    yield from _host_port_causes(spec, path)


def _host_port_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield ports of the host that are taken twice, or are other ports than the container's in the host's network."""
    seen = set()
    for number, container in enumerate(spec.get("containers") or ()):
        for index, port in enumerate(container.get("ports") or ()):
            at, host = f"{path}.containers[{number}].ports[{index}]", port.get("hostPort")
            if spec.get("hostNetwork") and host != port.get("containerPort"):
                yield invalid(
                    f"{at}.containerPort", port.get("containerPort"), "must match `hostPort` when `hostNetwork` is true"
                )
            if not host:
                continue
            taken = f"{port.get('protocol', 'TCP')}/{port.get('hostIP', '')}/{host}"
            if taken in seen:
                yield duplicate(f"{at}.hostPort", taken)
            seen.add(taken)


def _dns_causes(config: Object, path: str) -> Iterator[Cause]:
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if len(servers) > _MAX_SERVERS:
        yield invalid(f"{path}.nameservers", servers, f"must not have more than {_MAX_SERVERS} nameservers")
    for index, server in enumerate(servers):
        if not _is_address(server):
            yield invalid(f"{path}.nameservers[{index}]", server, _ADDRESS_RULE)
    if len(searches) > _MAX_SEARCHES:
        yield invalid(f"{path}.searches", searches, f"must not have more than {_MAX_SEARCHES} search paths")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def container_causes(container: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a container of any sort."""
    image = container.get("image") or ""
    if image != image.strip():
        yield invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    context = container.get("securityContext") or {}
    yield from _identity_causes(context, f"{path}.securityContext", ("runAsUser", "runAsGroup"))
    yield from profile_causes(context, f"{path}.securityContext")
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        yield invalid(f"{path}.securityContext", context, why)
    for index, variable in enumerate(container.get("env") or ()):
        yield from _variable_causes(variable, f"{path}.env[{index}]")
    yield from _port_name_causes(container.get("ports") or [], f"{path}.ports")


def _identity_causes(context: Object, path: str, fields: tuple[str, ...]) -> Iterator[Cause]:
    for field in fields:
        number = context.get(field)
        if number is not None and not 0 <= number <= _MAX_ID:
            yield invalid(f"{path}.{field}", number, f"must be between 0 and {_MAX_ID}, inclusive")


def toleration_causes(toleration: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a toleration."""
    operator, effect = toleration.get("operator", ""), toleration.get("effect", "")
    if not toleration.get("key") and operator != "Exists":
        why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield invalid(f"{path}.operator", operator, why)
    if (key := toleration.get("key")) and (wrong := names.qualified_name(key)):
        yield invalid(f"{path}.key", key, wrong)
    if operator not in ("", "Equal", "Exists"):
        yield unsupported(f"{path}.operator", operator, ("Equal", "Exists"))
    if operator == "Exists" and toleration.get("value"):
        yield invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'")
    if effect and effect not in _EFFECTS:
        yield unsupported(f"{path}.effect", effect, _EFFECTS)
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        yield invalid(f"{path}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")


def _spread_causes(spread: Object, path: str) -> Iterator[Cause]:
    if spread.get("maxSkew", 0) <= 0:
        yield invalid(f"{path}.maxSkew", spread.get("maxSkew", 0), "must be greater than zero")
    known = ("DoNotSchedule", "ScheduleAnyway")
    if (wanted := spread.get("whenUnsatisfiable")) and wanted not in known:
        yield unsupported(f"{path}.whenUnsatisfiable", wanted, known)
    fewest = spread.get("minDomains")
    if fewest is not None and fewest <= 0:
        yield invalid(f"{path}.minDomains", fewest, "must be greater than zero")


def _variable_causes(variable: Object, path: str) -> Iterator[Cause]:
    name = variable.get("name", "")
    if "=" in name or not (name.isascii() and name.isprintable()):
        yield invalid(f"{path}.name", name, _ENV_RULE)
    if variable.get("value") and variable.get("valueFrom"):
        yield invalid(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")


def env_file_causes(container: Object, path: str, volumes: Sequence[Object]) -> Iterator[Cause]:
    """Yield what is wrong with variables out of files: these must lie in a volume of the pod that is an emptyDir."""
    known = {one.get("name"): one for one in volumes}
    for index, variable in enumerate(container.get("env") or ()):
        reference = (variable.get("valueFrom") or {}).get("fileKeyRef")
        if reference is None:
            continue
        at, name = f"{path}.env[{index}].valueFrom.fileKeyRef", reference.get("volumeName", "")
        if name not in known:
            yield not_found(f"{at}.volumeName", name)
        elif "emptyDir" not in known[name]:
            yield invalid(f"{at}.volumeName", name, "referenced volume must be of type emptyDir")
        place = reference.get("path", "")
        if place.startswith("/") or ".." in place.split("/"):
            yield invalid(f"{at}.path", place, "must be a relative path that does not contain '..'")


def port_name_problem(name: str) -> str | None:
    """Return what is wrong with the name of a port, or None."""
    if len(name) > _MAX_PORT_NAME:
        return f"must be no more than {_MAX_PORT_NAME} characters"
    if not _PORT_NAME.fullmatch(name) or "--" in name:
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    return None if any(letter.isalpha() for letter in name) else "must contain at least one letter (a-z)"


def _port_name_causes(ports: list[Object], path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name", "")
        if not name:
            continue
        at = f"{path}[{index}].name"
        if wrong := port_name_problem(name):
            yield invalid(at, name, wrong)
        if name in seen:
            yield duplicate(at, name)
        seen.add(name)
