"""`wherry expose` and `wherry autoscale`."""

from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.making import make, making_options
from cli.selection import Selected, act
from cli.session import Session, leave


@verb()
@click.argument("words", nargs=-1)
@making_options
@options.files
@options.recursive
@options.kustomize
@click.option("--selector", "labels", default="", help="The labels of the pods; the object's own by default.")
@click.option("--port", default="")
@click.option("--target-port", default="")
@click.option("--protocol", default="")
@click.option("--type", "kind", default="")
@click.option("--name", default="")
@click.option("--external-ip", default="")
@click.option("--load-balancer-ip", default="")
@click.option("--cluster-ip", default="")
@click.option("--session-affinity", default="")
@click.option("-l", "--labels", "own_labels", default="", help="Labels of the service.")
@click.option("--overrides", default="", help="JSON merged over the service.")
@options.override_type
def expose(words: Sequence[str], **given: Any) -> None:
    """Make a service for the pods of a workload, or of a service."""
    session = Session(given)
    leave(act(session, words, given, lambda one: _expose(session, one, given)))


def _expose(session: Session, one: Selected, given: dict[str, Any]) -> None:
    if one.known.resource.kind not in ("ReplicationController", "Service", "Pod", "Deployment", "ReplicaSet"):
        raise click.ClickException(f"cannot expose a {one.known.resource.kind}")
    obj = one.read(session)
    ports = _ports(obj, given)
    if not ports:
        raise click.ClickException("couldn't find port via --port flag or introspection")
    spec: dict[str, Any] = {"ports": ports, "selector": _selector(obj, given)}
    extra = {
        "type": given["kind"], "loadBalancerIP": given["load_balancer_ip"], "clusterIP": given["cluster_ip"],
        "sessionAffinity": given["session_affinity"],
        "externalIPs": given["external_ip"].split(",") if given["external_ip"] else None,
    }  # fmt: skip
    spec |= {field: value for field, value in extra.items() if value}
    metadata: dict[str, Any] = {"name": given["name"] or one.name}
    labels = _pairs(given["own_labels"]) if given["own_labels"] else obj["metadata"].get("labels")
    if labels:
        metadata["labels"] = labels
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": spec,
        "status": {"loadBalancer": {}},
    }
    make(session, with_overrides(service, given), given, what="exposed", manager="kubectl-expose")


def with_overrides(obj: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return an object with the JSON of --overrides over it, as --override-type says. Raises: ClickException."""
    if not given["overrides"]:
        return obj
    import orjson

    from machinery.api.meta import Resource
    from machinery.api.patch import apply_json_patch, apply_merge_patch, apply_strategic_merge_patch

    try:
        said = orjson.loads(given["overrides"])
    except ValueError as error:
        raise click.ClickException(f"invalid JSON in --overrides: {error}") from error
    match given["override_type"]:
        case "json":
            return dict(apply_json_patch(obj, said))
        case "strategic":
            from cli.applying import shape_of

            shape = shape_of(Resource("", obj["apiVersion"], "", obj["kind"]))
            return apply_strategic_merge_patch(obj, said, shape)
    return dict(apply_merge_patch(obj, said))


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def _ports(obj: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    target = given["target_port"]
    aim: int | str = int(target) if target.isdigit() else target
    if given["port"]:
        numbers = [(int(text), given["protocol"] or "TCP") for text in given["port"].split(",")]
    else:
        spec = obj["spec"]
        if obj["kind"] == "Service":
            numbers = [(one["port"], one.get("protocol", "TCP")) for one in spec.get("ports") or ()]
        else:
            pod = spec if obj["kind"] == "Pod" else spec["template"]["spec"]
            numbers = [
                (port["containerPort"], given["protocol"] or port.get("protocol", "TCP"))
                for container in pod["containers"] for port in container.get("ports") or ()
            ]  # fmt: skip
    found = []
    for at, (number, protocol) in enumerate(numbers):
        name = {"name": f"port-{at + 1}"} if len(numbers) > 1 else {}
        found.append({**name, "port": number, "protocol": protocol, "targetPort": aim if target else number})
    return found


def _selector(obj: dict[str, Any], given: dict[str, Any]) -> dict[str, str]:
    if given["labels"]:
        return _pairs(given["labels"])
    if obj["kind"] == "Pod":
        labels = obj["metadata"].get("labels")
        if not labels:
            raise click.ClickException(
                "couldn't retrieve selectors via --selector flag or introspection: the pod has no labels and cannot be exposed"
            )
        return dict(labels)
    selector = obj["spec"].get("selector") or {}
    if selector.get("matchExpressions"):
        raise click.ClickException("couldn't convert expressions - the selector has more than labels")
    return dict(selector.get("matchLabels") or selector)


@verb()
@click.argument("words", nargs=-1)
@making_options
@options.files
@options.recursive
@options.kustomize
@click.option("--min", "minimum", default=-1)
@click.option("--max", "maximum", default=-1, required=True)
@click.option("--cpu-percent", default=-1, help="Of what the pods ask for.")
@click.option("--cpu", default="", help="As 80% of what is asked for, or 500m of CPU a pod.")
@click.option("--memory", default="", help="As 80% of what is asked for, or 200Mi of memory a pod.")
@click.option("--name", default="")
def autoscale(words: Sequence[str], **given: Any) -> None:
    """Let the number of replicas follow the load."""
    if given["maximum"] < 1:
        raise click.ClickException(f"--max=MAXPODS is required and must be at least 1, max: {given['maximum']}")
    if given["minimum"] > given["maximum"]:
        raise click.ClickException(
            f"--max=MAXPODS must be larger or equal to --min=MINPODS, max: {given['maximum']}, min: {given['minimum']}"
        )
    session = Session(given)
    leave(act(session, words, given, lambda one: _autoscale(session, one, given)))


def _autoscale(session: Session, one: Selected, given: dict[str, Any]) -> None:
    if "scale" not in one.known.subresources:
        raise click.ClickException(f"cannot autoscale a {one.known.resource.kind}")
    one.read(session)
    metrics = [
        {"type": "Resource", "resource": {"name": name, "target": target(text)}}
        for name, text in (("cpu", _cpu(given)), ("memory", given["memory"])) if text
    ]  # fmt: skip
    spec: dict[str, Any] = {
        "maxReplicas": given["maximum"], "metrics": metrics,
        "scaleTargetRef": {
            "apiVersion": one.known.resource.api_version, "kind": one.known.resource.kind, "name": one.name,
        },
    }  # fmt: skip
    if given["minimum"] > 0:
        spec["minReplicas"] = given["minimum"]
    name = given["name"] or one.name
    obj = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": spec}
    make(session, obj, given, what="autoscaled", manager="kubectl-autoscale")


def _cpu(given: dict[str, Any]) -> str:
    return f"{given['cpu_percent']}%" if given["cpu_percent"] >= 0 else given["cpu"]


def target(text: str) -> dict[str, Any]:
    """Return the target a share or an amount stands for."""
    if text.endswith("%"):
        return {"type": "Utilization", "averageUtilization": int(text.removesuffix("%"))}
    return {"type": "AverageValue", "averageValue": text}
