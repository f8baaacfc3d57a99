"""Which pod and which container a word means: a pod, or one of those a workload or service selects."""

import time
from collections.abc import Sequence
from typing import Any

import click

from cli.session import Session

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_LOOK_AGAIN_SECONDS = 0.2
REFUSED = "Error from server (BadRequest): "
Pod = dict[str, Any]


def find_pods(session: Session, word: str, *, wait_seconds: float = 0.0) -> list[Pod]:
    """Return the pods a word names, running ones first; a workload's first pod may be waited for.

    Raises: APIError, ClickException.
    """
    kind, slash, name = word.partition("/")
    known = session.discovery.find(kind if slash else "pod")
    connection, namespace = session.connection, session.namespace
    obj = connection.json("GET", known.resource.path(namespace, name if slash else word))
    if known.resource.kind == "Pod":
        return [obj]
    selector = obj.get("spec", {}).get("selector") or {}
    labels = selector.get(
        "matchLabels", selector if known.resource.kind in ("Service", "ReplicationController") else {}
    )
    if not labels:
        raise click.ClickException(f"cannot attach to {known.resource.kind}: it selects no pods")
    text = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    deadline = time.monotonic() + wait_seconds
    path, params = f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": text}
    while not (pods := connection.json("GET", path, params=params)["items"]) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_SECONDS)
    if not pods:
        raise click.ClickException(f"timed out waiting for the condition: no pods of {word}")
    return sorted(pods, key=lambda pod: ((pod.get("status") or {}).get("phase") != "Running", pod["metadata"]["name"]))


def container_names(pod: Pod, groups: Sequence[str] = ("containers",)) -> list[str]:
    """Return the names of a pod's containers."""
    return [one["name"] for group in groups for one in pod["spec"].get(group) or ()]


def chosen_container(pod: Pod, asked: str = "", *, quiet: bool = False, complaint: str = "") -> str:
    """Return the container that is asked for, or the pod's first.

    Args: `complaint` is what is said before a name that is none, where kubectl lets the server find that out.
    Raises: ClickException if there is none so named.
    """
    every = container_names(pod, ("containers", "initContainers", "ephemeralContainers"))
    if asked:
        if asked not in every:
            raise click.ClickException(f"{complaint}container {asked} is not valid for pod {pod['metadata']['name']}")
        return asked
    names = container_names(pod)
    default = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER)
    if default in names:
        return str(default)
    if len(every) > 1 and not quiet:
        inits, extra = container_names(pod, ("initContainers",)), container_names(pod, ("ephemeralContainers",))
        listed = [*names, *(f"{name} (ephem)" for name in extra), *(f"{name} (init)" for name in inits)]
        click.echo(f'Defaulted container "{names[0]}" out of: {", ".join(listed)}', err=True)
    return names[0]


def spec_of(pod: Pod, container: str) -> dict[str, Any]:
    """Return a container's spec."""
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for one in pod["spec"].get(group) or ():
            if one["name"] == container:
                return dict(one)
    return {}


def status_of(pod: Pod, container: str) -> dict[str, Any]:
    """Return a container's status, empty when there is none yet."""
    status = pod.get("status") or {}
    for group in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for one in status.get(group) or ():
            if one["name"] == container:
                return dict(one)
    return {}
