"""`wherry top`: CPU and memory of nodes and pods (kubectl), or the processes of a container (Docker)."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from cli import options
from cli.durations import short
from cli.framework import verb
from cli.printers import rows_text
from cli.session import Session
from machinery.api.meta import parse_time
from machinery.api.quantity import cpu_millis, to_bytes
from machinery.errors import APIError, NotFound

_METRICS_DELAY_SECONDS = 120.0
_KINDS = {"node": "nodes", "nodes": "nodes", "no": "nodes", "pod": "pods", "pods": "pods", "po": "pods"}


@verb()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.field_selected
@options.everywhere
@click.option("--containers", is_flag=True, help="Each container of a pod.")
@click.option("--sort-by", type=click.Choice(["cpu", "memory", ""]), default="")
@click.option("--no-headers", is_flag=True)
@click.option("--sum", "adds", is_flag=True, help="A line with the sum.")
@click.option("--show-capacity", is_flag=True)
@click.option("--show-swap", is_flag=True, hidden=True)
@click.option("--use-protocol-buffers", is_flag=True, hidden=True)
def top(words: Sequence[str], **given: Any) -> None:
    """Show how much is used: top nodes|pods [NAME], or top CONTAINER [ps options]."""
    session = Session(given)
    if not words:
        raise click.ClickException("expected 'top nodes', 'top pods' or 'top CONTAINER'")
    kind = _KINDS.get(words[0])
    if kind is None:
        from cli.containers.lifecycle import processes

        sys.exit(processes(session, words[0], words[1:]))
    try:
        text = _nodes(session, words[1:], given) if kind == "nodes" else _pods(session, words[1:], given)
    except NotFound as error:
        if "the server could not find the requested resource" in str(error):
            raise click.ClickException("Metrics API not available") from error
        raise
    except APIError as error:
        if error.code == 503:
            raise click.ClickException("Metrics API not available") from error
        raise
    if text:
        click.echo(text)


def _metrics(session: Session, kind: str, names: Sequence[str], given: dict[str, Any]) -> list[dict[str, Any]]:
    namespace = "" if kind == "nodes" or given["all_namespaces"] else f"/namespaces/{session.namespace}"
    base = f"/apis/metrics.k8s.io/v1beta1{namespace}/{kind}"
    if names:
        return [session.connection.json("GET", f"{base}/{name}") for name in names]
    params = {"labelSelector": given["selector"], "fieldSelector": given["field_selector"]}
    return list(session.connection.json("GET", base, params=params)["items"])


def _usage(usage: dict[str, str]) -> tuple[int, int]:
    """Return millicores and bytes."""
    return cpu_millis(usage.get("cpu", "0")), to_bytes(usage.get("memory", "0"))


def _sort(rows: list[tuple[list[str], int, int]], by: str) -> list[tuple[list[str], int, int]]:
    key = {"cpu": lambda row: -row[1], "memory": lambda row: -row[2]}.get(by, lambda row: row[0])
    return sorted(rows, key=key)


def _share(part: int, whole: int) -> str:
    return f"{part * 100 // whole}%" if whole else "<unknown>"


def _nodes(session: Session, names: Sequence[str], given: dict[str, Any]) -> str:
    found = _metrics(session, "nodes", names, given)
    if not found:
        raise click.ClickException("metrics not available yet")
    nodes = {one["metadata"]["name"]: one for one in session.connection.json("GET", "/api/v1/nodes")["items"]}
    rows = [([one["metadata"]["name"]], *_usage(one["usage"])) for one in found]
    lines = []
    measure = "capacity" if given["show_capacity"] else "allocatable"
    for head, cpu, memory in _sort(rows, given["sort_by"]):
        whole = (nodes.get(head[0], {}).get("status") or {}).get(measure) or {}
        all_cpu, all_memory = _usage(whole)
        lines.append([*head, f"{cpu}m", _share(cpu, all_cpu), f"{memory >> 20}Mi", _share(memory, all_memory)])
    measured = {one["metadata"]["name"] for one in found}
    lines += [[name, *["<unknown>"] * 4] for name in sorted(nodes) if not names and name not in measured]
    headers = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]
    return _padded(headers, lines, given)


def _pods(session: Session, names: Sequence[str], given: dict[str, Any]) -> str:
    found = _metrics(session, "pods", names, given)
    if not found:
        _check_pods(session, given)
        where = "" if given["all_namespaces"] else f" in {session.namespace} namespace"
        click.echo(f"No resources found{where}.", err=True)
        return ""
    headers = [*(["NAMESPACE"] if given["all_namespaces"] else [])]
    headers += ["POD", "NAME"] if given["containers"] else ["NAME"]
    rows: list[tuple[list[str], int, int]] = []
    for one in found:
        head = [one["metadata"]["namespace"]] if given["all_namespaces"] else []
        head.append(one["metadata"]["name"])
        each = [(container["name"], *_usage(container["usage"])) for container in one["containers"]]
        if given["containers"]:
            rows += [([*head, name], cpu, memory) for name, cpu, memory in each]
        else:
            rows.append((head, sum(cpu for _, cpu, _ in each), sum(memory for _, _, memory in each)))
    lines = [[*head, f"{cpu}m", f"{memory >> 20}Mi"] for head, cpu, memory in _sort(rows, given["sort_by"])]
    if given["adds"]:
        blank = [""] * (len(headers))
        lines.append([*blank, "________", "________"])
        lines.append([*blank, f"{sum(row[1] for row in rows)}m", f"{sum(row[2] for row in rows) >> 20}Mi"])
    return _padded([*headers, "CPU(cores)", "MEMORY(bytes)"], lines, given)


def _check_pods(session: Session, given: dict[str, Any]) -> None:
    """Say that there are pods and no metrics of them, as kubectl does. Raises: ClickException."""
    path = "/api/v1/pods" if given["all_namespaces"] else f"/api/v1/namespaces/{session.namespace}/pods"
    params = {"labelSelector": given["selector"], "fieldSelector": given["field_selector"]}
    pods = session.connection.json("GET", path, params=params)["items"]
    for pod in pods:
        age = (datetime.now(UTC) - parse_time(pod["metadata"]["creationTimestamp"])).total_seconds()
        if age > _METRICS_DELAY_SECONDS:
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            raise click.ClickException(f"Metrics not available for pod {name}, age: {short(age)}")
    if pods:
        raise click.ClickException("metrics not available yet")


def _padded(headers: Sequence[str], lines: Sequence[Sequence[str]], given: dict[str, Any]) -> str:
    """Return the table as kubectl top writes it: the last column is padded too."""
    return rows_text([*headers, ""], [[*line, ""] for line in lines], show_headers=not given["no_headers"])
