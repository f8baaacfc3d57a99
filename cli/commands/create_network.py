"""`wherry create service|ingress`."""

import re
from collections.abc import Sequence
from typing import Any

import click

from cli.framework import verb, verb_group
from cli.making import make, making_options
from cli.session import Session


@verb_group()
def service() -> None:
    """Create a service."""


def _ports(texts: Sequence[str], *, node_port: int = 0) -> list[dict[str, Any]]:
    found = []
    for text in (part for one in texts for part in one.split(",")):
        port, colon, target = text.partition(":")
        if not port.isdigit():
            raise click.ClickException(f"{text} is not a valid port: use PORT or PORT:TARGETPORT")
        aim: int | str = int(port) if not colon else int(target) if target.isdigit() else target
        entry: dict[str, Any] = {
            "name": text.replace(":", "-"),
            "port": int(port),
            "protocol": "TCP",
            "targetPort": aim,
        }
        found.append({**entry, "nodePort": node_port} if node_port else entry)
    return found


def _service(name: str, spec: dict[str, Any], given: dict[str, Any]) -> None:
    labels = {"app": name}
    obj = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
        "spec": {**spec, "selector": labels}, "status": {"loadBalancer": {}},
    }  # fmt: skip
    make(Session(given), obj, given)


_tcp = click.option("--tcp", multiple=True, help="PORT[:TARGETPORT].")


@service.command()
@click.argument("name")
@making_options
@_tcp
@click.option("--clusterip", default="")
def clusterip(name: str, tcp: Sequence[str], clusterip: str, **given: Any) -> None:
    """With an address of its own in the cluster."""
    if clusterip != "None" and not tcp:
        raise click.ClickException("at least one tcp port specifier must be provided")
    spec: dict[str, Any] = {"type": "ClusterIP", "ports": _ports(tcp)}
    _service(name, {**spec, "clusterIP": clusterip} if clusterip else spec, given)


@service.command()
@click.argument("name")
@making_options
@_tcp
@click.option("--node-port", default=0)
def nodeport(name: str, tcp: Sequence[str], node_port: int, **given: Any) -> None:
    """Answering at a port of every node."""
    if not tcp:
        raise click.ClickException("at least one tcp port specifier must be provided")
    _service(name, {"type": "NodePort", "ports": _ports(tcp, node_port=node_port)}, given)


@service.command()
@click.argument("name")
@making_options
@_tcp
def loadbalancer(name: str, tcp: Sequence[str], **given: Any) -> None:
    """Answering at an address outside of the cluster."""
    if not tcp:
        raise click.ClickException("at least one tcp port specifier must be provided")
    _service(name, {"type": "LoadBalancer", "ports": _ports(tcp)}, given)


@service.command()
@click.argument("name")
@making_options
@_tcp
@click.option("--external-name", required=True)
def externalname(name: str, tcp: Sequence[str], external_name: str, **given: Any) -> None:
    """A name that stands for one outside of the cluster."""
    ports = {"ports": _ports(tcp)} if tcp else {}
    _service(name, {"type": "ExternalName", "externalName": external_name, **ports}, given)


_RULE = re.compile(r"(?P<host>[^/]*)/(?P<path>[^=]*)=(?P<service>[^:]+):(?P<port>[^,]+)(?:,tls(?:=(?P<secret>.*))?)?")


@verb()
@click.argument("name")
@making_options
@click.option("--rule", "rules", multiple=True, help="HOST/PATH=SERVICE:PORT[,tls[=SECRET]].")
@click.option("--class", "class_name", default="")
@click.option("--default-backend", default="", help="SERVICE:PORT.")
@click.option("--annotation", "annotations", multiple=True)
def ingress(
    name: str, rules: Sequence[str], class_name: str, default_backend: str, annotations: Sequence[str], **given: Any
) -> None:
    """Create an ingress."""
    if not rules and not default_backend:
        raise click.ClickException(
            "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)"
        )
    spec: dict[str, Any] = {"ingressClassName": class_name} if class_name else {}
    if default_backend:
        spec["defaultBackend"] = _backend(*default_backend.split(":", 1))
    hosts: dict[str, list[dict[str, Any]]] = {}
    certificates: dict[str, list[str]] = {}
    for text in rules:
        match = _RULE.fullmatch(text)
        if match is None:
            raise click.ClickException(
                f"rule {text} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"
            )
        path = "/" + match["path"]
        kind = "Prefix" if path.endswith("*") else "Exact"
        entry = {"path": path.removesuffix("*"), "pathType": kind, "backend": _backend(match["service"], match["port"])}
        hosts.setdefault(match["host"], []).append(entry)
        if ",tls" in text:
            certificates.setdefault(match["secret"] or "", []).append(match["host"])
    if hosts:
        spec["rules"] = [
            {**({"host": host} if host else {}), "http": {"paths": paths}} for host, paths in hosts.items()
        ]
    if certificates:
        spec["tls"] = [{"hosts": names, **({"secretName": one} if one else {})} for one, names in certificates.items()]
    metadata: dict[str, Any] = {"name": name}
    if annotations:
        metadata["annotations"] = dict(one.split("=", 1) for one in annotations)
    obj = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}
    make(Session(given), {**obj, "status": {"loadBalancer": {}}}, given)


def _backend(name: str, port: str) -> dict[str, Any]:
    return {"service": {"name": name, "port": {"number": int(port)} if port.isdigit() else {"name": port}}}
