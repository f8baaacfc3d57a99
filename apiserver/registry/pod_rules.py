"""Rules of pod specs beside those in pods.py: what it tolerates, its names, its DNS, its gates and ports.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, duplicate, forbidden, invalid, required, too_long, unsupported
from machinery.errors import Cause

_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_MAX_PORT_NAME = 15
_MAX_SERVERS, _MAX_SEARCHES, _MAX_SEARCH_LETTERS = 3, 32, 2048
_MAX_HOSTNAME = 64
_ADDRESS_RULE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_NAMES = {
    "hostname": names.dns_label, "subdomain": names.dns_label, "nodeName": names.dns_subdomain,
    "serviceAccountName": names.dns_subdomain, "priorityClassName": names.dns_subdomain,
    "runtimeClassName": names.dns_subdomain,
}  # fmt: skip


def spec_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with what a pod says of itself as a whole."""
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from toleration_causes(toleration, f"{path}.tolerations[{index}]")
    yield from _dns_causes(spec, f"{path}.dnsConfig")
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        if not _is_address(address := alias.get("ip", "")):
            yield invalid(f"{path}.hostAliases[{index}].ip", address, _ADDRESS_RULE)
        for at, name in enumerate(alias.get("hostnames") or ()):
            if wrong := names.dns_subdomain(name):
                yield invalid(f"{path}.hostAliases[{index}].hostnames[{at}]", name, wrong)


def gate_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with what a pod waits for, and with what it shares with its node."""
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        kind = gate.get("conditionType", "")
        if wrong := names.qualified_name(kind):
            yield invalid(f"{path}.readinessGates[{index}].conditionType", kind, wrong)
    seen = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        name, at = gate.get("name", ""), f"{path}.schedulingGates[{index}]"
        if wrong := names.qualified_name(name):
            yield invalid(at, name, wrong)
        if name in seen:
            yield duplicate(at, name)
        seen.add(name)
    if spec.get("hostUsers") is False:
        for field, told in (("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")):
            if spec.get(field):  # their names are upstream's
                yield forbidden(f"{path}.{told}", "when `hostUsers` is false")


def host_port_causes(spec: Object, path: str, *, is_pod: bool) -> Iterator[Cause]:
    """Yield ports of the host that are taken twice, or are other ports than the container's in the host's network.

    Args: `is_pod` says that this is no template, whose ports are filled in when pods are made of it.
    """
    yield from _conflict_causes(enumerate(spec.get("containers") or ()), f"{path}.containers")
    for one in enumerate(spec.get("initContainers") or ()):
        yield from _conflict_causes([one], f"{path}.initContainers")
    if not spec.get("hostNetwork"):
        return
    for number, container in enumerate(spec.get("containers") or ()):
        for index, port in enumerate(container.get("ports") or ()):
            host = port.get("hostPort") or 0
            if (is_pod or host) and host != port.get("containerPort"):
                at = f"{path}.containers[{number}].ports[{index}].hostPort"
                yield invalid(at, host, "must match `containerPort` when `hostNetwork` is true")


def _conflict_causes(containers: Iterable[tuple[int, Object]], path: str) -> Iterator[Cause]:
    seen = set()
    for number, container in containers:
        for index, port in enumerate(container.get("ports") or ()):
            if not (host := port.get("hostPort")):
                continue
            taken = f"{port.get('protocol', 'TCP')}/{port.get('hostIP', '')}/{host}"
            if taken in seen:
                yield duplicate(f"{path}[{number}].ports[{index}].hostPort", taken)
            seen.add(taken)


def name_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the names a pod says: its own, and those of what it refers to."""
    for field, rule in _NAMES.items():
        if (value := spec.get(field)) and (wrong := rule(value)):
            yield invalid(f"{path}.{field}", value, wrong)
    if (override := spec.get("hostnameOverride")) is not None:
        at = f"{path}.hostnameOverride"
        if wrong := names.dns_subdomain(override):
            yield invalid(at, override, wrong)
        if len(override) > _MAX_HOSTNAME:
            yield too_long(at, _MAX_HOSTNAME)
        for field in ("hostNetwork", "setHostnameAsFQDN"):
            if spec.get(field):
                yield forbidden(at, f"may not be set when `{field}` is true")


def _dns_causes(spec: Object, path: str) -> Iterator[Cause]:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            yield required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
        elif not config.get("nameservers"):
            yield required(f"{path}.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None")
            return
    if not config:
        return
    servers = config.get("nameservers") or []
    if len(servers) > _MAX_SERVERS:
        yield invalid(f"{path}.nameservers", servers, f"must not have more than {_MAX_SERVERS} nameservers")
    for index, server in enumerate(servers):
        if not _is_address(server):
            yield invalid(f"{path}.nameservers[{index}]", server, _ADDRESS_RULE)
    yield from _search_causes(config.get("searches") or [], f"{path}.searches")
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            yield required(f"{path}.options[{index}]", "must not be empty")


def _search_causes(searches: list[str], path: str) -> Iterator[Cause]:
    if len(searches) > _MAX_SEARCHES:
        yield invalid(path, searches, f"must not have more than {_MAX_SEARCHES} search paths")
    if len(" ".join(searches)) > _MAX_SEARCH_LETTERS:
        why = f"must not have more than {_MAX_SEARCH_LETTERS} characters (including spaces) in the search list"
        yield invalid(path, searches, why)
    for index, search in enumerate(searches):
        bare = search.removesuffix(".")
        if search != "." and (wrong := names.dns_subdomain_underscored(bare)):
            yield invalid(f"{path}[{index}]", bare, wrong)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def toleration_causes(toleration: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a toleration."""
    operator, effect, value = (toleration.get(field) or "" for field in ("operator", "effect", "value"))
    if not toleration.get("key") and operator != "Exists":
        why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield invalid(f"{path}.operator", operator, why)
    if (key := toleration.get("key")) and (wrong := names.qualified_name(key)):
        yield invalid(f"{path}.key", key, wrong)
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        yield invalid(f"{path}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
    if operator in ("", "Equal"):
        if wrong := names.label_value(value):
            yield invalid(f"{path}.operator", value, wrong)
    elif operator != "Exists":
        yield unsupported(f"{path}.operator", operator, ("Equal", "Exists"))
    elif value:
        yield invalid(f"{path}.operator", value, "value must be empty when `operator` is 'Exists'")
    if effect and effect not in _EFFECTS:
        yield unsupported(f"{path}.effect", effect, _EFFECTS)


def port_name_problem(name: str) -> str | None:
    """Return what is wrong with the name of a port, or None."""
    if len(name) > _MAX_PORT_NAME:
        return f"must be no more than {_MAX_PORT_NAME} characters"
    if not _PORT_NAME.fullmatch(name) or "--" in name:
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    return None if any(letter.isalpha() for letter in name) else "must contain at least one letter (a-z)"
