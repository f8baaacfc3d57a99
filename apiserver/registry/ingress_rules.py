"""Rules of ingresses and their classes.

Source: https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

import ipaddress
from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, forbidden, invalid, required, unsupported
from apiserver.registry.object_rules import kind_and_name_causes
from apiserver.registry.pod_rules import port_name_problem
from machinery.errors import Cause

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_NOT_IN_PATHS, _NOT_AT_ENDS = ("//", "/./", "/../", "%2f", "%2F"), ("/..", "/.")
_MAX_CONTROLLER = 250
_SCOPES = ("Cluster", "Namespace")


def ingress_causes(ingress: Object) -> Iterator[Cause]:
    """Yield what is wrong with an ingress's spec."""
    spec = ingress.get("spec") or {}
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield invalid("spec", spec.get("rules"), "either `defaultBackend` or `rules` must be specified")
    if spec.get("defaultBackend"):
        yield from _backend_causes(spec["defaultBackend"], "spec.defaultBackend")
    for index, rule in enumerate(spec.get("rules") or ()):
        yield from _rule_causes(rule, f"spec.rules[{index}]")
    for index, tls in enumerate(spec.get("tls") or ()):
        for number, host in enumerate(tls.get("hosts") or ()):
            yield from _host_causes(host, f"spec.tls[{index}].hosts[{number}]")
        if (name := tls.get("secretName")) and (wrong := names.dns_subdomain(name)):
            yield invalid(f"spec.tls[{index}].secretName", name, wrong)
    name = spec.get("ingressClassName")
    if name is not None and (wrong := names.dns_subdomain(name)):
        yield invalid("spec.ingressClassName", name, wrong)


def new_ingress_causes(ingress: Object) -> list[Cause]:
    """Return a cause when the annotation of old names another class than the spec."""
    old = (ingress["metadata"].get("annotations") or {}).get(_CLASS_ANNOTATION)
    name = (ingress.get("spec") or {}).get("ingressClassName")
    if old is None or name is None or old == name:
        return []
    why = "must match `ingressClassName` when both are specified"
    return [invalid(f"annotations.{_CLASS_ANNOTATION}", old, why)]


def _rule_causes(rule: Object, path: str) -> Iterator[Cause]:
    if host := rule.get("host"):
        if _is_address(host):
            yield invalid(f"{path}.host", host, "must be a DNS name, not an IP address")
        yield from _host_causes(host, f"{path}.host")
    http = rule.get("http")
    if http is not None and not http.get("paths"):
        yield required(f"{path}.http.paths")
    for number, one in enumerate((http or {}).get("paths") or ()):
        yield from _path_causes(one, f"{path}.http.paths[{number}]")


def _host_causes(host: str, path: str) -> Iterator[Cause]:
    if wrong := names.wildcard_subdomain(host) if "*" in host else names.dns_subdomain(host):
        yield invalid(path, host, wrong)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _path_causes(one: Object, path: str) -> Iterator[Cause]:
    kind, text = one.get("pathType"), one.get("path", "")
    if kind is None:
        yield required(f"{path}.pathType", "pathType must be specified")
        return
    if kind not in _PATH_TYPES:
        yield unsupported(f"{path}.pathType", kind, _PATH_TYPES)
    elif (text or kind != "ImplementationSpecific") and not text.startswith("/"):
        yield invalid(f"{path}.path", text, "must be an absolute path")
    if kind in ("Exact", "Prefix"):
        for part in _NOT_IN_PATHS:
            if part in text:
                yield invalid(f"{path}.path", text, f"must not contain '{part}'")
        for end in _NOT_AT_ENDS:
            if text.endswith(end):
                yield invalid(f"{path}.path", text, f"cannot end with '{end}'")
    yield from _backend_causes(one.get("backend") or {}, f"{path}.backend")


def _backend_causes(backend: Object, path: str) -> Iterator[Cause]:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        yield invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        yield from reference_causes(resource, f"{path}.resource")
    elif service is None:
        yield invalid(path, "", "resource or service backend is required")
    else:
        yield from _service_causes(service, path)


def _service_causes(service: Object, path: str) -> Iterator[Cause]:
    if not service.get("name"):
        yield required(f"{path}.service.name")
    elif wrong := names.dns_label(service["name"]):
        yield invalid(f"{path}.service.name", service["name"], wrong)
    port = service.get("port") or {}
    name, number = port.get("name"), port.get("number")
    if name and number:
        yield invalid(path, "", "cannot set both port name & port number")
    elif name:
        if wrong := port_name_problem(name):
            yield invalid(f"{path}.service.port.name", name, wrong)
    elif not number:
        yield required(path, "port name or number is required")
    elif not 0 < number < 65536:
        yield invalid(f"{path}.service.port.number", number, "must be between 1 and 65535, inclusive")


def reference_causes(reference: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a reference to an object of any kind."""
    if (group := reference.get("apiGroup")) is not None and (wrong := names.dns_subdomain(group)):
        yield invalid(f"{path}.apiGroup", group, wrong)
    yield from kind_and_name_causes(reference, path)


def class_causes(ingress_class: Object) -> Iterator[Cause]:
    """Yield what is wrong with a class of ingresses."""
    spec = ingress_class.get("spec") or {}
    controller = spec.get("controller", "")
    if len(controller) > _MAX_CONTROLLER:
        why = f"Too long: may not be more than {_MAX_CONTROLLER} bytes"
        yield Cause("FieldValueTooLong", why, "spec.controller")
    yield from names.domain_path_causes(controller, "spec.controller")
    if (parameters := spec.get("parameters")) is not None:
        yield from reference_causes(parameters, "spec.parameters")
        yield from _scope_causes(parameters, "spec.parameters")


def _scope_causes(parameters: Object, path: str) -> Iterator[Cause]:
    scope, namespace = parameters["scope"], parameters.get("namespace", "")
    if scope not in _SCOPES:
        yield unsupported(f"{path}.scope", scope, _SCOPES)
    elif scope == "Cluster" and "namespace" in parameters:
        yield forbidden(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'")
    elif scope == "Namespace" and "namespace" not in parameters:
        yield required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'")
    elif scope == "Namespace" and (wrong := names.dns_label(namespace)):
        yield invalid(f"{path}.namespace", namespace, wrong)
