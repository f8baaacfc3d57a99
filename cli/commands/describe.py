"""`wherry describe`: an object told at length, with its events; the layout is kubectl's."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from cli import options
from cli.connection import Connection, connect
from cli.resources import Discovery, Target, targets
from machinery.api.meta import controller_of, parse_time
from machinery.errors import APIError

Object = dict[str, Any]
Lines = list[str]
NONE = "<none>"


@click.command()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("--show-events/--no-show-events", default=True)
def describe(words: Sequence[str], show_events: bool, **given: Any) -> None:
    """Tell of objects at length."""
    connection = connect(options.split(given))
    namespace = "" if given["all_namespaces"] else given["namespace"] or connection.config.namespace
    texts, failed = [], False
    for target in targets(Discovery(connection), words):
        try:
            for obj in _objects(connection, target, namespace, given["selector"]):
                lines = describe_object(obj)
                if show_events:
                    lines += _events(connection, obj)
                texts.append("\n".join(lines))
        except APIError as error:
            click.echo(f"Error from server ({error.reason}): {error}", err=True)
            failed = True
    if texts:
        click.echo("\n\n\n".join(texts))
    elif not failed:
        click.echo(f"No resources found in {namespace} namespace." if namespace else "No resources found", err=True)
    sys.exit(1 if failed else 0)


def _objects(connection: Connection, target: Target, namespace: str, selector: str) -> list[Object]:
    resource = target.known.resource
    answer = connection.json("GET", resource.path(namespace, target.name), params={"labelSelector": selector})
    if target.name:
        return [answer]
    return [{"kind": resource.kind, "apiVersion": resource.api_version, **item} for item in answer["items"]]


def _events(connection: Connection, obj: Object) -> Lines:
    metadata = obj["metadata"]
    selector = f"involvedObject.uid={metadata['uid']}"
    path = f"/api/v1/namespaces/{metadata['namespace']}/events" if metadata.get("namespace") else "/api/v1/events"
    found = connection.json("GET", path, params={"fieldSelector": selector})["items"]
    if not found:
        return [_pair("Events", NONE)]
    rows = [("Type", "Reason", "Age", "From", "Message"), ("----", "------", "----", "----", "-------")]
    for event in sorted(found, key=lambda one: one.get("lastTimestamp") or ""):
        source = event.get("source") or {}
        age = _age(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])
        if event.get("count", 1) > 1:
            age += f" (x{event['count']} over {_age(event.get('firstTimestamp') or '')})"
        whose = source.get("component") or event.get("reportingComponent", "")
        rows.append((event["type"], event["reason"], age, whose, event.get("message", "").strip()))
    return ["Events:", *_columns(rows, indent=2)]


def _age(timestamp: str) -> str:
    if not timestamp:
        return "<unknown>"
    seconds = max(int(time.time() - parse_time(timestamp).timestamp()), 0)
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit}{name}"
    return f"{seconds // 86400}d"


def _columns(rows: Iterable[Sequence[str]], *, indent: int) -> Lines:
    listed = [list(row) for row in rows]
    widths = [max(len(row[at]) for row in listed) for at in range(len(listed[0]))]
    return [
        " " * indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in listed
    ]


def _pair(name: str, value: Any, *, indent: int = 0, width: int = 18) -> str:
    return f"{' ' * indent}{(name + ':').ljust(width)}{value}".rstrip()


def _mapping(name: str, values: Mapping[str, Any] | None, *, sign: str = "=", indent: int = 0) -> Lines:
    items = [f"{key}{sign}{value}" for key, value in sorted((values or {}).items())] or [NONE]
    first = _pair(name, items[0], indent=indent)
    return [first, *(" " * (indent + 18) + item for item in items[1:])]


def describe_object(obj: Object) -> Lines:
    """Return the lines that tell of an object, events left out."""
    metadata = obj["metadata"]
    lines = [_pair("Name", metadata["name"])]
    if metadata.get("namespace"):
        lines.append(_pair("Namespace", metadata["namespace"]))
    lines += _mapping("Labels", metadata.get("labels"))
    annotations = {
        key: value for key, value in (metadata.get("annotations") or {}).items() if "last-applied" not in key
    }
    lines += _mapping("Annotations", annotations, sign=": ")
    if metadata.get("deletionTimestamp"):
        lines.append(_pair("Status", f"Terminating (lasts {_age(metadata['deletionTimestamp'])})"))
    return lines + _PARTS.get(obj["kind"], _generic)(obj)


def _generic(obj: Object) -> Lines:
    import yaml

    lines = [_pair("Created", obj["metadata"].get("creationTimestamp", ""))]
    for name, value in obj.items():
        if name not in ("metadata", "kind", "apiVersion"):
            text = yaml.safe_dump(value, sort_keys=True, default_flow_style=False).rstrip()
            title = name[:1].upper() + name[1:]
            lines += [f"{title}:", *("  " + line for line in text.splitlines())]
    return lines


def _pod(pod: Object) -> Lines:
    spec, status = pod["spec"], pod.get("status") or {}
    node = spec.get("nodeName")
    lines = [
        _pair("Priority", spec.get("priority", 0)), _pair("Service Account", spec.get("serviceAccountName", "")),
        _pair("Node", f"{node}/{status.get('hostIP', '')}" if node else NONE),
        _pair("Start Time", status.get("startTime", "")), _pair("Status", status.get("phase", "")),
    ]  # fmt: skip
    if status.get("reason"):
        lines += [_pair("Reason", status["reason"]), _pair("Message", status.get("message", ""))]
    lines += [_pair("IP", status.get("podIP", "")), "IPs:"]
    lines += [_pair("IP", one["ip"], indent=2, width=9) for one in status.get("podIPs") or ()]
    owner = controller_of(pod)
    if owner:
        lines.append(_pair("Controlled By", f"{owner['kind']}/{owner['name']}"))
    for title, group in (("Init Containers", "initContainers"), ("Containers", "containers")):
        if spec.get(group):
            statuses = {one["name"]: one for one in status.get(group[:-1] + "Statuses") or ()}
            lines.append(f"{title}:")
            lines += [line for one in spec[group] for line in _container(one, statuses.get(one["name"]))]
    conditions = [("Type", "Status"), *((one["type"], one["status"]) for one in status.get("conditions") or ())]
    lines += ["Conditions:", *_columns(conditions, indent=2), "Volumes:"]
    for volume in spec.get("volumes") or ():
        kind = next((key for key in volume if key != "name"), "")
        lines += [f"  {volume['name']}:", _pair("Type", kind, indent=4)]
    lines.append(_pair("QoS Class", status.get("qosClass", "")))
    lines += _mapping("Node-Selectors", spec.get("nodeSelector"))
    tolerations = [_toleration(one) for one in spec.get("tolerations") or ()] or [NONE]
    return [*lines, _pair("Tolerations", tolerations[0]), *(" " * 18 + one for one in tolerations[1:])]


def _toleration(one: Mapping[str, Any]) -> str:
    text = one.get("key", "")
    if one.get("value"):
        text += f"={one['value']}"
    text += f":{one['effect']}" if one.get("effect") else ""
    text += " op=Exists" if one.get("operator") == "Exists" else ""
    return text + (f" for {one['tolerationSeconds']}s" if one.get("tolerationSeconds") is not None else "")


def _container(spec: Object, status: Object | None) -> Lines:
    found = status or {}
    ports = ", ".join(f"{one['containerPort']}/{one.get('protocol', 'TCP')}" for one in spec.get("ports") or ()) or NONE
    lines = [
        f"  {spec['name']}:", _pair("Container ID", found.get("containerID", ""), indent=4),
        _pair("Image", spec.get("image", ""), indent=4), _pair("Image ID", found.get("imageID", ""), indent=4),
        _pair("Port", ports, indent=4),
    ]  # fmt: skip
    for title, field in (("Command", "command"), ("Args", "args")):
        if spec.get(field):
            lines += [f"    {title}:", *(f"      {part}" for part in spec[field])]
    for title, field in (("State", "state"), ("Last State", "lastState")):
        lines += _state(title, found.get(field) or {})
    lines += [_pair("Ready", found.get("ready", False), indent=4)]
    lines += [_pair("Restart Count", found.get("restartCount", 0), indent=4)]
    for title, field in (("Limits", "limits"), ("Requests", "requests")):
        values = (spec.get("resources") or {}).get(field)
        if values:
            lines += [
                f"    {title}:",
                *(_pair(name, value, indent=6, width=12) for name, value in sorted(values.items())),
            ]
    environment = [f"      {one['name']}:  {one.get('value', '<set by reference>')}" for one in spec.get("env") or ()]
    lines += ["    Environment:", *environment] if environment else [_pair("Environment", NONE, indent=4)]
    mounts = [
        f"      {one['mountPath']} from {one['name']} ({'ro' if one.get('readOnly') else 'rw'})"
        for one in spec.get("volumeMounts") or ()
    ]
    return lines + (["    Mounts:", *mounts] if mounts else [_pair("Mounts", NONE, indent=4)])


_STATE_FIELDS = (
    ("Reason", "reason"), ("Message", "message"), ("Exit Code", "exitCode"), ("Started", "startedAt"),
    ("Finished", "finishedAt"),
)  # fmt: skip


def _state(title: str, state: Object) -> Lines:
    if not state:
        return []
    kind, body = next(iter(state.items()))
    lines = [_pair(title, kind.title(), indent=4)]
    for name, field in _STATE_FIELDS:
        if body.get(field) not in (None, ""):
            lines.append(_pair(name, body[field], indent=6, width=16))
    return lines


def _template(template: Object) -> Lines:
    lines = [
        "Pod Template:",
        *_mapping("Labels", (template.get("metadata") or {}).get("labels"), indent=2),
        "  Containers:",
    ]
    for one in template["spec"].get("containers") or ():
        ports = ", ".join(f"{p['containerPort']}/{p.get('protocol', 'TCP')}" for p in one.get("ports") or ()) or NONE
        lines += [f"   {one['name']}:", _pair("Image", one.get("image", ""), indent=4), _pair("Port", ports, indent=4)]
    return lines


def _selector(obj: Object) -> str:
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or NONE


def _deployment(obj: Object) -> Lines:
    spec, status = obj["spec"], obj.get("status") or {}
    numbers = [
        f"{spec.get('replicas', 0)} desired", f"{status.get('updatedReplicas', 0)} updated",
        f"{status.get('replicas', 0)} total", f"{status.get('availableReplicas', 0)} available",
        f"{status.get('unavailableReplicas', 0)} unavailable",
    ]  # fmt: skip
    lines = [
        _pair("Selector", _selector(obj)), _pair("Replicas", " | ".join(numbers)),
        _pair("StrategyType", spec["strategy"]["type"]), _pair("MinReadySeconds", spec.get("minReadySeconds", 0)),
    ]  # fmt: skip
    rolling = spec["strategy"].get("rollingUpdate")
    if rolling:
        text = f"{rolling['maxUnavailable']} max unavailable, {rolling['maxSurge']} max surge"
        lines.append(_pair("RollingUpdateStrategy", text, width=23))
    rows = [("Type", "Status", "Reason"), ("----", "------", "------")]
    rows += [(one["type"], one["status"], one.get("reason", "")) for one in status.get("conditions") or ()]
    return [*lines, *_template(spec["template"]), "Conditions:", *_columns(rows, indent=2)]


def _replica_set(obj: Object) -> Lines:
    spec, status = obj["spec"], obj.get("status") or {}
    owner = controller_of(obj)
    lines = [_pair("Controlled By", f"{owner['kind']}/{owner['name']}")] if owner else []
    numbers = f"{status.get('replicas', 0)} current / {spec.get('replicas', 0)} desired"
    return [_pair("Selector", _selector(obj)), *lines, _pair("Replicas", numbers), *_template(spec["template"])]


def _service(obj: Object) -> Lines:
    spec = obj["spec"]
    lines = [
        *_mapping("Selector", spec.get("selector")), _pair("Type", spec["type"]),
        _pair("IP Families", ",".join(spec.get("ipFamilies") or ()) or NONE), _pair("IP", spec.get("clusterIP", "")),
    ]  # fmt: skip
    for port in spec.get("ports") or ():
        lines.append(_pair("Port", f"{port.get('name') or '<unset>'}  {port['port']}/{port['protocol']}"))
        lines.append(_pair("TargetPort", f"{port.get('targetPort')}/{port['protocol']}"))
        if port.get("nodePort"):
            lines.append(_pair("NodePort", f"{port.get('name') or '<unset>'}  {port['nodePort']}/{port['protocol']}"))
    return [*lines, _pair("Session Affinity", spec.get("sessionAffinity", "None"))]


def _node(obj: Object) -> Lines:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    taints = [
        f"{one['key']}{'=' + one['value'] if one.get('value') else ''}:{one['effect']}"
        for one in spec.get("taints") or ()
    ]
    lines = [
        _pair("Taints", ", ".join(taints) or NONE),
        _pair("Unschedulable", str(spec.get("unschedulable", False)).lower()),
    ]
    rows = [("Type", "Status", "Reason", "Message"), ("----", "------", "------", "-------")]
    rows += [
        (one["type"], one["status"], one.get("reason", ""), one.get("message", ""))
        for one in status.get("conditions") or ()
    ]
    lines += ["Conditions:", *_columns(rows, indent=2), "Addresses:"]
    lines += [f"  {one['type']}:  {one['address']}" for one in status.get("addresses") or ()]
    for title in ("capacity", "allocatable"):
        lines += [
            f"{title.title()}:",
            *(_pair(key, value, indent=2, width=20) for key, value in sorted((status.get(title) or {}).items())),
        ]
    info = sorted((status.get("nodeInfo") or {}).items())
    return [*lines, "System Info:", *(_pair(key, value, indent=2, width=26) for key, value in info)]


def _config_map(obj: Object) -> Lines:
    lines = ["", "Data", "===="]
    for key, value in sorted((obj.get("data") or {}).items()):
        lines += [f"{key}:", "----", value, ""]
    return [*lines, "BinaryData", "===="]


def _secret(obj: Object) -> Lines:
    import base64

    sizes = {key: f"{len(base64.b64decode(value))} bytes" for key, value in sorted((obj.get("data") or {}).items())}
    return [
        "",
        _pair("Type", obj.get("type", "")),
        "",
        "Data",
        "====",
        *(f"{key}:  {size}" for key, size in sizes.items()),
    ]


def _namespace(obj: Object) -> Lines:
    return [_pair("Status", (obj.get("status") or {}).get("phase", ""))]


_PARTS: Mapping[str, Callable[[Object], Lines]] = {
    "Pod": _pod, "Deployment": _deployment, "ReplicaSet": _replica_set, "Service": _service, "Node": _node,
    "ConfigMap": _config_map, "Secret": _secret, "Namespace": _namespace,
}  # fmt: skip
