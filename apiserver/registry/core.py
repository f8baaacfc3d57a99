"""The core group (v1): its kinds, their defaults, rules and columns."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from apiserver.registry import names
from apiserver.registry.annotation_rules import new_pod_causes
from apiserver.registry.columns import AGE, NAME, NONE, UNKNOWN, labels_text
from apiserver.registry.endpoint_rules import default_endpoints, endpoints_causes
from apiserver.registry.event_rules import event_causes
from apiserver.registry.kind import (
    STATUS,
    Column,
    Kind,
    Object,
    Since,
    Subresource,
    default_text,
    duplicate,
    forbidden,
    immutable,
    invalid,
    required,
    status_judged,
    unsupported,
)  # fmt: skip
from apiserver.registry.node_rules import default_node, node_causes
from apiserver.registry.pod_parts import EPHEMERAL_CONTAINERS, RESIZE
from apiserver.registry.pod_update_rules import pod_update_causes
from apiserver.registry.pods import POD_COLUMNS, default_pod, prepare_pod, validate_pod
from apiserver.registry.secret_rules import secret_causes
from apiserver.registry.service_rules import service_causes
from apiserver.registry.status_rules import default_ip_mode, service_status_causes
from machinery.api import resources
from machinery.api.meta import Resource
from machinery.errors import Cause

CORE = "io.k8s.api.core.v1."
MAX_CONFIG_BYTES = 1024 * 1024  # of a ConfigMap or Secret, keys not counted
_ROLE_LABEL = "node-role.kubernetes.io/"
_PROXY_VERBS = ("create", "delete", "get", "options", "patch", "update")
_STREAM = Subresource(("create", "get"), kind="PodExecOptions")


def _field(*path: str) -> Any:
    def read(obj: Object) -> str:
        value: Any = obj
        for part in path:
            value = (value or {}).get(part)
        return str(value) if value is not None else ""

    return read


def _prepare_namespace(namespace: Object) -> None:
    finalizers = namespace.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")
    namespace["status"] = {"phase": "Active"}
    if name := namespace["metadata"].get("name"):  # validation tells of one that is missing
        namespace["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name


def _namespace_causes(namespace: Object) -> Iterator[Cause]:
    for finalizer in (namespace.get("spec") or {}).get("finalizers") or ():
        if wrong := names.finalizer(finalizer):
            yield invalid("spec.finalizers", finalizer, wrong)


def _keep_namespace_label(namespace: Object, old: Object) -> None:
    namespace["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = namespace["metadata"]["name"]
    namespace.setdefault("spec", {})["finalizers"] = old.get("spec", {}).get("finalizers", [])


def _default_secret(secret: Object) -> None:
    default_text(secret, "type", "Opaque")
    for key, text in secret.pop("stringData", {}).items():
        import base64

        secret.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()


def _config_causes(obj: Object, *fields: str) -> Iterator[Cause]:
    total, seen = 0, set()
    for field in fields:
        for key, value in (obj.get(field) or {}).items():
            if not key or len(key) > 253 or not all(c.isalnum() or c in "-._" for c in key) or key in (".", ".."):
                rule = (
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  "
                    "or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                )
                yield invalid(f"{field}[{key}]", key, rule)
            if key in seen:
                yield invalid(f"{field}[{key}]", key, f"duplicate of key present in {fields[0]}")
            seen.add(key)
            total += len(value)
    if total > MAX_CONFIG_BYTES * (4 / 3 if "stringData" in fields else 1):
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {MAX_CONFIG_BYTES} bytes", "")


def _immutable_data(new: Object, old: Object, *fields: str) -> list[Cause]:
    causes: list[Cause] = []
    if old.get("immutable"):
        if not new.get("immutable"):
            causes.append(forbidden("immutable", "field is immutable when `immutable` is set"))
        causes += [
            forbidden(field, "field is immutable when `immutable` is set")
            for field in fields
            if new.get(field) != old.get(field)
        ]
    return causes


def _validate_secret_update(new: Object, old: Object) -> list[Cause]:
    return immutable("type", new.get("type"), old.get("type")) + _immutable_data(new, old, "data")


def _default_service(service: Object) -> None:
    spec = service.setdefault("spec", {})
    default_text(spec, "type", "ClusterIP")
    default_text(spec, "sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    else:
        spec.pop("sessionAffinityConfig", None)  # one that is switched off leaves no settings
    for port in spec.get("ports") or ():
        default_text(port, "protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer") or (spec["type"] == "ClusterIP" and spec.get("externalIPs")):
        default_text(spec, "externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def _validate_service(service: Object) -> list[Cause]:
    return [*_service_causes(service["spec"]), *service_causes(service["spec"])]


def _service_causes(spec: Object) -> Iterator[Cause]:
    kinds = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec["type"] not in kinds:
        yield unsupported("spec.type", spec["type"], kinds)
    if spec["sessionAffinity"] not in ("ClientIP", "None"):
        yield unsupported("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        yield required("spec.ports")
    seen_names, seen_ports = set(), set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        name = port.get("name", "")
        if not name and len(ports) > 1:
            yield required(f"{at}.name")
        elif name and (wrong := names.dns_label(name)):
            yield invalid(f"{at}.name", name, wrong)
        if name and name in seen_names:
            yield duplicate(f"{at}.name", name)
        if not 0 < port.get("port", 0) < 65536:
            yield invalid(f"{at}.port", port.get("port", 0), "must be between 1 and 65535, inclusive")
        if (port["protocol"], port.get("port")) in seen_ports:
            yield duplicate(at, {"protocol": port["protocol"], "port": port.get("port")})
        seen_names.add(name)
        seen_ports.add((port["protocol"], port.get("port")))
    yield from names.label_causes(spec.get("selector") or {}, "spec.selector")


def _service_external(service: Object) -> str:
    spec = service["spec"]
    given = spec.get("externalIPs") or []
    match spec.get("type"):
        case "ExternalName":
            return str(spec.get("externalName", ""))
        case "LoadBalancer":
            ingress = (service.get("status") or {}).get("loadBalancer", {}).get("ingress") or []
            found = [one.get("ip") or one.get("hostname", "") for one in ingress] + given
            return ",".join(found) or "<pending>"
        case _:
            return ",".join(given) or NONE


def _service_ports(service: Object) -> str:
    parts = []
    for port in service["spec"].get("ports") or ():
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        parts.append(f"{port['port']}{node_port}/{port['protocol']}")
    return ",".join(parts) or NONE


def _data_count(obj: Object) -> str:
    return str(len(obj.get("data") or ()) + len(obj.get("binaryData") or ()))


def _validate_node_update(new: Object, old: Object) -> list[Cause]:
    causes: list[Cause] = []
    for field, shown in (("podCIDRs", "podCIDR"), ("providerID", "providerID")):
        before, after = ((one.get("spec") or {}).get(field) for one in (old, new))
        if before and before != after:
            causes.append(forbidden(f"spec.{field}", f'node updates may not change {shown} except from "" to valid'))
    return causes


def _unschedulable(node: Object) -> str:
    return str((node.get("spec") or {}).get("unschedulable", False)).lower()


def _node_status(node: Object) -> str:
    conditions = {c["type"]: c["status"] for c in (node.get("status") or {}).get("conditions") or ()}
    text = "Ready" if conditions.get("Ready") == "True" else "NotReady" if "Ready" in conditions else "Unknown"
    return text + (",SchedulingDisabled" if (node.get("spec") or {}).get("unschedulable") else "")


def _node_roles(node: Object) -> str:
    labels = node["metadata"].get("labels") or {}
    roles = sorted(label.removeprefix(_ROLE_LABEL) for label in labels if label.startswith(_ROLE_LABEL))
    return ",".join(role for role in roles if role) or NONE


def _node_address(kind: str) -> Any:
    def read(node: Object) -> str:
        addresses = (node.get("status") or {}).get("addresses") or ()
        return next((one["address"] for one in addresses if one["type"] == kind), NONE)

    return read


def _node_info(field: str) -> Any:
    return lambda node: ((node.get("status") or {}).get("nodeInfo") or {}).get(field) or UNKNOWN


def _health(component: Object) -> Object:
    found: Object = next((one for one in component.get("conditions") or () if one["type"] == "Healthy"), {})
    return found


def _endpoints_text(endpoints: Object) -> str:
    found = []
    for subset in endpoints.get("subsets") or ():
        ports = subset.get("ports") or [{}]
        for port in ports:
            suffix = f":{port['port']}" if port.get("port") else ""
            found += [f"{address['ip']}{suffix}" for address in subset.get("addresses") or ()]
    if not found:
        return NONE
    return ",".join(found[:3]) + (f" + {len(found) - 3} more..." if len(found) > 3 else "")


def _prepare_event(event: Object) -> None:
    event.setdefault("type", "Normal")


def event_last_seen(event: Object) -> Since | str:
    """When an event was last seen; series and new-style events keep that elsewhere."""
    series = (event.get("series") or {}).get("lastObservedTime")
    seen = series or event.get("lastTimestamp") or event.get("eventTime")
    return Since(seen) if seen else UNKNOWN


def _event_first_seen(event: Object) -> Since | str:
    seen = event.get("firstTimestamp") or event.get("eventTime")
    return Since(seen) if seen else UNKNOWN


def _event_object(event: Object) -> str:
    about = event.get("involvedObject") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


def _event_source(event: Object) -> str:
    source = event.get("source") or {}
    component, host = source.get("component") or event.get("reportingComponent", ""), source.get("host", "")
    return f"{component}, {host}" if host else component


EVENT_COLUMNS = (
    Column("Last Seen", event_last_seen), Column("Type", _field("type")), Column("Reason", _field("reason")),
    Column("Object", _event_object), Column("Subobject", _field("involvedObject", "fieldPath"), priority=1),
    Column("Source", _event_source, priority=1), Column("Message", lambda event: event.get("message", "").strip()),
    Column("First Seen", _event_first_seen, priority=1),
    Column("Count", lambda event: str((event.get("series") or {}).get("count") or event.get("count") or 1), priority=1),
    Column("Name", lambda event: event["metadata"]["name"], format="name", priority=1),
)  # fmt: skip
EVENT_SELECTABLE = {
    path: _field(*path.split("."))
    for path in (
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "type",
        "reportingComponent",
    )
} | {"source": lambda event: _event_source(event).partition(",")[0]}  # fmt: skip

KINDS = (
    Kind(
        resources.NAMESPACES, CORE + "Namespace", "namespace", ("ns",),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        subresources={"status": STATUS, "finalize": Subresource(("update",))},
        columns=(NAME, Column("Status", _field("status", "phase")), AGE),
        selectable={"status.phase": _field("status", "phase")},
        validate_name=names.dns_label, validate=lambda obj: list(_namespace_causes(obj)),
        prepare_create=_prepare_namespace, prepare_update=_keep_namespace_label, returns_deleted=True,
    ),
    Kind(
        resources.NODES, CORE + "Node", "node", ("no",),
        subresources={"status": STATUS, "proxy": Subresource(_PROXY_VERBS, kind="NodeProxyOptions")},
        columns=(
            NAME, Column("Status", _node_status), Column("Roles", _node_roles), AGE,
            Column("Version", _node_info("kubeletVersion")),
            Column("Internal-IP", _node_address("InternalIP"), priority=1),
            Column("External-IP", _node_address("ExternalIP"), priority=1),
            Column("OS-Image", _node_info("osImage"), priority=1),
            Column("Kernel-Version", _node_info("kernelVersion"), priority=1),
            Column("Container-Runtime", _node_info("containerRuntimeVersion"), priority=1),
        ),
        selectable={"spec.unschedulable": _unschedulable}, validate=lambda obj: list(node_causes(obj)),
        validate_update=_validate_node_update, default=default_node, begins_with_status=True,
    ),
    Kind(
        resources.PODS, CORE + "Pod", "pod", ("po",), ("all",),
        subresources={
            "status": STATUS, "binding": Subresource(("create",), kind="Binding"),
            "eviction": Subresource(("create",), kind="Eviction", group="policy", version="v1"),
            "ephemeralcontainers": EPHEMERAL_CONTAINERS, "resize": RESIZE,
            "log": Subresource(("get",)), "exec": _STREAM,
            "attach": Subresource(("create", "get"), kind="PodAttachOptions"),
            "portforward": Subresource(("create", "get"), kind="PodPortForwardOptions"),
            "proxy": Subresource(_PROXY_VERBS, kind="PodProxyOptions"),
        },
        columns=POD_COLUMNS,
        selectable={
            "spec.nodeName": _field("spec", "nodeName"), "spec.restartPolicy": _field("spec", "restartPolicy"),
            "spec.schedulerName": _field("spec", "schedulerName"),
            "spec.serviceAccountName": _field("spec", "serviceAccountName"),
            "spec.hostNetwork": lambda pod: str(pod["spec"].get("hostNetwork", False)).lower(),
            "status.phase": _field("status", "phase"), "status.podIP": _field("status", "podIP"),
            "status.nominatedNodeName": _field("status", "nominatedNodeName"),
        },
        default=default_pod, validate=validate_pod, validate_update=pod_update_causes, prepare_create=prepare_pod,
        validate_create=new_pod_causes,
        has_generation=True, returns_deleted=True,
    ),
    Kind(
        resources.CONFIG_MAPS, CORE + "ConfigMap", "configmap", ("cm",),
        columns=(NAME, Column("Data", _data_count), AGE),
        validate=lambda obj: list(_config_causes(obj, "data", "binaryData")),
        validate_update=lambda new, old: _immutable_data(new, old, "data", "binaryData"),
    ),
    Kind(
        resources.SECRETS, CORE + "Secret", "secret",
        columns=(NAME, Column("Type", _field("type")), Column("Data", _data_count), AGE),
        selectable={"type": _field("type")},
        default=_default_secret, validate=lambda obj: [*_config_causes(obj, "data"), *secret_causes(obj)],
        validate_update=_validate_secret_update,
    ),
    Kind(
        resources.SERVICE_ACCOUNTS, CORE + "ServiceAccount", "serviceaccount", ("sa",),
        subresources={
            "token": Subresource(("create",), kind="TokenRequest", group="authentication.k8s.io", version="v1")
        },
        columns=(NAME, Column("Secrets", lambda obj: str(len(obj.get("secrets") or ()))), AGE), returns_deleted=True,
    ),
    Kind(
        resources.SERVICES, CORE + "Service", "service", ("svc",), ("all",),
        subresources={
            "status": replace(status_judged(service_status_causes), prepare=default_ip_mode),
            "proxy": Subresource(_PROXY_VERBS, kind="ServiceProxyOptions"),
        },
        columns=(
            NAME, Column("Type", _field("spec", "type")),
            Column("Cluster-IP", lambda obj: obj["spec"].get("clusterIP") or NONE),
            Column("External-IP", _service_external), Column("Port(s)", _service_ports), AGE,
            Column("Selector", lambda obj: labels_text(obj["spec"].get("selector")), priority=1),
        ),
        selectable={"spec.clusterIP": _field("spec", "clusterIP"), "spec.type": _field("spec", "type")},
        validate_name=names.dns_label, default=_default_service, validate=_validate_service, returns_deleted=True,
        creates_on_update=True,
    ),
    Kind(
        resources.ENDPOINTS, CORE + "Endpoints", "endpoints", ("ep",),
        columns=(NAME, Column("Endpoints", _endpoints_text), AGE), creates_on_update=True,
        default=default_endpoints, validate=lambda obj: list(endpoints_causes(obj)),
        deprecated="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
    Kind(
        Resource("", "v1", "componentstatuses", "ComponentStatus", namespaced=False), CORE + "ComponentStatus",
        "componentstatus", ("cs",), verbs=("get", "list"),
        columns=(
            NAME, Column("Status", lambda obj: "Healthy" if _health(obj).get("status") == "True" else "Unhealthy"),
            Column("Message", lambda obj: _health(obj).get("message", "")),
            Column("Error", lambda obj: _health(obj).get("error", "")),
        ),
        deprecated="v1 ComponentStatus is deprecated in v1.19+",
    ),
    Kind(
        resources.EVENTS, CORE + "Event", "event", ("ev",),
        columns=EVENT_COLUMNS, selectable=EVENT_SELECTABLE, prepare_create=_prepare_event,
        validate=lambda event: list(event_causes(event)), creates_on_update=True,
        ends=True,
    ),
)  # fmt: skip
