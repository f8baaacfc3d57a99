"""`wherry drain`: keep new pods off a node, then move those away that something else will replace."""

import time
from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.commands.node import node_words, set_schedulable
from cli.deleting import FOREVER_SECONDS, wait_gone
from cli.durations import seconds
from cli.framework import verb
from cli.resources import Known
from cli.selection import Selected, act
from cli.session import Session, leave
from machinery.api.meta import controller_of
from machinery.errors import APIError, NotFound

Pod = dict[str, Any]


@verb()
@click.argument("names", nargs=-1)
@options.connected
@options.selected
@options.dry_run
@click.option("--force", is_flag=True, help="Also pods that nothing will replace.")
@click.option("--grace-period", default=-1)
@click.option("--ignore-daemonsets", is_flag=True)
@click.option("--delete-emptydir-data", is_flag=True)
@click.option("--timeout", "timeout_text", default="0s")
@click.option("--pod-selector", default="")
@click.option("--disable-eviction", is_flag=True, help="Delete, past disruption budgets.")
@click.option("--skip-wait-for-delete-timeout", default=0, hidden=True)
@click.option("--chunk-size", default=500, hidden=True)
def drain(names: Sequence[str], **given: Any) -> None:
    """Empty nodes."""
    if not names and not given["selector"]:
        raise click.ClickException("either a node name or --selector must be specified")
    session = Session(given)
    leave(act(session, node_words(names), given, lambda one: _drain(session, one, given)))


def _drain(session: Session, node: Selected, given: dict[str, Any]) -> None:
    set_schedulable(session, node, given, schedulable=False)
    params = {"fieldSelector": f"spec.nodeName={node.name}", "labelSelector": given["pod_selector"]}
    pods = session.connection.json("GET", "/api/v1/pods", params=params)["items"]
    going, warnings, problems = sort_out(session, pods, given)
    if problems:
        for reason, whose in problems.items():
            click.echo(f"error: cannot delete {reason}: {', '.join(whose)}", err=True)
        raise click.ClickException(
            f'unable to drain node "{node.name}" due to error: pods are in the way, continuing command...\nThere are pending nodes to be drained:\n {node.name}'
        )
    for text in warnings:
        click.echo(f"Warning: {text}", err=True)
    pod_kind = session.discovery.find("pods")
    suffix = options.DRY_SUFFIXES[given["dry_run"]]
    if given["dry_run"] == "none":
        _evict_all(session, pod_kind, going, given)
    click.echo(f"node/{node.name} drained{suffix}")


def sort_out(
    session: Session, pods: Sequence[Pod], given: dict[str, Any]
) -> tuple[list[Pod], list[str], dict[str, list[str]]]:
    """Return the pods to move, warnings, and what stands in the way by reason.

    Source: kubectl's pkg/drain/filters.go
    """
    going: list[Pod] = []
    noted: dict[str, list[str]] = {}
    problems: dict[str, list[str]] = {}
    for pod in pods:
        metadata = pod["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        owner = controller_of(pod)
        done = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}):
            continue
        if owner and owner["kind"] == "DaemonSet" and not done:
            if given["ignore_daemonsets"]:
                noted.setdefault("ignoring DaemonSet-managed Pods", []).append(name)
            else:
                problems.setdefault("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)", []).append(name)
            continue
        reason = _in_the_way(pod, given, has_owner=owner is not None, done=done)
        if reason:
            problems.setdefault(reason, []).append(name)
            continue
        if owner is None and not done:
            noted.setdefault("deleting Pods that declare no controller", []).append(name)
        going.append(pod)
    return going, [f"{text}: {', '.join(whose)}" for text, whose in noted.items()], problems


def _in_the_way(pod: Pod, given: dict[str, Any], *, has_owner: bool, done: bool) -> str:
    if done:
        return ""
    if any("emptyDir" in volume for volume in pod["spec"].get("volumes") or ()) and not given["delete_emptydir_data"]:
        return "Pods with local storage (use --delete-emptydir-data to override)"
    if not has_owner and not given["force"]:
        return "Pods that declare no controller (use --force to override)"
    return ""


def _evict_all(session: Session, kind: Known, pods: Sequence[Pod], given: dict[str, Any]) -> None:
    deadline = time.monotonic() + (seconds(given["timeout_text"]) or FOREVER_SECONDS)
    grace = {"gracePeriodSeconds": given["grace_period"]} if given["grace_period"] >= 0 else {}
    asked = []
    for pod in pods:
        metadata = pod["metadata"]
        one = Selected(kind, metadata["namespace"], metadata["name"])
        click.echo(f"{'deleting' if given['disable_eviction'] else 'evicting'} pod {one.namespace}/{one.name}")
        if _asked_to_go(session, one, grace, deadline, disable=given["disable_eviction"]):
            asked.append((one, metadata["uid"]))
    for one, uid in asked:
        if not wait_gone(session, one, uid, max(deadline - time.monotonic(), 1)):
            raise click.ClickException(f"error when waiting for pod {one.name!r} terminating: global timeout reached")
        click.echo(f"pod/{one.name} {'deleted' if given['disable_eviction'] else 'evicted'}")


def _asked_to_go(session: Session, one: Selected, grace: dict[str, Any], deadline: float, *, disable: bool) -> bool:
    """Ask a pod to go; a budget that does not allow it is asked again, as kubectl does, until the time is up."""
    while True:
        try:
            if disable:
                session.connection.json("DELETE", one.path, body=grace or None)
            else:
                body = {
                    "apiVersion": "policy/v1", "kind": "Eviction", "deleteOptions": grace,
                    "metadata": {"name": one.name, "namespace": one.namespace},
                }  # fmt: skip
                session.connection.json("POST", f"{one.path}/eviction", body=body)
        except NotFound:
            return False
        except APIError as error:
            if error.code != 429:
                raise
            if time.monotonic() + 5 > deadline:
                raise click.ClickException(
                    f"error when evicting pods/{one.name!r} -n {one.namespace!r}: global timeout reached"
                ) from error
            click.echo(
                f"error when evicting pods/{one.name!r} -n {one.namespace!r} (will retry after 5s): {error}".replace(
                    "'", '"'
                ),
                err=True,
            )
            time.sleep(5)
        else:
            return True
