"""A pod's status, made of what the runtime holds and what probes say; pure.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agent.pod_conditions import make_conditions
from agent.pod_state import (
    ContainerSeen,
    Memory,
    Pod,
    Seen,
    Spec,
    backoff_seconds,
    init_again,
    init_failed,
    is_initialized,
    is_over,
    is_sidecar,
    restarts,
    sidecars,
    specs,
)

Status = dict[str, Any]
_FIELDS = {
    "initContainers": "initContainerStatuses", "containers": "containerStatuses",
    "ephemeralContainers": "ephemeralContainerStatuses",
}  # fmt: skip


def timestamp(seconds: float) -> str | None:
    """Return Unix seconds as the API tells times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def make_status(
    pod: Pod, seen: Seen, memory: Memory, now: float, host_ip: str, scheme: str, *, is_final: bool = False
) -> Status:
    """Return the whole status; conditions keep the times of those that did not change.

    A phase of Succeeded or Failed that was told already stays, with its reason.

    Args: `is_final` says that all containers were ended for good: then none waits, and the phase is an end.
    """
    old = pod.get("status") or {}
    found = {
        group: [_container_status(pod, spec, group, seen, memory, now, scheme) for spec in specs(pod, group)]
        for group in _FIELDS
    }
    if is_final:
        # Containers that never came to their turn wait for ever.
        groups = _FIELDS if _all_have_run(pod, seen) or _init_done(pod, seen) else ("initContainers",)
        found |= {group: [_settled(one, group) for one in found[group]] for group in groups}
    phase = old["phase"] if is_over(pod) else _final_phase(found["containers"]) if is_final else _phase(pod, seen)
    status: Status = {
        "phase": phase, "hostIP": host_ip, "hostIPs": [{"ip": host_ip}],
        "startTime": old.get("startTime") or timestamp(now), "qosClass": old.get("qosClass"),
        "containerStatuses": found["containers"],
    }  # fmt: skip
    for group in ("initContainers", "ephemeralContainers"):
        if found[group]:
            status[_FIELDS[group]] = found[group]
    if is_over(pod):
        status |= {name: old[name] for name in ("reason", "message") if name in old}
    _add_addresses(status, pod, seen, host_ip)
    if generation := pod["metadata"].get("generation"):
        status["observedGeneration"] = generation
    status["conditions"] = make_conditions(pod, seen, phase, found["initContainers"], found["containers"], now)
    return {name: value for name, value in status.items() if value is not None}


def _settled(status: Status, group: str) -> Status:
    """A container of which nobody can tell any more how it ended counts as failed."""
    if "terminated" in status["state"] or (group == "initContainers" and "containerID" not in status):
        return status
    message = "The container could not be located when the pod was terminated"
    ended = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": message}
    return {**status, "state": {"terminated": ended}, "ready": False, "started": False}


def _final_phase(main: Sequence[Status]) -> str:
    codes = [one["state"].get("terminated", {}).get("exitCode", 1) for one in main]
    return "Failed" if any(codes) else "Succeeded"


def _add_addresses(status: Status, pod: Pod, seen: Seen, host_ip: str) -> None:
    old = pod.get("status") or {}
    if pod["spec"].get("hostNetwork"):
        addresses = [host_ip]
    elif seen.ips:  # kept after the pod's end
        addresses = list(seen.ips)
    else:
        addresses = [one["ip"] for one in old.get("podIPs") or ()]
    if addresses:
        status["podIP"], status["podIPs"] = addresses[0], [{"ip": ip} for ip in addresses]


def _phase(pod: Pod, seen: Seen) -> str:
    if init_failed(pod, seen):
        return "Failed" if not _sidecars_run(pod, seen) else "Pending"
    if not is_initialized(pod, seen) and not _all_have_run(pod, seen) and not _init_done(pod, seen):
        return _kept_running(pod)
    latest = [(spec, seen.newest(spec["name"])) for spec in specs(pod, "containers")]
    known = [(spec, one) for spec, one in latest if one is not None]
    if len(known) < len(latest):
        return _kept_running(pod)
    if any(one.state in ("running", "created") or restarts(pod, spec, one.exit_code) for spec, one in known):
        return "Running"
    if _sidecars_run(pod, seen):
        return "Running"
    return "Failed" if any(one.exit_code != 0 for _, one in known) else "Succeeded"


def _init_done(pod: Pod, seen: Seen) -> bool:
    for spec in specs(pod, "initContainers"):
        last = seen.newest(spec["name"])
        if last is None or (not is_sidecar(spec) and (last.state != "exited" or last.exit_code != 0)):
            return False
    return True


def _all_have_run(pod: Pod, seen: Seen) -> bool:
    return all(seen.newest(spec["name"]) is not None for spec in specs(pod, "containers"))


def _sidecars_run(pod: Pod, seen: Seen) -> bool:
    latest = [seen.newest(spec["name"]) for spec in sidecars(pod)]
    return any(one is not None and one.state == "running" for one in latest)


def _kept_running(pod: Pod) -> str:
    """A pod whose sandbox is made anew was Running before and stays it."""
    return "Running" if (pod.get("status") or {}).get("phase") == "Running" else "Pending"


def _container_status(
    pod: Pod, spec: Spec, group: str, seen: Seen, memory: Memory, now: float, scheme: str
) -> Status:  # fmt: skip
    attempts = seen.containers.get(spec["name"]) or ()
    last = attempts[0] if attempts else None
    before = attempts[1] if len(attempts) > 1 else None
    if last is None and (told := _told_end(pod, spec["name"])) is not None:
        return told
    status: Status = {
        "name": spec["name"], "image": spec.get("image", ""), "imageID": "", "restartCount": 0, "ready": False,
        "started": False, "state": {}, "lastState": {},
    }  # fmt: skip
    if last is not None:
        status |= {"restartCount": last.attempt, "imageID": last.image_id, "containerID": f"{scheme}{last.id}"}
        status["image"] = last.image or status["image"]
    waiting = _waiting(pod, spec, group, seen, memory, now)
    if waiting is not None:
        status["state"] = {"waiting": waiting}
        ended = last if last is not None and last.state == "exited" else before
        if ended is not None:
            status["lastState"] = {"terminated": _terminated(ended, scheme)}
    elif last is not None:
        status["state"] = _state(last, scheme)
        if before is not None and before.state == "exited":
            status["lastState"] = {"terminated": _terminated(before, scheme)}
        _add_readiness(status, pod, spec, group, last, memory)
    _add_details(status, pod, spec, last)
    return status


def _add_readiness(status: Status, pod: Pod, spec: Spec, group: str, last: ContainerSeen, memory: Memory) -> None:
    if last.state == "running":
        told = _told_before(pod, spec["name"], status["containerID"])
        started = memory.started.get(last.id, told.get("started") or "startupProbe" not in spec)
        status["started"] = bool(started) and last.id not in memory.hooking
        unprobed = told.get("ready", False) if "readinessProbe" in spec else True
        status["ready"] = status["started"] and memory.ready.get(last.id, unprobed)
        if group == "ephemeralContainers":
            status["ready"] = status["started"] = False
        elif group == "initContainers" and not is_sidecar(spec):
            status["ready"] = False
    elif group == "initContainers" and not is_sidecar(spec):
        status["ready"] = last.state == "exited" and last.exit_code == 0


def _add_details(status: Status, pod: Pod, spec: Spec, last: ContainerSeen | None) -> None:
    """What the container was given: resources, mounts, and the user it runs as."""
    if pod_resources := spec.get("resources"):
        status["resources"] = {key: pod_resources[key] for key in ("limits", "requests") if key in pod_resources}
        if requests := pod_resources.get("requests"):
            status["allocatedResources"] = requests
    else:
        status["resources"] = {}
    if mounts := [_mount_status(one) for one in spec.get("volumeMounts") or ()]:
        status["volumeMounts"] = mounts
    if last is not None and (signal := (spec.get("lifecycle") or {}).get("stopSignal")):
        status["stopSignal"] = signal
    if last is not None and len(last.user) >= 2:
        uid, gid, *groups = last.user
        status["user"] = {"linux": {"uid": uid, "gid": gid, "supplementalGroups": list(groups)}}


def _mount_status(mount: Mapping[str, Any]) -> Status:
    found: Status = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if mount.get("readOnly"):
        recursive = mount.get("recursiveReadOnly") or "Disabled"
        found |= {"readOnly": True, "recursiveReadOnly": "Enabled" if recursive == "IfPossible" else recursive}
    return found


def _told_end(pod: Pod, name: str) -> Status | None:
    """Return what was said of a container that has ended and is gone from the runtime: that stays so."""
    for group in _FIELDS.values():
        for one in (pod.get("status") or {}).get(group) or ():
            if one["name"] == name and (one.get("state") or {}).get("terminated"):
                return dict(one)
    return None


def _told_before(pod: Pod, name: str, container_id: str) -> Mapping[str, Any]:
    """Return what was said of this very container last: an agent that starts anew does not know better at first."""
    groups = ("containerStatuses", "initContainerStatuses")
    statuses = [one for group in groups for one in (pod.get("status") or {}).get(group) or ()]
    return next((one for one in statuses if (one["name"], one.get("containerID")) == (name, container_id)), {})


def _waiting(pod: Pod, spec: Spec, group: str, seen: Seen, memory: Memory, now: float) -> Status | None:
    """Return why a container does not run yet, or again; None when it runs, or has ended for good."""
    name = spec["name"]
    last = seen.newest(name)
    told = memory.waiting.get(name)
    if told is not None and (last is None or last.state == "exited"):
        return {"reason": told[0], "message": told[1]} if told[1] else {"reason": told[0]}
    if last is None:
        has_init = bool(specs(pod, "initContainers")) and group != "ephemeralContainers"
        if has_init and seen.sandbox_ready and not _is_first(pod, name):
            return {"reason": "PodInitializing"}
        return {"reason": "PodInitializing" if has_init else "ContainerCreating"}
    is_ending = is_over(pod) or bool(pod["metadata"].get("deletionTimestamp"))
    if last.state != "exited" or group == "ephemeralContainers" or is_ending:
        return None
    if group == "initContainers":
        comes_again = init_again(pod, spec, last.exit_code)
    else:
        comes_again = restarts(pod, spec, last.exit_code)
    delay = backoff_seconds(last, memory)
    if comes_again and delay and now < last.finished_at + delay:
        metadata = pod["metadata"]
        whose = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        text = f"back-off {_go_duration(delay)} restarting failed container={name} pod={whose}"
        return {"reason": "CrashLoopBackOff", "message": text}
    return None


def _is_first(pod: Pod, name: str) -> bool:
    inits: Sequence[Spec] = specs(pod, "initContainers")
    return bool(inits and inits[0]["name"] == name)


def _go_duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _state(last: ContainerSeen, scheme: str) -> Status:
    if last.state == "running":
        return {"running": {"startedAt": timestamp(last.started_at)}}
    if last.state == "exited":
        return {"terminated": _terminated(last, scheme)}
    return {"waiting": {"reason": "ContainerCreating"}}


def _terminated(ended: ContainerSeen, scheme: str) -> Status:
    found: Status = {
        "exitCode": ended.exit_code, "reason": ended.reason or ("Completed" if ended.exit_code == 0 else "Error"),
        "startedAt": timestamp(ended.started_at or ended.created_at), "finishedAt": timestamp(ended.finished_at),
        "containerID": f"{scheme}{ended.id}",
    }  # fmt: skip
    if ended.message:
        found["message"] = ended.message
    return found
