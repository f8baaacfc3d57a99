"""How containers are shown: Docker's `ps` rows and `inspect` documents."""

import json
from typing import Any

from cli.containers.naming import (
    RUN_LABEL,
    Pod,
    ago,
    exit_code_of,
    main_status,
    pod_id,
    since,
    state_of,
    status_text,
)
from machinery.compose.values import unescaped

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - how Docker shows that a port answers at all addresses


def command_text(pod: Pod, *, whole: bool) -> str:
    """Return the COMMAND column."""
    container = pod["spec"]["containers"][0]
    text = unescaped(" ".join([*(container.get("command") or ()), *(container.get("args") or ())]))
    shown = text if whole or len(text) <= 20 else f"{text[:19]}…"
    return json.dumps(shown, ensure_ascii=False)


def ports_text(pod: Pod) -> str:
    """Return the PORTS column."""
    found: list[str] = []
    if state_of(pod) != "running":
        return ""  # nobody answers there
    for one in pod["spec"]["containers"][0].get("ports") or ():
        inner = f"{one['containerPort']}/{one.get('protocol', 'TCP').lower()}"
        host = one.get("hostIP") or ANY_ADDRESS
        found.append(f"{host}:{one['hostPort']}->{inner}" if one.get("hostPort") else inner)
    return ", ".join(found)


def row(pod: Pod, *, whole: bool = False) -> list[str]:
    """Return a container's line: id, image, command, created, status, ports, name."""
    identity = pod_id(pod)
    return [
        identity if whole else identity[:12], pod["spec"]["containers"][0]["image"], command_text(pod, whole=whole),
        f"{ago(since(pod['metadata']['creationTimestamp']))} ago", status_text(pod), ports_text(pod),
        pod["metadata"]["name"],
    ]  # fmt: skip


HEADERS = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]


def fields(pod: Pod, *, whole: bool = False) -> dict[str, Any]:
    """Return what --format of ps offers."""
    identity, image, command, created, status, ports, name = row(pod, whole=whole)
    labels = ",".join(f"{key}={value}" for key, value in sorted((pod["metadata"].get("labels") or {}).items()))
    return {
        "ID": identity, "Image": image, "Command": command, "RunningFor": created, "Status": status, "Ports": ports,
        "Names": name, "State": state_of(pod), "Labels": labels, "Networks": "host" if pod["spec"].get("hostNetwork") else "bridge",
        "Mounts": ",".join(one["mountPath"] for one in pod["spec"]["containers"][0].get("volumeMounts") or ()),
        "LocalVolumes": "0", "Size": "0B", "CreatedAt": pod["metadata"]["creationTimestamp"],
    }  # fmt: skip


def container_view(pod: Pod) -> dict[str, Any]:
    """Return a container as docker inspect shows it."""
    container, metadata, status = pod["spec"]["containers"][0], pod["metadata"], main_status(pod)
    state = status.get("state") or {}
    ended, running = state.get("terminated") or {}, state.get("running") or {}
    labels = {
        key.removeprefix("label.wherry.dev/"): value
        for key, value in (metadata.get("annotations") or {}).items() if key.startswith("label.wherry.dev/")
    }  # fmt: skip
    ports: dict[str, Any] = {}
    for one in container.get("ports") or ():
        place = f"{one['containerPort']}/{one.get('protocol', 'TCP').lower()}"
        host = (
            [{"HostIp": one.get("hostIP") or ANY_ADDRESS, "HostPort": str(one["hostPort"])}]
            if one.get("hostPort")
            else None
        )
        ports[place] = host
    return {
        "Id": pod_id(pod), "Created": metadata["creationTimestamp"], "Name": f"/{metadata['name']}",
        "Path": (container.get("command") or [""])[0], "Args": [unescaped(one) for one in container.get("args") or ()],
        "State": {
            "Status": state_of(pod), "Running": "running" in state, "Paused": False, "ExitCode": exit_code_of(pod),
            "OOMKilled": ended.get("reason") == "OOMKilled", "Error": ended.get("message", ""),
            "StartedAt": running.get("startedAt") or ended.get("startedAt", ""), "FinishedAt": ended.get("finishedAt", ""),
        },
        "Image": status.get("imageID", ""), "RestartCount": status.get("restartCount", 0),
        "Config": {
            "Image": container["image"], "Hostname": pod["spec"].get("hostname") or metadata["name"], "Labels": labels,
            "Env": [f"{one['name']}={one.get('value', '')}" for one in container.get("env") or ()],
            "Cmd": [unescaped(one) for one in container.get("args") or ()] or None, "Entrypoint": container.get("command"), "Tty": bool(container.get("tty")),
            "OpenStdin": bool(container.get("stdin")), "WorkingDir": container.get("workingDir", ""),
        },
        "HostConfig": {"RestartPolicy": {"Name": {"Never": "no", "OnFailure": "on-failure"}.get(pod["spec"]["restartPolicy"], "always")}},
        "NetworkSettings": {"IPAddress": (pod.get("status") or {}).get("podIP", ""), "Ports": ports},
        "Mounts": [{"Destination": one["mountPath"], "RW": not one.get("readOnly", False)} for one in container.get("volumeMounts") or ()],
        "Pod": {"Namespace": metadata["namespace"], "Node": pod["spec"].get("nodeName", ""), "Label": RUN_LABEL},
    }  # fmt: skip
