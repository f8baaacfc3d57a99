"""A Compose service as objects of the cluster.

A service is a Deployment (a Job, where it is to run once) and a headless Service of its name, so that others reach any
of its ports by that name; named volumes are claims; secrets and configs are what they are called. All lie in the
project's namespace.
"""

import base64
import shlex
from pathlib import Path
from typing import Any

from machinery.compose.extras import extend
from machinery.compose.project import Project, dependencies, dot_env, pairs
from machinery.compose.values import ComposeError, byte_size, container_port, literal, seconds

PROJECT, SERVICE = "wherry.dev/compose-project", "wherry.dev/compose-service"
ONE_OFF = "wherry.dev/compose-one-off"
"""Labels; the last is of the containers of `compose run`, which no Service may lead to."""
Object = dict[str, Any]
Service = dict[str, Any]


def labels(project: Project, service: str = "") -> dict[str, str]:
    """Return the labels of a project's objects."""
    return {PROJECT: project.name, **({SERVICE: service} if service else {})}


def image_of(project: Project, name: str) -> str:
    """Return the image a service runs: its own, or the one that is built for it."""
    body = project.services[name]
    return str(body.get("image") or f"{project.name}-{name}")


def runs_once(project: Project, name: str) -> bool:
    """Whether a service is to end: others wait for its end, or it says that it is not to be started again."""
    restart = str(project.services[name].get("restart") or "")
    waited_for = any(
        dependencies(body).get(name) == "service_completed_successfully" for body in project.services.values()
    )
    return waited_for or restart in ("no", "on-failure") or restart.startswith("on-failure:")


def shared_objects(project: Project) -> list[Object]:
    """Return the namespace, claims, secrets and configs of a project."""
    found = [_object("v1", "Namespace", project.name, labels(project))]
    document = project.document
    for name, body in (document.get("volumes") or {}).items():
        if not (body or {}).get("external"):
            spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
            found.append(_object("v1", "PersistentVolumeClaim", dns(name), labels(project), project.name, spec=spec))
    for name, body in (document.get("secrets") or {}).items():
        data = {"data": {name: base64.b64encode(_content(project, body)).decode()}}
        found.append(_object("v1", "Secret", f"secret-{dns(name)}", labels(project), project.name, **data))
    for name, body in (document.get("configs") or {}).items():
        data = {"binaryData": {name: base64.b64encode(_content(project, body)).decode()}}
        found.append(_object("v1", "ConfigMap", f"config-{dns(name)}", labels(project), project.name, **data))
    return found


def _content(project: Project, body: Object) -> bytes:
    if "content" in body:
        return str(body["content"]).encode()
    if "environment" in body:
        return project.environment.get(body["environment"], "").encode()
    path = project.path(body.get("file", ""))
    try:
        return path.read_bytes()
    except OSError as error:
        raise ComposeError(f"open {path}: no such file or directory") from error


def dns(name: str) -> str:
    """Return a name as objects may bear it."""
    return name.lower().replace("_", "-").replace(".", "-")


def _object(
    api_version: str, kind: str, name: str, own_labels: dict[str, str], namespace: str = "", **rest: Any
) -> Object:
    metadata = {"name": name, "labels": own_labels, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def service_objects(project: Project, name: str, *, replicas: int | None = None) -> list[Object]:
    """Return the objects of one service. Raises: ComposeError, which names the service's place in its file."""
    own = labels(project, name)
    try:
        template = {"metadata": {"labels": own}, "spec": pod_spec(project, name)}
    except ComposeError as error:
        raise ComposeError(f"{project.where('services', name)}services.{name}: {error}") from error
    body = project.services[name]
    if runs_once(project, name):
        restart = "OnFailure" if str(body.get("restart", "")).startswith("on-failure") else "Never"
        template["spec"]["restartPolicy"] = restart
        workload = _object(
            "batch/v1",
            "Job",
            name,
            own,
            project.name,
            spec={"backoffLimit": 0 if restart == "Never" else 6, "template": template},
        )
    else:
        count = replicas if replicas is not None else (body.get("deploy") or {}).get("replicas", body.get("scale", 1))
        has_ports = any("hostPort" in one for one in template["spec"]["containers"][0].get("ports") or ())
        # Two pods can't have one port of the host, so the old one goes first.
        strategy = {"strategy": {"type": "Recreate"}} if has_ports else {}
        spec = {"replicas": count, "selector": {"matchLabels": own}, **strategy, "template": template}
        workload = _object("apps/v1", "Deployment", name, own, project.name, spec=spec)
    headless = {"clusterIP": "None", "selector": own, "publishNotReadyAddresses": True}
    services = [_object("v1", "Service", one, own, project.name, spec=headless) for one in _names(body, name)]
    return [workload, *services]


def _names(body: Service, name: str) -> list[str]:
    """Return the names others find a service by: its own, and the aliases it has in its networks."""
    networks = body.get("networks") or {}
    attached = networks.values() if isinstance(networks, dict) else ()
    aliases = [alias for one in attached for alias in (one or {}).get("aliases") or ()]
    return list(dict.fromkeys(dns(one) for one in (name, *aliases) if "." not in one))


def pod_spec(project: Project, name: str) -> Object:
    """Return the pod of a service. Raises: ComposeError."""
    body = project.services[name]
    container: Object = {
        "name": dns(name),
        "image": image_of(project, name),
        "imagePullPolicy": _pull_policy(body),
        **_process(project, body),
    }
    volumes, mounts = _volumes(project, body)
    if mounts:
        container["volumeMounts"] = mounts
    if probe := _probe(body.get("healthcheck") or {}):
        container["readinessProbe"] = probe
    if ports := [port for one in body.get("ports") or () for port in _port(project, one)]:
        container["ports"] = ports
    spec: Object = {"containers": [container], "enableServiceLinks": False, "automountServiceAccountToken": False}
    spec["terminationGracePeriodSeconds"] = int(seconds(str(body.get("stop_grace_period", "10s"))))
    if volumes:
        spec["volumes"] = volumes
    if body.get("hostname"):
        spec["hostname"] = body["hostname"]
    if body.get("network_mode") == "host":
        spec["hostNetwork"] = True
    hosts = body.get("extra_hosts") or {}
    entries = hosts.items() if isinstance(hosts, dict) else [text.replace("=", ":").split(":", 1) for text in hosts]
    if entries:
        spec["hostAliases"] = [{"ip": str(address), "hostnames": [host]} for host, address in entries]
    extend(spec, body)
    return spec


def _pull_policy(body: Service) -> str:
    return {"always": "Always", "never": "Never"}.get(str(body.get("pull_policy", "")), "IfNotPresent")


def _words(value: Any) -> list[str]:
    return shlex.split(value) if isinstance(value, str) else [str(one) for one in value]


def _process(project: Project, body: Service) -> Object:
    found: Object = {}
    for field, target in (("entrypoint", "command"), ("command", "args")):
        if body.get(field):
            found[target] = [literal(word) for word in _words(body[field])]
    env = _environment(project, body)
    if env:
        found["env"] = [{"name": key, "value": literal(value)} for key, value in env.items()]
    if body.get("working_dir"):
        found["workingDir"] = body["working_dir"]
    found |= {target: True for field, target in (("tty", "tty"), ("stdin_open", "stdin")) if body.get(field)}
    context = _security(body)
    resources = _resources(body)
    return found | ({"securityContext": context} if context else {}) | ({"resources": resources} if resources else {})


def _environment(project: Project, body: Service) -> dict[str, str]:
    found: dict[str, str] = {}
    files = body.get("env_file") or ()
    for one in [files] if isinstance(files, str | dict) else files:
        entry = {"path": one} if isinstance(one, str) else one
        path = project.path(entry["path"])
        if not path.is_file() and entry.get("required", True):
            raise ComposeError(f"env file {path} not found")
        found |= dot_env(path)
    for key, value in pairs(body.get("environment")).items():
        if value is not None:
            found[key] = str(value).lower() if isinstance(value, bool) else str(value)
        elif key in project.environment:
            found[key] = project.environment[key]
    return found


def _security(body: Service) -> Object:
    context: Object = {}
    if body.get("user"):
        uid, _, gid = str(body["user"]).partition(":")
        uid = "0" if uid == "root" else uid
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise ComposeError(f"user {body['user']}: give its number, UID[:GID]")
        context |= {"runAsUser": int(uid)} | ({"runAsGroup": int(gid)} if gid else {})
    if body.get("read_only"):
        context["readOnlyRootFilesystem"] = True
    if body.get("privileged"):
        context["privileged"] = True
    capabilities = {
        target: [one.upper().removeprefix("CAP_") for one in body[field]]
        for field, target in (("cap_add", "add"), ("cap_drop", "drop")) if body.get(field)
    }  # fmt: skip
    return context | ({"capabilities": capabilities} if capabilities else {})


def _resources(body: Service) -> Object:
    asked = (body.get("deploy") or {}).get("resources") or {}
    found: Object = {}
    for field, target in (("limits", "limits"), ("reservations", "requests")):
        one = asked.get(field) or {}
        values = {"cpu": str(one["cpus"])} if one.get("cpus") else {}
        if one.get("memory"):
            values["memory"] = byte_size(str(one["memory"]))
        if values:
            found[target] = values
    limits = found.setdefault("limits", {})
    if body.get("mem_limit"):
        limits["memory"] = byte_size(str(body["mem_limit"]))
    if body.get("cpus"):
        limits["cpu"] = str(body["cpus"])
    if limits:
        found.setdefault("requests", {})
        found["requests"] = {**dict.fromkeys(limits, "0"), **found["requests"]}
    return {key: value for key, value in found.items() if value}


def _probe(check: Object) -> Object | None:
    test = check.get("test")
    if not test or check.get("disable") or test in ("NONE", ["NONE"]):
        return None
    command = (
        ["sh", "-c", test]
        if isinstance(test, str)
        else ["sh", "-c", " ".join(test[1:])]
        if test[0] == "CMD-SHELL"
        else test[1:]
    )
    found: Object = {"exec": {"command": command}}
    times = (("interval", "periodSeconds"), ("timeout", "timeoutSeconds"), ("start_period", "initialDelaySeconds"))
    found |= {target: max(int(seconds(str(check[field]))), 1) for field, target in times if check.get(field)}
    return found | ({"failureThreshold": int(check["retries"])} if check.get("retries") else {})


def _port(project: Project, one: Any) -> list[Object]:
    """Return the container ports of an entry; ranges such as 8000-8001:80-81 are taken apart."""
    if isinstance(one, dict):
        found: Object = {"containerPort": int(one["target"]), "protocol": str(one.get("protocol", "tcp")).upper()}
        return [
            found
            | ({"hostPort": int(one["published"])} if one.get("published") else {})
            | ({"hostIP": one["host_ip"]} if one.get("host_ip") else {})
        ]
    text, _, protocol = str(one).partition("/")
    *front, inner = text.split(":")
    suffix = f"/{protocol}" if protocol else ""
    if "-" not in inner:
        return [container_port(str(one), project.free_port)]
    first, last = map(int, inner.split("-"))
    host = int(front[-1].split("-")[0]) if front else 0
    before = ":".join(front[:-1]) + ":" if len(front) > 1 else ""
    return [
        container_port(
            f"{before}{host + at}:{first + at}{suffix}" if front else f"{first + at}{suffix}", project.free_port
        )
        for at in range(last - first + 1)
    ]


def _volumes(project: Project, body: Service) -> tuple[list[Object], list[Object]]:
    volumes: list[Object] = []
    mounts: list[Object] = []

    def add(source: Object, target: str, **more: Any) -> None:
        name = f"v{len(volumes)}"
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": target, **{key: value for key, value in more.items() if value}})

    for one in body.get("volumes") or ():
        entry = one if isinstance(one, dict) else _short_volume(str(one))
        add(_volume_source(project, entry), entry["target"], readOnly=bool(entry.get("read_only")))
    tmpfs = body.get("tmpfs") or ()
    for text in [tmpfs] if isinstance(tmpfs, str) else tmpfs:
        add({"emptyDir": {"medium": "Memory"}}, text.partition(":")[0])
    for one in body.get("secrets") or ():
        name, target = _used(one, "/run/secrets/")
        add({"secret": {"secretName": f"secret-{dns(name)}"}}, target, subPath=name, readOnly=True)
    for one in body.get("configs") or ():
        name, target = _used(one, "/")
        add({"configMap": {"name": f"config-{dns(name)}"}}, target, subPath=name, readOnly=True)
    return volumes, mounts


def _used(one: Any, folder: str) -> tuple[str, str]:
    entry = {"source": one} if isinstance(one, str) else one
    target = str(entry.get("target") or entry["source"])
    return entry["source"], target if target.startswith("/") else folder + target


def _short_volume(text: str) -> Object:
    parts = text.split(":")
    if len(parts) == 1:
        return {"type": "volume", "target": parts[0]}
    is_path = parts[0].startswith((".", "/", "~"))
    return {
        "type": "bind" if is_path else "volume",
        "source": parts[0],
        "target": parts[1],
        "read_only": "ro" in parts[2:],
    }


def _volume_source(project: Project, entry: Object) -> Object:
    kind, source = entry.get("type", "volume"), str(entry.get("source") or "")
    if kind == "tmpfs":
        return {"emptyDir": {"medium": "Memory"}}
    if kind == "bind":
        path = project.path(str(Path(source).expanduser())).resolve()
        return {"hostPath": {"path": str(path), **({} if path.exists() else {"type": "DirectoryOrCreate"})}}
    if not source:
        return {"emptyDir": {}}
    if source not in (project.document.get("volumes") or {}):
        raise ComposeError(f"service refers to undefined volume {source}: invalid compose project")
    return {"persistentVolumeClaim": {"claimName": dns(source)}}
