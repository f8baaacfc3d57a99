"""`wherry debug`: an ephemeral container in a pod, a copy of a pod with changes, or a pod on a node."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.pods import status_of
from cli.resources import targets
from cli.selection import STRATEGIC, Selected, file_objects
from cli.session import Session
from cli.streaming import ATTACHED, StreamRequest, run_stream
from cli.watching import watch_one

_PROFILES: dict[str, dict[str, Any]] = {
    "general": {"capabilities": {"add": ["SYS_PTRACE"]}},
    "baseline": {},
    "restricted": {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "netadmin": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
    "sysadmin": {"privileged": True},
    "legacy": {},
}  # fmt: skip
_PROBES = ("liveness", "readiness", "startup")
_READY_SECONDS = 60.0


@verb(context_settings={"ignore_unknown_options": False})
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@click.option("--image", default="")
@click.option("-c", "--container", default="", help="The new container's name.")
@click.option("--target", default="", help="The container whose processes to see.")
@click.option("-i", "--stdin", is_flag=True)
@click.option("-t", "--tty", is_flag=True)
@click.option("--attach", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
@click.option("--env", "envs", multiple=True)
@click.option("--copy-to", default="", help="Make a copy of the pod with this name.")
@click.option("--replace", is_flag=True, help="With --copy-to: delete the original.")
@click.option("--same-node", is_flag=True)
@click.option("--share-processes/--no-share-processes", default=True)
@click.option("--set-image", default="", help="With --copy-to: NAME=IMAGE,….")
@options.files
@click.option("--keep-labels", is_flag=True)
@click.option("--keep-annotations", is_flag=True)
@click.option("--keep-liveness", is_flag=True)
@click.option("--keep-readiness", is_flag=True)
@click.option("--keep-startup", is_flag=True)
@click.option("--keep-init-containers/--no-keep-init-containers", default=True)
@click.option("--custom", default="", help="A file with part of a container, merged over what the profile says.")
@click.option("--arguments-only", is_flag=True)
@click.option("--image-pull-policy", default="")
@click.option("--profile", type=click.Choice(sorted(_PROFILES)), default="general")
def debug(words: Sequence[str], **given: Any) -> None:
    """Look into a pod or node: debug POD|node/NAME --image=IMAGE [-it] [-- COMMAND]."""
    if not words and not given["filenames"]:
        raise click.ClickException("NAME or TYPE/NAME is required for debug")
    session = Session(given)
    one, command = _meant(session, words, given)
    obj = one.read(session)
    given["partial"] = _partial(given["custom"]) if given["custom"] else {}
    if one.known.resource.kind == "Node":
        pod, name = _on_node(session, one, command, given)
    elif given["copy_to"]:
        pod, name = _copy(session, one, obj, command, given)
    else:
        pod, name = _ephemeral(session, one, obj, command, given)
    if given["attach"] or given["stdin"]:
        _join(session, pod, name, given)


def _meant(session: Session, words: Sequence[str], given: dict[str, Any]) -> tuple[Selected, list[str]]:
    """Return what to look into, and the command to run there."""
    if given["filenames"]:
        return next(file_objects(session, given)), list(words)
    word, *command = words
    target = targets(session.discovery, [word] if "/" in word else ["pods", word])[0]
    namespace = session.namespace if target.known.resource.namespaced else ""
    return Selected(target.known, namespace, target.name), command


def _partial(path: str) -> dict[str, Any]:
    """Return the part of a container in a file. Raises: ClickException."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise click.ClickException(f'failed to read custom profile "{path}": {error}') from error
    if not isinstance(found, dict):
        raise click.ClickException(f"{path} does not contain a valid container spec")
    if any(found.get(field) for field in ("name", "command", "image", "lifecycle", "volumeDevices")):
        raise click.ClickException(
            "name, command, image, lifecycle and volume devices are not modifiable via custom profile"
        )
    return found


def _customized(container: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a container with what --custom says merged over it."""
    if not given["partial"]:
        return container
    from machinery.api import schema
    from machinery.api.patch import apply_strategic_merge_patch

    return apply_strategic_merge_patch(container, given["partial"], schema.shape_of("io.k8s.api.core.v1.Container"))


def _container(command: list[str], given: dict[str, Any], name: str) -> dict[str, Any]:
    if not given["image"]:
        raise click.ClickException("you must specify --image when not using --target.")
    found: dict[str, Any] = {
        "name": name, "image": given["image"], "terminationMessagePolicy": "File",
        "imagePullPolicy": given["image_pull_policy"] or "IfNotPresent",
    }  # fmt: skip
    if given["envs"]:
        found["env"] = [dict(zip(("name", "value"), text.split("=", 1), strict=False)) for text in given["envs"]]
    if command:
        found["args" if given["arguments_only"] else "command"] = command
    for field in ("stdin", "tty"):
        if given[field]:
            found[field] = True
    if _PROFILES[given["profile"]]:
        found["securityContext"] = _PROFILES[given["profile"]]
    return _customized(found, given)


def _new_name(given: dict[str, Any]) -> str:
    return given["container"] or f"debugger-{''.join(secrets.choice('bcdfghjklmnpqrstvwxz2456789') for _ in range(5))}"


def _ephemeral(
    session: Session, one: Selected, pod: dict[str, Any], command: list[str], given: dict[str, Any]
) -> tuple[Selected, str]:
    name = _new_name(given)
    container = _container(command, given, name)
    if given["target"]:
        container["targetContainerName"] = given["target"]
        if not given["quiet"]:
            click.echo(
                f"Targeting container \"{given['target']}\". If you don't see processes from this container it may be because the container runtime doesn't support this feature.",
                err=True,
            )
    if not given["container"] and not given["quiet"]:
        click.echo(f"Defaulting debug container name to {name}.")
    body = {"spec": {"ephemeralContainers": [container]}}
    session.connection.json("PATCH", f"{one.path}/ephemeralcontainers", body=body, content_type=STRATEGIC)
    return one, name


def _copy(
    session: Session, one: Selected, pod: dict[str, Any], command: list[str], given: dict[str, Any]
) -> tuple[Selected, str]:
    spec = {key: value for key, value in pod["spec"].items() if key not in ("nodeName", "ephemeralContainers")}
    if given["same_node"]:
        spec["nodeName"] = pod["spec"].get("nodeName")
    if given["share_processes"]:
        spec["shareProcessNamespace"] = True
    if not given["keep_init_containers"]:
        spec.pop("initContainers", None)
    images = dict(pair.split("=", 1) for pair in given["set_image"].split(",")) if given["set_image"] else {}
    left_out = set() if given["profile"] == "legacy" else {f"{one}Probe" for one in _PROBES if not given[f"keep_{one}"]}
    containers = [
        {**{key: value for key, value in c.items() if key not in left_out},
         "image": images.get(c["name"], images.get("*", c["image"]))}
        for c in spec["containers"]
    ]  # fmt: skip
    name = given["container"]
    present = next((c for c in containers if c["name"] == name), None)
    if present is not None:
        present |= ({"image": given["image"]} if given["image"] else {}) | (
            {"command": command, "args": []} if command else {}
        )
        present |= {field: True for field in ("stdin", "tty") if given[field]}
        present |= _customized(present, given)
    elif given["image"]:
        name = _new_name(given)
        containers.append(_container(command, given, name))
    else:
        name = containers[0]["name"]
    metadata: dict[str, Any] = {"name": given["copy_to"], "namespace": one.namespace}
    if given["keep_labels"]:
        metadata["labels"] = pod["metadata"].get("labels") or {}
    if given["keep_annotations"]:
        metadata["annotations"] = pod["metadata"].get("annotations") or {}
    if given["replace"]:
        from cli.deleting import delete_and_wait

        delete_and_wait(session, [one])
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, "containers": containers}}
    session.connection.json("POST", one.known.resource.path(one.namespace), body=made)
    return Selected(one.known, one.namespace, given["copy_to"]), name


def _on_node(session: Session, node: Selected, command: list[str], given: dict[str, Any]) -> tuple[Selected, str]:
    name = f"node-debugger-{node.name}-{''.join(secrets.choice('bcdfghjklmnpqrstvwxz2456789') for _ in range(5))}"
    container = _container(command, given, given["container"] or "debugger")
    if given["profile"] != "restricted":
        container["volumeMounts"] = [{"name": "host-root", "mountPath": "/host"}]
    if given["profile"] == "general":
        container.pop("securityContext", None)
    spec = {
        "containers": [container], "nodeName": node.name, "restartPolicy": "Never", "hostNetwork": True, "hostPID": True,
        "hostIPC": True, "tolerations": [{"operator": "Exists"}],
        "volumes": [{"name": "host-root", "hostPath": {"path": "/"}}],
    }  # fmt: skip
    labels = {"app.kubernetes.io/managed-by": "kubectl-debug"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    known = session.discovery.find("pods")
    session.connection.json("POST", known.resource.path(session.namespace), body=pod)
    click.echo(f"Creating debugging pod {name} with container {container['name']} on node {node.name}.")
    return Selected(known, session.namespace, name), container["name"]


def _join(session: Session, one: Selected, container: str, given: dict[str, Any]) -> None:
    for pod in watch_one(session, one, _READY_SECONDS):
        state = status_of(pod or {}, container).get("state") or {}
        if "running" in state or "terminated" in state:
            break
    else:
        raise click.ClickException("timed out waiting for the condition")
    if "terminated" in state:
        text = session.connection.request("GET", f"{one.path}/log", params={"container": container}, accept="*/*")
        sys.stdout.buffer.write(text)
        return
    if not given["quiet"]:
        click.echo(ATTACHED, err=True)
    request = StreamRequest(
        one.namespace, one.name, container, stdin=given["stdin"], tty=given["tty"] and sys.stdin.isatty()
    )
    run_stream(session.connection, request)
