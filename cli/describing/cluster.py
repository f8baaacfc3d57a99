"""Nodes, namespaces, leases, priority classes, quotas, limit ranges, and what is known by its fields alone."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from cli.describing.writer import NONE, Object, Writer, age, annotations, head, mapping, rows, timestamp
from machinery.api.quantity import Form, canonical, format_quantity, parse_quantity

_INFO = (
    ("Machine ID", "machineID"), ("System UUID", "systemUUID"), ("Boot ID", "bootID"), ("Kernel Version", "kernelVersion"),
    ("OS Image", "osImage"), ("Operating System", "operatingSystem"), ("Architecture", "architecture"),
    ("Container Runtime Version", "containerRuntimeVersion"), ("Kubelet Version", "kubeletVersion"),
    ("Kube-Proxy Version", "kubeProxyVersion"),
)  # fmt: skip


def node(out: Writer, obj: Object, pods: Sequence[Object], lease: Object | None) -> None:
    """Write a node; `pods` are those on it that have not ended."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    out.write(0, f"Name:\t{metadata['name']}")
    roles = sorted(_roles(metadata.get("labels") or {}))
    out.write(0, f"Roles:\t{','.join(roles) or NONE}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    out.write(0, f"CreationTimestamp:\t{timestamp(metadata.get('creationTimestamp'))}")
    taints = sorted(
        f"{one['key']}={one['value']}:{one['effect']}" if one.get("value") else f"{one['key']}:{one['effect']}"
        for one in spec.get("taints") or ()
    )
    out.write(0, "Taints:\t" + ("\n\t".join(taints) or NONE))
    out.write(0, f"Unschedulable:\t{'true' if spec.get('unschedulable') else 'false'}")
    _lease(out, lease)
    _node_conditions(out, status)
    if status.get("addresses") is not None:
        out.write(0, "Addresses:")
        for one in status["addresses"]:
            out.write(1, f"{one['type']}:\t{one['address']}")
    for title in ("Capacity", "Allocatable"):
        if status.get(title.lower()):
            out.write(0, f"{title}:")
            for name, value in sorted(status[title.lower()].items()):
                out.write(1, f"{name}:\t{value}")
    out.write(0, "System Info:")
    info = status.get("nodeInfo") or {}
    for title, field in _INFO:
        out.write(1, f"{title}:\t{info.get(field, '')}")
    if spec.get("podCIDR"):
        out.write(0, f"PodCIDR:\t{spec['podCIDR']}")
        out.write(0, f"PodCIDRs:\t{','.join(spec.get('podCIDRs') or ())}")
    if spec.get("providerID"):
        out.write(0, f"ProviderID:\t{spec['providerID']}")
    _pods(out, pods, status.get("allocatable") or status.get("capacity") or {})


def _node_conditions(out: Writer, status: Object) -> None:
    if status.get("conditions"):
        out.write(0, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage")
        out.write(1, "----\t------\t-----------------\t------------------\t------\t-------")
        for one in status["conditions"]:
            beat, changed = timestamp(one.get("lastHeartbeatTime")), timestamp(one.get("lastTransitionTime"))
            out.write(
                1,
                f"{one['type']} \t{one['status']} \t{beat} \t{changed} \t{one.get('reason', '')} \t{one.get('message', '')}",
            )


def _roles(labels: dict[str, str]) -> set[str]:
    prefix = "node-role.kubernetes.io/"
    found = {key.removeprefix(prefix) for key in labels if key.startswith(prefix)} - {""}
    return found | ({labels["kubernetes.io/role"]} if labels.get("kubernetes.io/role") else set())


def _lease(out: Writer, lease: Object | None) -> None:
    spec = (lease or {}).get("spec") or {}
    out.write(0, "Lease:")
    out.write(1, f"HolderIdentity:\t{spec.get('holderIdentity') or '<unset>'}")
    acquired, renewed = spec.get("acquireTime"), spec.get("renewTime")
    out.write(1, f"AcquireTime:\t{timestamp(acquired) if acquired else '<unset>'}")
    out.write(1, f"RenewTime:\t{timestamp(renewed) if renewed else '<unset>'}")


def pod_totals(pod: Object) -> dict[str, dict[str, Decimal]]:
    """Return what a pod asks for and is limited to: the larger of its containers together and any init container."""
    found: dict[str, dict[str, Decimal]] = {}
    spec = pod["spec"]
    for kind in ("requests", "limits"):
        total: dict[str, Decimal] = {}
        for container in spec.get("containers") or ():
            for name, value in ((container.get("resources") or {}).get(kind) or {}).items():
                total[name] = total.get(name, Decimal(0)) + parse_quantity(value)
        for container in spec.get("initContainers") or ():
            for name, value in ((container.get("resources") or {}).get(kind) or {}).items():
                amount = parse_quantity(value)
                if container.get("restartPolicy") == "Always":
                    total[name] = total.get(name, Decimal(0)) + amount
                else:
                    total[name] = max(total.get(name, Decimal(0)), amount)
        for name, value in (spec.get("overhead") or {}).items():
            if name in total or kind == "requests":
                total[name] = total.get(name, Decimal(0)) + parse_quantity(value)
        found[kind] = total
    return found


def _amount(value: Decimal, name: str) -> str:
    form = Form.DECIMAL_SI if name == "cpu" or value % 1024 else Form.BINARY_SI
    return format_quantity(value, form)


def _share(value: Decimal, whole: Any) -> int:
    total = parse_quantity(whole) if whole else Decimal(0)
    return int(value * 100 / total) if total else 0


def _pods(out: Writer, pods: Sequence[Object], allocatable: dict[str, Any]) -> None:
    out.write(0, f"Non-terminated Pods:\t({len(pods)} in total)")
    out.write(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge")
    out.write(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---")
    sums: dict[str, dict[str, Decimal]] = {"requests": {}, "limits": {}}
    for pod in pods:
        totals = pod_totals(pod)
        for kind, amounts in totals.items():
            for name, value in amounts.items():
                sums[kind][name] = sums[kind].get(name, Decimal(0)) + value
        cells = [
            f"{_amount(totals[kind].get(name, Decimal(0)), name)} ({_share(totals[kind].get(name, Decimal(0)), allocatable.get(name))}%)"
            for name in ("cpu", "memory") for kind in ("requests", "limits")
        ]  # fmt: skip
        metadata = pod["metadata"]
        out.write(
            1, "\t".join([metadata["namespace"], metadata["name"], "", *cells, age(metadata.get("creationTimestamp"))])
        )
    out.write(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)")
    out.write(1, "Resource\tRequests\tLimits")
    out.write(1, "--------\t--------\t------")
    names = [
        "cpu",
        "memory",
        "ephemeral-storage",
        *sorted(name for name in allocatable if name.startswith("hugepages-")),
    ]
    names += sorted(name for name in allocatable if "/" in name)
    for name in names:
        cells = [
            f"{_amount(sums[kind].get(name, Decimal(0)), name)} ({_share(sums[kind].get(name, Decimal(0)), allocatable.get(name))}%)"
            for kind in ("requests", "limits")
        ]  # fmt: skip
        out.write(1, f"{name}\t" + "\t".join(cells))


def namespace(out: Writer, obj: Object, quotas: Sequence[Object], limits: Sequence[Object]) -> None:
    """Write a namespace with its quotas and limits."""
    head(out, obj, namespaced=False)
    out.write(0, f"Status:\t{(obj.get('status') or {}).get('phase', '')}")
    conditions = (obj.get("status") or {}).get("conditions")
    if conditions:
        out.write(0, "Conditions:")
        rows(out, 1, ("Type", "Status", "LastTransitionTime", "Reason", "Message"), [
            (one["type"], one["status"], timestamp(one.get("lastTransitionTime")), one.get("reason", ""), one.get("message", ""))
            for one in conditions
        ])  # fmt: skip
    out.write(0, "")
    if quotas:
        out.write(0, "Resource Quotas")
        for one in quotas:
            out.write(1, f"Name:\t{one['metadata']['name']}")
            _quota_rows(out, one, 1, short=True)
    else:
        out.write(0, "No resource quota.")
    out.write(0, "")
    if limits:
        out.write(0, "Resource Limits")
        _limit_rows(out, limits, " ")
    else:
        out.write(0, "No LimitRange resource.")


def _quota_rows(out: Writer, obj: Object, level: int, *, short: bool) -> None:
    status = obj.get("status") or {}
    hard, used = status.get("hard") or (obj.get("spec") or {}).get("hard") or {}, status.get("used") or {}
    out.write(level, "Resource\tUsed\tHard")
    out.write(level, "--------\t---\t---" if short else "--------\t----\t----")
    for name, value in sorted(hard.items()):
        out.write(level, f"{name}\t{used.get(name, '0')}\t{value}")


def quota(out: Writer, obj: Object) -> None:
    """Write a quota."""
    out.write(0, f"Name:\t{obj['metadata']['name']}")
    out.write(0, f"Namespace:\t{obj['metadata'].get('namespace', '')}")
    scopes = (obj.get("spec") or {}).get("scopes") or ()
    if scopes:
        out.write(0, f"Scopes:\t{', '.join(sorted(scopes))}")
    _quota_rows(out, obj, 0, short=False)


_BOUNDS = ("min", "max", "defaultRequest", "default", "maxLimitRequestRatio")


def _limit_rows(out: Writer, found: Sequence[Object], space: str) -> None:
    out.write(0, f"{space}Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio")
    out.write(0, f"{space}----\t--------\t---\t---\t---------------\t-------------\t-----------------------")
    for obj in found:
        for one in (obj.get("spec") or {}).get("limits") or ():
            for name in sorted({name for bound in _BOUNDS for name in one.get(bound) or {}}):
                cells = [
                    canonical((one.get(bound) or {})[name]) if name in (one.get(bound) or {}) else "-"
                    for bound in _BOUNDS
                ]
                out.write(0, space + "\t".join([one["type"], name, *cells]))


def limit_range(out: Writer, obj: Object) -> None:
    """Write a limit range."""
    out.write(0, f"Name:\t{obj['metadata']['name']}")
    out.write(0, f"Namespace:\t{obj['metadata'].get('namespace', '')}")
    _limit_rows(out, [obj], "")


def priority_class(out: Writer, obj: Object) -> None:
    """Write a priority class."""
    out.write(0, f"Name:\t{obj['metadata']['name']}")
    out.write(0, f"Value:\t{obj['value']}")
    out.write(0, f"GlobalDefault:\t{'true' if obj.get('globalDefault') else 'false'}")
    out.write(0, f"PreemptionPolicy:\t{obj.get('preemptionPolicy', 'PreemptLowerPriority')}")
    out.write(0, f"Description:\t{obj.get('description', '')}")
    found = obj["metadata"].get("annotations") or {}
    out.write(0, "Annotations:\t" + (",".join(f"{k}={v}" for k, v in sorted(found.items())) or NONE))


def signing_request(out: Writer, obj: Object) -> None:
    """Write a certificate signing request."""
    spec, status = obj["spec"], obj.get("status") or {}
    out.write(0, f"Name:\t{obj['metadata']['name']}")
    mapping(out, 0, "Labels", obj["metadata"].get("labels"))
    annotations(out, 0, "Annotations", obj["metadata"].get("annotations"))
    out.write(0, f"CreationTimestamp:\t{timestamp(obj['metadata'].get('creationTimestamp'))}")
    out.write(0, f"Requesting User:\t{spec.get('username', '')}")
    out.write(0, f"Signer:\t{spec.get('signerName', '')}")
    kinds = [one["type"] for one in status.get("conditions") or ()]
    word = "Denied" if "Denied" in kinds else "Approved" if "Approved" in kinds else "Pending"
    issued = ",Issued" if status.get("certificate") else ""
    out.write(0, f"Status:\t{word}{issued}")


def generic(out: Writer, obj: Object) -> None:
    """Write an object whose kind is not known here: every field under its title, as kubectl does."""
    metadata = obj["metadata"]
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    kept = dict(obj)
    hidden = ("name", "namespace", "labels", "annotations", "managedFields")
    kept["metadata"] = {key: value for key, value in metadata.items() if key not in hidden}
    _fields(out, 0, kept)


def _fields(out: Writer, level: int, values: Object) -> None:
    for key in sorted(values, key=_title):
        _field(out, level, _title(key), values[key])


def _field(out: Writer, level: int, title: str, value: Any) -> None:
    if isinstance(value, dict):
        out.write(level, f"{title}:")
        _fields(out, level + 1, value)
    elif isinstance(value, list):
        out.write(level, f"{title}:")
        for one in value:
            if isinstance(one, dict):
                _fields(out, level + 1, one)
            else:
                out.write(level + 1, _plain(one))
    else:
        out.write(level, f"{title}:\t{_plain(value)}")


def _plain(value: Any) -> str:
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)


_ABBREVIATIONS = {"api": "API", "uid": "UID", "url": "URL", "ip": "IP", "id": "ID", "osb": "OSB"}


def _title(key: str) -> str:
    """Return a field's name as a title: "apiVersion" is "API Version"."""
    import re

    words = re.findall(r"[A-Z]+(?=[A-Z][a-z]|$|[^A-Za-z])|[A-Z]?[a-z0-9]+|[A-Z]+|[^A-Za-z0-9]+", key)
    return " ".join(_ABBREVIATIONS.get(word.lower(), word[:1].upper() + word[1:]) for word in words)
