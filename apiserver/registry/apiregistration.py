"""The group apiregistration.k8s.io: who answers for a version of a group.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME
from apiserver.registry.kind import STATUS, Column, Kind, Object, invalid, required
from machinery.api.resources import API_SERVICES
from machinery.errors import Cause


def _default(service: Object) -> None:
    if reference := service.setdefault("spec", {}).get("service"):
        reference.setdefault("port", 443)


def _causes(service: Object) -> Iterator[Cause]:
    spec, name = service["spec"], service["metadata"].get("name", "")
    group, version = spec.get("group", ""), spec.get("version", "")
    if name != f"{version}.{group}":
        yield invalid("metadata.name", name, f'must be `spec.version+"."+spec.group`: "{version}.{group}"')
    if group and (wrong := names.dns_subdomain(group)):
        yield invalid("spec.group", group, wrong)
    if not group and version != "v1":
        yield required("spec.group", "only v1 may have an empty group and it better be legacy kube")
    if wrong := names.dns_label(version):
        yield invalid("spec.version", version, wrong)
    for field, limit in (("groupPriorityMinimum", 20000), ("versionPriority", 1000)):
        value = spec.get(field, 0)
        if not 0 < value <= limit:
            yield invalid(f"spec.{field}", value, f"must be positive and less than {limit}")
    yield from _backend_causes(spec)


def _backend_causes(spec: Object) -> Iterator[Cause]:
    reference = spec.get("service")
    if reference is None:
        if bundle := spec.get("caBundle"):
            yield invalid("spec.caBundle", f"{len(bundle)} bytes", "local APIServices may not have a caBundle")
        if spec.get("insecureSkipTLSVerify"):
            yield invalid("spec.insecureSkipTLSVerify", True, "local APIServices may not have insecureSkipTLSVerify")
        return
    for field in ("namespace", "name"):
        if not reference.get(field):
            yield required(f"spec.service.{field}")
    port = reference.get("port", 443)
    if not 0 < port < 65536:
        yield invalid("spec.service.port", port, "port is not valid: must be between 1 and 65535, inclusive")
    if spec.get("insecureSkipTLSVerify") and spec.get("caBundle"):
        yield invalid("spec.insecureSkipTLSVerify", True, "may not be true if caBundle is present")


def _served_by(service: Object) -> str:
    reference = service["spec"].get("service")
    return f"{reference['namespace']}/{reference['name']}" if reference else "Local"


def _available(service: Object) -> str:
    conditions = (service.get("status") or {}).get("conditions") or ()
    found = next((one for one in conditions if one["type"] == "Available"), None)
    if found is None:
        return "Unknown"
    return "True" if found["status"] == "True" else f"{found['status']} ({found.get('reason', '')})"


def _any_name(_: str) -> str | None:
    return None  # the version and the group are looked at instead: "v1." is a good name


KIND = Kind(
    API_SERVICES, "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService", "apiservice", (),
    ("api-extensions",), subresources={"status": STATUS},
    columns=(NAME, Column("Service", _served_by), Column("Available", _available), AGE),
    default=_default, validate=lambda obj: list(_causes(obj)), validate_name=_any_name, unconditional_update=False,
)  # fmt: skip
KINDS = (KIND,)
