"""`wherry describe`: an object told at length, with what belongs to it and its events; the layout is kubectl's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from cli import options, problems
from cli.commands.events import age, first_seen, last_seen
from cli.describing import cluster, config, network, pods, volumes, workloads
from cli.describing.writer import NONE, Object, Writer, aligned
from cli.framework import verb
from cli.selection import Selected, select
from cli.session import Session, leave
from machinery.api.meta import controller_of
from machinery.errors import APIError, NotFound


@verb()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.files
@options.kustomize
@options.recursive
@options.everywhere
@click.option("--show-events/--no-show-events", default=True)
@click.option("--chunk-size", default=500, hidden=True)
def describe(words: Sequence[str], show_events: bool, **given: Any) -> None:
    """Tell of objects at length."""
    session = Session(given)
    found = select(session, words, given, needs_name=False)
    if not found:
        where = "" if given["all_namespaces"] else f" in {session.namespace} namespace"
        click.echo(f"No resources found{where}.", err=True)
        return
    told: list[str] = []

    def one_by_one(one: Selected) -> None:
        text = _text(session, one, show_events=show_events)
        is_near = one.live is not None and one.name not in words and len(found) == 1
        click.echo(text if is_near or not told else f"\n\n{text}", nl=False)
        told.append(one.name)

    leave(_each(session, found, one_by_one))


def _each(session: Session, found: Sequence[Selected], action: Callable[[Selected], None]) -> bool:
    """Tell of each; a name that is none may be the beginning of several, as in kubectl."""

    def with_prefix(one: Selected) -> None:
        try:
            action(one)
        except NotFound:
            if one.live is not None or not one.name:
                raise
            path = one.known.resource.path(one.namespace)
            items = session.connection.json("GET", path)["items"]
            near = [item for item in items if item["metadata"]["name"].startswith(one.name)]
            if not near:
                raise
            for item in near:
                action(Selected(one.known, one.namespace, item["metadata"]["name"], live=item))
                click.echo()

    return problems.each(found, with_prefix)


def _text(session: Session, one: Selected, *, show_events: bool) -> str:
    obj = one.read(session)
    out = Writer()
    kind = obj["kind"]
    if kind in _PLAIN:
        _PLAIN[kind](out, obj)
    elif kind in _WITH_MORE:
        _WITH_MORE[kind](session, out, obj)
    else:
        cluster.generic(out, obj)
    raw = out.raw()
    if show_events and kind not in _WITHOUT_EVENTS:
        raw += "\n" + events_text(session, obj)
    return aligned(raw) + "\n"


_WITHOUT_EVENTS = (
    "Secret",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "Namespace",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
)


def events_text(session: Session, obj: Object) -> str:
    """Return the events of an object as lines with tabs. Raises: APIError."""
    metadata = obj["metadata"]
    uid = metadata["name"] if obj["kind"] == "Node" else metadata.get("uid", "")
    terms = {"involvedObject.name": metadata["name"], "involvedObject.kind": obj["kind"], "involvedObject.uid": uid}
    if metadata.get("namespace"):
        terms["involvedObject.namespace"] = metadata["namespace"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/events" if metadata.get("namespace") else "/api/v1/events"
    params = {"fieldSelector": ",".join(f"{key}={value}" for key, value in terms.items())}
    found = session.connection.json("GET", path, params=params)["items"]
    if not found and obj["kind"] == "Node":
        params["fieldSelector"] = params["fieldSelector"].replace(f"uid={uid}", f"uid={metadata.get('uid', '')}")
        found = session.connection.json("GET", path, params=params)["items"]
    if not found:
        return f"Events:\t{NONE}"
    lines = ["Events:\n  Type\tReason\tAge\tFrom\tMessage", "  ----\t------\t----\t----\t-------"]
    for event in sorted(found, key=last_seen):
        source = (event.get("source") or {}).get("component") or event.get("reportingComponent", "")
        host = (event.get("source") or {}).get("host")
        whose = f"{source}, {host}" if host and source else source
        lines.append(
            f"  {event['type']}\t{event['reason']}\t{_interval(event)}\t{whose}\t{event.get('message', '').strip()}"
        )
    return "\n".join(lines)


def _interval(event: Object) -> str:
    series = event.get("series") or {}
    count = series.get("count") or event.get("count") or 1
    if series or count > 1:
        return f"{age(last_seen(event))} (x{count} over {age(first_seen(event))})"
    return age(first_seen(event))


def _owned(session: Session, obj: Object, path: str) -> list[Object]:
    uid = obj["metadata"]["uid"]
    items = session.connection.json("GET", path)["items"]
    return [one for one in items if (owner := controller_of(one)) is not None and owner["uid"] == uid]


def _deployment(session: Session, out: Writer, obj: Object) -> None:
    path = f"/apis/apps/v1/namespaces/{obj['metadata']['namespace']}/replicasets"
    workloads.deployment(out, obj, _owned(session, obj, path))


def _counted(write: Callable[[Writer, Object, dict[str, int]], None]) -> Callable[[Session, Writer, Object], None]:
    def with_pods(session: Session, out: Writer, obj: Object) -> None:
        counts: dict[str, int] = {}
        for pod in _owned(session, obj, f"/api/v1/namespaces/{obj['metadata']['namespace']}/pods"):
            phase = (pod.get("status") or {}).get("phase", "Pending")
            counts[phase] = counts.get(phase, 0) + 1
        write(out, obj, counts)

    return with_pods


def _service(session: Session, out: Writer, obj: Object) -> None:
    metadata = obj["metadata"]
    path = f"/apis/discovery.k8s.io/v1/namespaces/{metadata['namespace']}/endpointslices"
    params = {"labelSelector": f"kubernetes.io/service-name={metadata['name']}"}
    network.service(out, obj, session.connection.json("GET", path, params=params)["items"])


def _ingress(session: Session, out: Writer, obj: Object) -> None:
    namespace = obj["metadata"]["namespace"]

    def behind(name: str, port: Object) -> str:
        try:
            service = session.connection.json("GET", f"/api/v1/namespaces/{namespace}/services/{name}")
        except APIError as error:
            return f"<error: {error}>"
        wanted = (port.get("number"), port.get("name"))
        chosen = next(
            (one for one in service["spec"].get("ports") or () if one["port"] in wanted or one.get("name") in wanted),
            None,
        )
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        params = {"labelSelector": f"kubernetes.io/service-name={name}"}
        slices = session.connection.json("GET", path, params=params)["items"]
        return network.endpoints_of((chosen or {}).get("name", ""), slices)

    network.ingress(out, obj, behind)


def _node(session: Session, out: Writer, obj: Object) -> None:
    name = obj["metadata"]["name"]
    params = {"fieldSelector": f"spec.nodeName={name},status.phase!=Failed,status.phase!=Succeeded"}
    found = session.connection.json("GET", "/api/v1/pods", params=params)["items"]
    try:
        lease = session.connection.json("GET", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
    except APIError:
        lease = None
    cluster.node(out, obj, found, lease)


def _namespace(session: Session, out: Writer, obj: Object) -> None:
    root = f"/api/v1/namespaces/{obj['metadata']['name']}"
    quotas = session.connection.json("GET", f"{root}/resourcequotas")["items"]
    cluster.namespace(out, obj, quotas, session.connection.json("GET", f"{root}/limitranges")["items"])


def _claim(session: Session, out: Writer, obj: Object) -> None:
    volumes.persistent_volume_claim(out, obj)
    metadata = obj["metadata"]
    found = session.connection.json("GET", f"/api/v1/namespaces/{metadata['namespace']}/pods")["items"]
    users = [
        pod["metadata"]["name"] for pod in found
        if any((one.get("persistentVolumeClaim") or {}).get("claimName") == metadata["name"] for one in pod["spec"].get("volumes") or ())
    ]  # fmt: skip
    out.write(0, "Used By:\t" + ("\n\t".join(users) or NONE))


def _service_account(session: Session, out: Writer, obj: Object) -> None:
    metadata = obj["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/secrets"
    params = {"fieldSelector": "type=kubernetes.io/service-account-token"}
    tokens = [
        one["metadata"]["name"] for one in session.connection.json("GET", path, params=params)["items"]
        if (one["metadata"].get("annotations") or {}).get("kubernetes.io/service-account.name") == metadata["name"]
    ]  # fmt: skip
    config.service_account(out, obj, tokens)


_PLAIN: Mapping[str, Callable[[Writer, Object], None]] = {
    "Pod": pods.pod, "Job": workloads.job, "CronJob": workloads.cron_job,
    "HorizontalPodAutoscaler": workloads.autoscaler, "PodDisruptionBudget": workloads.disruption_budget,
    "Endpoints": network.endpoints, "EndpointSlice": network.endpoint_slice,
    "NetworkPolicy": network.network_policy, "ConfigMap": config.config_map, "Secret": config.secret,
    "Role": config.role, "ClusterRole": config.role, "RoleBinding": config.binding,
    "ClusterRoleBinding": config.binding, "PersistentVolume": volumes.persistent_volume,
    "StorageClass": volumes.storage_class, "ResourceQuota": cluster.quota, "LimitRange": cluster.limit_range,
    "PriorityClass": cluster.priority_class, "CertificateSigningRequest": cluster.signing_request,
}  # fmt: skip
_WITH_MORE: Mapping[str, Callable[[Session, Writer, Object], None]] = {
    "Deployment": _deployment, "ReplicaSet": _counted(workloads.replica_set),
    "DaemonSet": _counted(workloads.daemon_set), "StatefulSet": _counted(workloads.stateful_set), "Service": _service,
    "Ingress": _ingress, "Node": _node, "Namespace": _namespace, "PersistentVolumeClaim": _claim, "ServiceAccount": _service_account,
}  # fmt: skip
