"""What Docker and Compose ask of a container beyond image, command and ports, in the words of a pod.

Apart from manifests.py since `wherry run` asks for the same by options. What pods can't have is refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from machinery.compose.values import ComposeError, byte_size

Object = dict[str, Any]
FIELDS = (
    "dns", "dns_search", "dns_opt", "group_add", "sysctls", "pid", "ipc", "shm_size", "init", "security_opt",
    "stop_signal", "userns_mode", "runtime",
)  # fmt: skip
_SHM = "shm"


def extend(spec: Object, asked: Mapping[str, Any]) -> None:
    """Add to a pod's spec, and to its first container, what is asked for in Compose's words.

    Args:
        spec: the pod's spec; it is changed.
        asked: any of FIELDS, as a Compose service has them.

    Raises: ComposeError for what a pod can't have.
    """
    container = spec["containers"][0]
    _names(spec, asked)
    _namespaces(spec, asked)
    if groups := [str(one) for one in asked.get("group_add") or ()]:
        if wrong := [one for one in groups if not one.isdigit()]:
            raise ComposeError(f"unable to find group {wrong[0]}: give its number")
        spec.setdefault("securityContext", {})["supplementalGroups"] = [int(one) for one in groups]
    if settings := _pairs(asked.get("sysctls")):
        found = [{"name": name, "value": value} for name, value in settings.items()]
        spec.setdefault("securityContext", {})["sysctls"] = found
    if asked.get("shm_size"):
        memory = {"medium": "Memory", "sizeLimit": byte_size(str(asked["shm_size"]))}
        spec.setdefault("volumes", []).append({"name": _SHM, "emptyDir": memory})
        container.setdefault("volumeMounts", []).append({"name": _SHM, "mountPath": "/dev/shm"})  # noqa: S108
    if context := _security(asked.get("security_opt") or ()):
        container["securityContext"] = {**(container.get("securityContext") or {}), **context}
    if asked.get("stop_signal"):
        container.setdefault("lifecycle", {})["stopSignal"] = _signal(str(asked["stop_signal"]))
        spec["os"] = {"name": "linux"}  # signals are named by systems
    if asked.get("runtime"):
        spec["runtimeClassName"] = asked["runtime"]


def _names(spec: Object, asked: Mapping[str, Any]) -> None:
    config: Object = {}
    if servers := _many(asked.get("dns")):
        spec["dnsPolicy"] = "None"
        config["nameservers"] = servers
    if searches := _many(asked.get("dns_search")):
        config["searches"] = [one for one in searches if one != "."]
    if options := _many(asked.get("dns_opt")):
        pairs = [one.partition(":") for one in options]
        config["options"] = [{"name": name, **({"value": value} if value else {})} for name, _, value in pairs]
    if config:
        spec["dnsConfig"] = config


def _namespaces(spec: Object, asked: Mapping[str, Any]) -> None:
    for field, target in (("pid", "hostPID"), ("ipc", "hostIPC")):
        mode = str(asked.get(field) or "")
        if mode == "host":
            spec[target] = True
        elif mode not in ("", "private", "shareable"):
            raise ComposeError(f"{field}: {mode}: containers share theirs with the host or with nobody")
    if str(asked.get("userns_mode") or "") == "host":
        spec["hostUsers"] = True
    if asked.get("init"):
        spec["shareProcessNamespace"] = True  # then the first process is one that reaps


def _security(options: Sequence[str]) -> Object:
    found: Object = {}
    for text in options:
        name, _, value = text.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges":
            found["allowPrivilegeEscalation"] = value == "false"
        elif name == "seccomp" and value == "unconfined":
            found["seccompProfile"] = {"type": "Unconfined"}
        elif name == "seccomp" and "/" not in value:
            found["seccompProfile"] = {"type": "RuntimeDefault"}
        elif name not in ("apparmor", "label", "systempaths") or (name == "apparmor" and value != "unconfined"):
            raise ComposeError(f"security option {text}: there are no-new-privileges and seccomp=unconfined")
    return found


def _signal(text: str) -> str:
    import signal

    name = signal.Signals(int(text)).name if text.isdigit() else text.upper()
    return name if name.startswith("SIG") else f"SIG{name}"


def _many(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value or ()]


def _pairs(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): str(one) for name, one in value.items()}
    return dict(str(text).split("=", 1) for text in value or ())
