"""Pods, and the pod templates of workloads."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cli.describing.volumes import volumes
from cli.describing.writer import NONE, Object, Writer, annotations, mapping, timestamp
from machinery.api.meta import controller_of

_FIELDS_OF_RESOURCE = {"limits.cpu", "limits.memory", "requests.cpu", "requests.memory"}


def pod(out: Writer, obj: Object) -> None:
    """Write a pod."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    if spec.get("priority") is not None:
        out.write(0, f"Priority:\t{spec['priority']}")
    if spec.get("priorityClassName"):
        out.write(0, f"Priority Class Name:\t{spec['priorityClassName']}")
    if spec.get("runtimeClassName"):
        out.write(0, f"Runtime Class Name:\t{spec['runtimeClassName']}")
    out.write(0, f"Service Account:\t{spec.get('serviceAccountName', '')}")
    node = spec.get("nodeName")
    out.write(0, f"Node:\t{node}/{status.get('hostIP', '')}" if node else f"Node:\t{NONE}")
    if status.get("startTime"):
        out.write(0, f"Start Time:\t{timestamp(status['startTime'])}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    if metadata.get("deletionTimestamp"):
        from cli.describing.writer import age

        out.write(0, f"Status:\tTerminating (lasts {age(metadata['deletionTimestamp'])})")
        out.write(0, f"Termination Grace Period:\t{metadata.get('deletionGracePeriodSeconds', 0)}s")
    else:
        out.write(0, f"Status:\t{status.get('phase', '')}")
    for title, field in (("Reason", "reason"), ("Message", "message")):
        if status.get(field):
            out.write(0, f"{title}:\t{status[field]}")
    _security(out, spec.get("securityContext") or {})
    _addresses(out, status)
    owner = controller_of(obj)
    if owner:
        out.write(0, f"Controlled By:\t{owner['kind']}/{owner['name']}")
    if status.get("nominatedNodeName"):
        out.write(0, f"NominatedNodeName:\t{status['nominatedNodeName']}")
    _containers(out, obj, status)
    _after_containers(out, obj, spec, status)


def _security(out: Writer, context: Object) -> None:
    profile = context.get("seccompProfile")
    if profile:
        out.write(0, f"SeccompProfile:\t{profile['type']}")
        if profile["type"] == "Localhost":
            out.write(0, f"LocalhostProfile:\t{profile.get('localhostProfile', '')}")


def _addresses(out: Writer, status: Object) -> None:
    out.write(0, f"IP:\t{status.get('podIP', '')}")
    addresses = status.get("podIPs") or ()
    if addresses:
        out.write(0, "IPs:")
        for one in addresses:
            out.write(1, f"IP:\t{one['ip']}")
    else:
        out.write(0, f"IPs:\t{NONE}")


def _containers(out: Writer, obj: Object, status: Object) -> None:
    spec = obj["spec"]
    groups = (
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    )
    for title, field, statuses in groups:
        if spec.get(field):
            found = {one["name"]: one for one in status.get(statuses) or ()}
            containers(out, title, spec[field], found, obj, space="")


def _after_containers(out: Writer, obj: Object, spec: Object, status: Object) -> None:
    if spec.get("readinessGates"):
        out.write(0, "Readiness Gates:\n  Type\tStatus")
        conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        for gate in spec["readinessGates"]:
            kind = gate["conditionType"]
            out.write(1, f"{kind}\t{conditions.get(kind, NONE)}")
    if status.get("conditions"):
        out.write(0, "Conditions:\n  Type\tStatus")
        for one in status["conditions"]:
            out.write(1, f"{one['type']} \t{one['status']} ")
    volumes(out, spec.get("volumes") or (), space="")
    if status.get("qosClass"):
        out.write(0, f"QoS Class:\t{status['qosClass']}")
    mapping(out, 0, "Node-Selectors", spec.get("nodeSelector"))
    tolerations(out, "Tolerations", spec.get("tolerations") or ())
    spreads(out, spec.get("topologySpreadConstraints") or ())


def spreads(out: Writer, constraints: Sequence[Object]) -> None:
    """Write topology spread constraints."""
    from cli.describing.writer import selector

    lines = []
    for one in sorted(constraints, key=lambda item: str(item["topologyKey"])):
        text = f"{one['topologyKey']}:{one['whenUnsatisfiable']} when max skew {one['maxSkew']} is exceeded"
        if one.get("labelSelector") is not None:
            text += f" for selector {selector(one['labelSelector'])}"
        lines.append(text)
    if lines:
        out.write(0, "Topology Spread Constraints:\t" + "\n\t".join(lines))


def tolerations(out: Writer, title: str, found: Sequence[Object]) -> None:
    """Write tolerations, sorted by key."""
    lines = [_toleration(one) for one in sorted(found, key=lambda item: str(item.get("key", "")))]
    out.write(0, f"{title}:\t" + "\n\t".join(lines or [NONE]))


def _toleration(one: Object) -> str:
    text = one.get("key", "")
    if one.get("value"):
        text += f"={one['value']}"
    if one.get("effect"):
        text += f":{one['effect']}"
    if one.get("operator") == "Exists" and not one.get("value"):
        text = text if text else ""
        text += " op=Exists" if one.get("key") or one.get("effect") else "op=Exists"
    if one.get("tolerationSeconds") is not None:
        text += f" for {one['tolerationSeconds']}s"
    return str(text)


def containers(
    out: Writer, title: str, found: Sequence[Object], statuses: Mapping[str, Object], obj: Object | None, *, space: str
) -> None:
    """Write containers; `obj` is the pod they are of, None for a template's; `space` stands before names."""
    out.write(0, f"{space}{title}:")
    for container in found:
        status = statuses.get(container["name"])
        out.write(1, f"{' ' if space else ''}{container['name']}:")
        _basic(out, container, status)
        _command(out, container)
        if status is not None:
            _status(out, status)
        _resources(out, container)
        _probes(out, container)
        _env_from(out, container)
        _env(out, container, obj)
        _mounts(out, container)


def _basic(out: Writer, container: Object, status: Object | None) -> None:
    if status is not None:
        out.write(2, f"Container ID:\t{status.get('containerID', '')}")
    out.write(2, f"Image:\t{container.get('image', '')}")
    if status is not None:
        out.write(2, f"Image ID:\t{status.get('imageID', '')}")
    ports = container.get("ports") or ()
    shown = ", ".join(f"{one['containerPort']}/{_named(one)}" for one in ports)
    hosts = ", ".join(f"{one.get('hostPort', 0)}/{_named(one)}" for one in ports)
    plural = "s" if len(ports) > 1 else ""
    out.write(2, f"Port{plural}:\t{shown or NONE}")
    out.write(2, f"Host Port{plural}:\t{hosts or NONE}")
    context = container.get("securityContext") or {}
    if context.get("seccompProfile"):
        out.write(2, f"SeccompProfile:\t{context['seccompProfile']['type']}")


def _named(port: Object) -> str:
    name = f" ({port['name']})" if port.get("name") else ""
    return f"{port.get('protocol', 'TCP')}{name}"


def _command(out: Writer, container: Object) -> None:
    for title, field in (("Command", "command"), ("Args", "args")):
        if container.get(field):
            out.write(2, f"{title}:")
            for part in container[field]:
                for line in str(part).split("\n"):
                    out.write(3, f"{line}")


def _status(out: Writer, status: Object) -> None:
    _state(out, "State", status.get("state") or {})
    if (status.get("lastState") or {}).get("terminated"):
        _state(out, "Last State", status["lastState"])
    out.write(2, f"Ready:\t{'True' if status.get('ready') else 'False'}")
    out.write(2, f"Restart Count:\t{status.get('restartCount', 0)}")


def _state(out: Writer, title: str, state: Object) -> None:
    if "running" in state:
        out.write(2, f"{title}:\tRunning")
        out.write(3, f"Started:\t{timestamp(state['running'].get('startedAt'))}")
    elif "terminated" in state:
        body = state["terminated"]
        out.write(2, f"{title}:\tTerminated")
        if body.get("reason"):
            out.write(3, f"Reason:\t{body['reason']}")
        if body.get("message"):
            out.write(3, f"Message:\t{body['message']}")
        out.write(3, f"Exit Code:\t{body.get('exitCode', 0)}")
        if body.get("signal"):
            out.write(3, f"Signal:\t{body['signal']}")
        out.write(3, f"Started:\t{timestamp(body.get('startedAt'))}")
        out.write(3, f"Finished:\t{timestamp(body.get('finishedAt'))}")
    else:
        out.write(2, f"{title}:\tWaiting")
        if (state.get("waiting") or {}).get("reason"):
            out.write(3, f"Reason:\t{state['waiting']['reason']}")


def _resources(out: Writer, container: Object) -> None:
    resources = container.get("resources") or {}
    for title, field in (("Limits", "limits"), ("Requests", "requests")):
        if resources.get(field):
            out.write(2, f"{title}:")
            for name, value in sorted(resources[field].items()):
                out.write(3, f"{name}:\t{value}")


def _probes(out: Writer, container: Object) -> None:
    for title, field in (("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")):
        if container.get(field):
            out.write(2, f"{title}:\t{probe(container[field])}")


def probe(one: Object) -> str:
    """Return a probe as one line."""
    times = (
        f"delay={one.get('initialDelaySeconds', 0)}s timeout={one.get('timeoutSeconds', 1)}s "
        f"period={one.get('periodSeconds', 10)}s #success={one.get('successThreshold', 1)} "
        f"#failure={one.get('failureThreshold', 3)}"
    )
    if "exec" in one:
        return f"exec [{' '.join(one['exec'].get('command') or ())}] {times}"
    if "httpGet" in one:
        get = one["httpGet"]
        path = get.get("path", "")
        path = path if path.startswith("/") else f"/{path}" if path else path
        return f"http-get {get.get('scheme', 'HTTP').lower()}://{get.get('host', '')}:{get['port']}{path} {times}"
    if "tcpSocket" in one:
        return f"tcp-socket {one['tcpSocket'].get('host', '')}:{one['tcpSocket']['port']} {times}"
    if "grpc" in one:
        return f"grpc <pod>:{one['grpc']['port']} {one['grpc'].get('service') or ''} {times}"
    return f"unknown {times}"


def _env_from(out: Writer, container: Object) -> None:
    if not container.get("envFrom"):
        return
    out.write(2, "Environment Variables from:")
    for one in container["envFrom"]:
        ref, kind = (one["configMapRef"], "ConfigMap") if "configMapRef" in one else (one["secretRef"], "Secret")
        prefix = f" with prefix '{one['prefix']}'" if one.get("prefix") else ""
        optional = "true" if ref.get("optional") else "false"
        out.write(3, f"{ref['name']}\t{kind}{prefix}\tOptional: {optional}")


def _env(out: Writer, container: Object, obj: Object | None) -> None:
    if not container.get("env"):
        out.write(2, f"Environment:\t{NONE}")
        return
    out.write(2, "Environment:")
    for one in container["env"]:
        source = one.get("valueFrom")
        if source is None:
            for at, line in enumerate(str(one.get("value", "")).split("\n")):
                out.write(3, f"{one['name']}:\t{line}" if at == 0 else f"\t{line}")
        else:
            out.write(3, f"{one['name']}:\t{_env_source(source, container, obj)}")


def _env_source(source: Object, container: Object, obj: Object | None) -> str:
    if "fieldRef" in source:
        ref = source["fieldRef"]
        value = field_value(obj, ref["fieldPath"]) if obj is not None else ""
        return f"{value} ({ref.get('apiVersion', 'v1')}:{ref['fieldPath']})"
    if "resourceFieldRef" in source:
        ref = source["resourceFieldRef"]
        return f"{_resource_value(container, ref)} ({ref['resource']})"
    is_secret = "secretKeyRef" in source
    ref = source["secretKeyRef"] if is_secret else source["configMapKeyRef"]
    optional = "true" if ref.get("optional") else "false"
    return f"<set to the key '{ref['key']}' {'in secret' if is_secret else 'of config map'} '{ref['name']}'>\tOptional: {optional}"


def _resource_value(container: Object, ref: Object) -> str:
    kind, _, name = ref["resource"].partition(".")
    value = ((container.get("resources") or {}).get(kind) or {}).get(name)
    if value is None:
        return "node allocatable" if kind == "limits" else "0"
    from machinery.api.quantity import parse_quantity

    divisor = parse_quantity(ref.get("divisor") or "1") or 1
    return str(math.ceil(parse_quantity(value) / divisor))


def field_value(obj: Object, path: str) -> str:
    """Return what a field reference of the downward API leads to."""
    metadata, spec = obj["metadata"], obj["spec"]
    plain: dict[str, Any] = {
        "metadata.name": metadata.get("name"), "metadata.namespace": metadata.get("namespace"),
        "metadata.uid": metadata.get("uid"), "spec.nodeName": spec.get("nodeName"),
        "spec.serviceAccountName": spec.get("serviceAccountName"),
    }  # fmt: skip
    return str(plain.get(path) or "")


def _mounts(out: Writer, container: Object) -> None:
    found = container.get("volumeMounts") or ()
    if not found:
        out.write(2, f"Mounts:\t{NONE}")
    else:
        out.write(2, "Mounts:")
        for one in sorted(found, key=lambda item: str(item["mountPath"])):
            flags = ["ro" if one.get("readOnly") else "rw"]
            if one.get("subPath"):
                flags.append(f'path="{one["subPath"]}"')
            out.write(3, f"{one['mountPath']} from {one['name']} ({','.join(flags)})")
    if container.get("volumeDevices"):
        out.write(2, "Devices:")
        for one in sorted(container["volumeDevices"], key=lambda item: str(item["devicePath"])):
            out.write(3, f"{one['devicePath']} from {one['name']}")


def template(out: Writer, found: Object) -> None:
    """Write a workload's pod template."""
    out.write(0, "Pod Template:")
    _template_body(out, found)


def _template_body(out: Writer, found: Object) -> None:
    metadata, spec = found.get("metadata") or {}, found.get("spec") or {}
    mapping(out, 1, "Labels", metadata.get("labels"))
    if metadata.get("annotations"):
        annotations(out, 1, "Annotations", metadata["annotations"])
    if spec.get("serviceAccountName"):
        out.write(1, f"Service Account:\t{spec['serviceAccountName']}")
    if spec.get("initContainers"):
        containers(out, "Init Containers", spec["initContainers"], {}, None, space="  ")
    containers(out, "Containers", spec.get("containers") or (), {}, None, space="  ")
    volumes(out, spec.get("volumes") or (), space="  ")
    spreads(out, spec.get("topologySpreadConstraints") or ())
    if spec.get("priorityClassName"):
        out.write(1, f"Priority Class Name:\t{spec['priorityClassName']}")
    mapping(out, 1, "Node-Selectors", spec.get("nodeSelector"))
    inner = Writer()
    tolerations(inner, "Tolerations", spec.get("tolerations") or ())
    for at, line in enumerate(inner.raw().split("\n")):
        out.write(1 if at == 0 else 0, line if at == 0 else f"  {line}")


def template_lines(found: Object) -> str:
    """Return a pod template as text."""
    out = Writer()
    template(out, found)
    return out.text() + "\n"
