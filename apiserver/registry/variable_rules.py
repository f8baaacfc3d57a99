"""Where a container's variables come from: values, fields of the pod, resources, keys of other objects, files.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#environment-variables
"""

from collections.abc import Iterator, Sequence

from apiserver.registry import names
from apiserver.registry.kind import Object, invalid, not_found, required, unsupported
from machinery.api.quantity import canonical
from machinery.errors import Cause

_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_ENV_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
# Fields of a pod that have a name for such uses; not each may be used everywhere.
_KNOWN_FIELDS = frozenset(
    {
        *_ENV_FIELDS,
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
    }
)
_RESOURCES = tuple(
    f"{group}.{name}" for group in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)
_HUGE = ("limits.hugepages-", "requests.hugepages-")
_SIZES = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
_SIZES_RULE = "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the"
_NAME_RULE = "a valid environment variable name must consist only of printable ASCII characters other than '='"
_KEY_RULE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  "
    "or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def variable_causes(container: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a container's variables."""
    for index, variable in enumerate(container.get("env") or ()):
        name, at = variable.get("name", ""), f"{path}.env[{index}]"
        if not _is_variable(name):
            yield invalid(f"{at}.name", name, _NAME_RULE)
        if (source := variable.get("valueFrom")) is not None:
            yield from _source_causes(source, f"{at}.valueFrom", has_value=bool(variable.get("value")))
    for index, source in enumerate(container.get("envFrom") or ()):
        yield from _all_keys_causes(source, f"{path}.envFrom", index)


def _is_variable(name: str) -> bool:
    return "=" not in name and name.isascii() and name.isprintable()


def _all_keys_causes(source: Object, path: str, index: int) -> Iterator[Cause]:
    at, prefix = f"{path}[{index}]", source.get("prefix") or ""
    if not _is_variable(prefix):
        yield invalid(f"{at}.prefix", prefix, _NAME_RULE)
    given = [name for name in ("configMapRef", "secretRef") if name in source]
    for field in given:
        name = source[field].get("name") or ""
        if not name:
            yield required(f"{at}.{field}.name")
        elif wrong := names.dns_subdomain(name):
            yield invalid(f"{at}.{field}.name", name, wrong)
    if not given:
        yield invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
    elif len(given) > 1:
        yield invalid(path, "", "may not have more than one field specified at a time")


def _source_causes(source: Object, path: str, *, has_value: bool) -> Iterator[Cause]:
    given = [name for name in _SOURCES if name in source]
    if "fieldRef" in source:
        yield from field_causes(source["fieldRef"], f"{path}.fieldRef", _ENV_FIELDS)
    if "resourceFieldRef" in source:
        yield from resource_field_causes(source["resourceFieldRef"], f"{path}.resourceFieldRef")
    for field in ("configMapKeyRef", "secretKeyRef"):
        if field in source:
            yield from _key_causes(source[field], f"{path}.{field}")
    if not given:
        known = ", ".join(f"`{name}`" for name in _SOURCES[:-1])
        yield invalid(path, "", f"must specify one of: {known} or `{_SOURCES[-1]}`")
    elif has_value:
        yield invalid(path, "", "may not be specified when `value` is not empty")
    elif len(given) > 1:
        yield invalid(path, "", "may not have more than one field specified at a time")


def _key_causes(reference: Object, path: str) -> Iterator[Cause]:
    name, key = reference.get("name") or "", reference.get("key") or ""
    if wrong := names.dns_subdomain(name):
        yield invalid(f"{path}.name", name, wrong)
    if key and (wrong := config_key(key)):
        yield invalid(f"{path}.key", key, wrong)


def config_key(key: str) -> str | None:
    """Return what is wrong with a key of a ConfigMap or a Secret, or None."""
    if len(key) > 253:
        return "must be no more than 253 characters"
    if not key or not all(letter.isascii() and (letter.isalnum() or letter in "-._") for letter in key):
        return _KEY_RULE
    if key in (".", ".."):
        return f"must not be '{key}'"
    return "must not start with '..'" if key.startswith("..") else None


def field_causes(reference: Object, path: str, allowed: Sequence[str]) -> Iterator[Cause]:
    """Yield what is wrong with a reference to a field of the pod. Args: `allowed` are those that can be used here."""
    field, at = reference.get("fieldPath") or "", f"{path}.fieldPath"
    if not field:
        return  # the schema asks for it
    base, bracket, rest = field.partition("['")
    if bracket and base and rest.endswith("']"):
        key = rest.removesuffix("']")
        if base not in ("metadata.annotations", "metadata.labels"):
            why = f"error converting fieldPath: field label does not support subscript: {field}"
            yield invalid(at, field, why)
        elif wrong := names.qualified_name(key.lower() if base == "metadata.annotations" else key):
            yield invalid(path, key, wrong)
    elif field not in _KNOWN_FIELDS:
        yield invalid(at, field, f"error converting fieldPath: field label not supported: {field}")
    elif field not in allowed:
        yield unsupported(at, field, allowed)


def resource_field_causes(reference: Object, path: str, *, of_volume: bool = False) -> Iterator[Cause]:
    """Yield what is wrong with a reference to a resource of a container; in a volume it has to say of which."""
    resource = reference.get("resource") or ""
    if of_volume and not reference.get("containerName"):
        yield required(f"{path}.containerName")
    elif resource and resource not in _RESOURCES and not resource.startswith(_HUGE):
        yield unsupported(f"{path}.resource", resource, _RESOURCES)
    divisor = canonical(reference.get("divisor") or "0")
    if divisor == "0":
        return
    kind = resource.partition(".")[2]
    if kind == "cpu":
        if divisor not in ("1m", "1"):
            why = "only divisor's values 1m and 1 are supported with the cpu resource"
            yield invalid(f"{path}.divisor", resource, why)
    elif divisor not in _SIZES:
        names_of = {"memory": "memory", "ephemeral-storage": "local ephemeral storage"}
        told = "hugepages" if kind.startswith("hugepages-") else names_of.get(kind)
        if told:
            yield invalid(f"{path}.divisor", resource, f"{_SIZES_RULE} {told} resource")


def env_file_causes(container: Object, path: str, volumes: Sequence[Object]) -> Iterator[Cause]:
    """Yield what is wrong with variables out of files: these must lie in a volume of the pod that is an emptyDir."""
    for index, variable in enumerate(container.get("env") or ()):
        reference = (variable.get("valueFrom") or {}).get("fileKeyRef")
        if reference is None:
            continue
        known = {one.get("name"): one for one in volumes}
        at, name = f"{path}.env[{index}].valueFrom.fileKeyRef", reference.get("volumeName", "")
        if name not in known:
            yield not_found(f"{at}.volumeName", name)
        elif "emptyDir" not in known[name]:
            yield invalid(f"{at}.volumeName", name, "referenced volume must be of type emptyDir")
        place = reference.get("path", "")
        if place.startswith("/") or ".." in place.split("/"):
            yield invalid(f"{at}.path", place, "must be a relative path that does not contain '..'")
