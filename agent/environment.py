"""A container's environment variables: literals, references, services, and `$(NAME)` in them.

Source: https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
"""

import base64
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from machinery.api.quantity import cpu_millis, to_bytes
from machinery.errors import NotFound

Pod = Mapping[str, Any]
Fetch = Callable[[str, str], Awaitable[Mapping[str, Any]]]  # (configmaps|secrets, name) -> object
FromFile = Callable[[Mapping[str, Any]], Awaitable[str | None]]

_REFERENCE = re.compile(r"\$(\$|\(([^()$]*)\))")
_ENV_NAME = re.compile(r"[ -<>-~]+")  # all that prints, but no "="
_INDEXED = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")


class ConfigError(Exception):
    """A container's configuration can't be made; users see the text under CreateContainerConfigError."""


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by its value where it is known; `$$` is one dollar sign."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return known.get(match[2], match[0])

    return _REFERENCE.sub(value, text)


def expand_strictly(text: str, known: Mapping[str, str]) -> str:
    """Expand a text whose references must all be known. Raises: ConfigError."""
    missing = [match[2] for match in _REFERENCE.finditer(text) if match[1] != "$" and match[2] not in known]
    if missing:
        raise ConfigError(f"missing value for {', '.join(repr(name) for name in missing)}")
    return expand(text, known)


def service_variables(services: Sequence[Mapping[str, Any]], namespace: str, *, links: bool) -> dict[str, str]:
    """Return the variables that tell of services: those of the namespace with `links`, and `kubernetes` always."""
    found: dict[str, str] = {}
    for service in services:
        metadata, spec = service["metadata"], service["spec"]
        is_master = metadata["namespace"] == "default" and metadata["name"] == "kubernetes"
        address, ports = spec.get("clusterIP"), spec.get("ports") or ()
        if (
            address in (None, "", "None")
            or not ports
            or not (is_master or (links and metadata["namespace"] == namespace))
        ):
            continue
        name = metadata["name"].upper().replace("-", "_")
        found[f"{name}_SERVICE_HOST"] = address
        found[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
        found[f"{name}_PORT"] = _url(address, ports[0])
        for port in ports:
            if port.get("name"):
                found[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
            prefix = f"{name}_PORT_{port['port']}_{port.get('protocol', 'TCP')}"
            found[prefix] = _url(address, port)
            found[f"{prefix}_PROTO"] = port.get("protocol", "TCP").lower()
            found[f"{prefix}_PORT"] = str(port["port"])
            found[f"{prefix}_ADDR"] = address
    return found


def _url(address: str, port: Mapping[str, Any]) -> str:
    return f"{port.get('protocol', 'TCP').lower()}://{address}:{port['port']}"


async def make_environment(
    pod: Pod, container: Mapping[str, Any], services: Mapping[str, str], fetch: Fetch, facts: Mapping[str, Any],
    from_file: FromFile | None = None,
) -> dict[str, str]:  # fmt: skip
    """Return a container's variables. Raises: ConfigError when a reference leads nowhere.

    Args: `from_file` reads what a fileKeyRef names; None for a variable that is left out.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        found.update(await _from_source(source, fetch))
    merged = dict(services)
    merged.update(found)
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("fileKeyRef")
        if reference is not None:
            value = await from_file(reference) if from_file is not None else None
        else:
            value = await _value(pod, container, variable, merged, fetch, facts)
        if value is not None:
            merged[variable["name"]] = value
    return merged


async def _from_source(source: Mapping[str, Any], fetch: Fetch) -> dict[str, str]:
    prefix = source.get("prefix", "")
    for field, plural in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
        reference = source.get(field)
        if reference is None:
            continue
        obj = await _fetched(fetch, plural, reference["name"], optional=reference.get("optional", False))
        data = decoded_data(plural, obj) if obj is not None else {}
        return {prefix + key: value for key, value in data.items() if _ENV_NAME.fullmatch(prefix + key)}
    return {}


async def _fetched(fetch: Fetch, plural: str, name: str, *, optional: bool) -> Mapping[str, Any] | None:
    try:
        return await fetch(plural, name)
    except NotFound as error:
        if optional:
            return None
        raise ConfigError(f'{plural.removesuffix("s")} "{name}" not found') from error


def decoded_data(plural: str, obj: Mapping[str, Any]) -> dict[str, str]:
    """Return the text values of a ConfigMap or Secret."""
    data = obj.get("data") or {}
    if plural == "configmaps":
        return dict(data)
    return {key: base64.b64decode(value).decode(errors="surrogateescape") for key, value in data.items()}


async def _value(
    pod: Pod, container: Mapping[str, Any], variable: Mapping[str, Any], known: Mapping[str, str], fetch: Fetch,
    facts: Mapping[str, Any],
) -> str | None:  # fmt: skip
    source = variable.get("valueFrom")
    if source is None:
        return expand(variable.get("value", ""), known)
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], facts)
    if "resourceFieldRef" in source:
        return resource_value(pod, container, source["resourceFieldRef"], facts)
    for field, plural in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if field in source:
            return await _key_value(fetch, plural, source[field], pod["metadata"]["namespace"])
    return None


async def _key_value(fetch: Fetch, plural: str, reference: Mapping[str, Any], namespace: str) -> str | None:
    optional = reference.get("optional", False)
    obj = await _fetched(fetch, plural, reference["name"], optional=optional)
    data = decoded_data(plural, obj) if obj is not None else {}
    if reference["key"] in data:
        return data[reference["key"]]
    if optional:
        return None
    kind = {"configmaps": "ConfigMap", "secrets": "Secret"}[plural]
    raise ConfigError(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")


def field_value(pod: Pod, path: str, facts: Mapping[str, Any]) -> str:
    """Return what a downward API field reference names. Raises: ConfigError for fields that can't be told."""
    metadata, spec = pod["metadata"], pod["spec"]
    if match := _INDEXED.fullmatch(path):
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    simple = {
        "metadata.name": metadata["name"], "metadata.namespace": metadata["namespace"], "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""), "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": facts["host_ip"], "status.hostIPs": facts["host_ip"],
        "status.podIP": facts.get("pod_ip", ""), "status.podIPs": facts.get("pod_ip", ""),
    }  # fmt: skip
    if path in simple:
        return str(simple[path])
    if path in ("metadata.labels", "metadata.annotations"):
        values = metadata.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{_quoted(value)}"' for key, value in sorted(values.items()))
    raise ConfigError(f"unsupported fieldPath: {path}")


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(
    pod: Pod, container: Mapping[str, Any], reference: Mapping[str, Any], facts: Mapping[str, Any]
) -> str:
    """Return a container's request or limit in units of its divisor, rounded up; what is unlimited has the node's."""
    if name := reference.get("containerName"):
        everyone = [*(pod["spec"].get("initContainers") or ()), *(pod["spec"].get("containers") or ())]
        container = next(one for one in everyone if one["name"] == name)
    group, _, resource = reference["resource"].partition(".")
    given = ((container.get("resources") or {}).get(group) or {}).get(resource)
    if given is None:
        given = facts["allocatable"].get(resource, "0") if group == "limits" else "0"
    divisor = reference.get("divisor") or "1"
    if divisor in ("0", ""):
        divisor = "1"
    if resource == "cpu":
        return str(math.ceil(cpu_millis(given) / max(cpu_millis(divisor), 1)))
    return str(math.ceil(to_bytes(given) / max(to_bytes(divisor), 1)))
