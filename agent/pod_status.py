"""A pod's status, made of what the runtime holds and what probes say; pure.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agent.pod_worker import ContainerSeen, Memory, Pod, Seen, backoff_seconds, is_sidecar, restarts, specs

Status = dict[str, Any]


def timestamp(seconds: float) -> str | None:
    """Return Unix seconds as the API tells times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def make_status(pod: Pod, seen: Seen, memory: Memory, now: float, host_ip: str, scheme: str) -> Status:
    """Return the whole status; conditions keep the times of those that did not change."""
    old = pod.get("status") or {}
    init = [_container_status(pod, spec, seen, memory, now, scheme, init=True) for spec in specs(pod, "initContainers")]
    main = [_container_status(pod, spec, seen, memory, now, scheme, init=False) for spec in specs(pod, "containers")]
    phase = _phase(pod, seen)
    status: Status = {
        "phase": phase, "hostIP": host_ip, "hostIPs": [{"ip": host_ip}],
        "startTime": old.get("startTime") or timestamp(now), "qosClass": old.get("qosClass"), "containerStatuses": main,
    }  # fmt: skip
    if init:
        status["initContainerStatuses"] = init
    ip = host_ip if pod["spec"].get("hostNetwork") else seen.ip or old.get("podIP", "")
    if ip:
        status["podIP"], status["podIPs"] = ip, [{"ip": ip}]
    if generation := pod["metadata"].get("generation"):
        status["observedGeneration"] = generation
    status["conditions"] = _conditions(pod, seen, phase, init, main, now)
    return {name: value for name, value in status.items() if value is not None}


def _phase(pod: Pod, seen: Seen) -> str:
    policy = pod["spec"].get("restartPolicy", "Always")
    for spec in specs(pod, "initContainers"):
        last = seen.newest(spec["name"])
        if is_sidecar(spec):
            continue
        if last is None or last.state != "exited":
            return _kept_running(pod)
        if last.exit_code != 0:
            return "Failed" if policy == "Never" else _kept_running(pod)
    latest = [seen.newest(spec["name"]) for spec in specs(pod, "containers")]
    if any(one is None for one in latest):
        return _kept_running(pod)
    known = [one for one in latest if one is not None]
    if any(one.state in ("running", "created") or (one.state == "exited" and restarts(pod, one)) for one in known):
        return "Running"
    return "Failed" if any(one.exit_code != 0 for one in known) else "Succeeded"


def _kept_running(pod: Pod) -> str:
    """A pod whose sandbox is made anew was Running before and stays it."""
    return "Running" if (pod.get("status") or {}).get("phase") == "Running" else "Pending"


def _container_status(
    pod: Pod, spec: Mapping[str, Any], seen: Seen, memory: Memory, now: float, scheme: str, *, init: bool
) -> Status:
    name = spec["name"]
    attempts = seen.containers.get(name) or ()
    last = attempts[0] if attempts else None
    status: Status = {
        "name": name, "image": spec.get("image", ""), "imageID": "", "restartCount": 0, "ready": False,
        "started": False, "state": {}, "lastState": {},
    }  # fmt: skip
    if last is not None:
        status["restartCount"] = last.attempt
        status["imageID"] = last.image_id
        status["image"] = last.image or status["image"]
        status["containerID"] = f"{scheme}{last.id}"
    before = attempts[1] if len(attempts) > 1 else None
    waiting = _waiting(pod, spec, last, seen, memory, now, init=init)
    if waiting is not None:
        status["state"] = {"waiting": waiting}
        ended = last if last is not None and last.state == "exited" else before
        if ended is not None:
            status["lastState"] = {"terminated": _terminated(ended, scheme)}
    elif last is not None:
        status["state"] = _state(last, scheme)
        if before is not None and before.state == "exited":
            status["lastState"] = {"terminated": _terminated(before, scheme)}
        if last.state == "running":
            told = _told_before(pod, name, status["containerID"])
            status["started"] = memory.started.get(last.id, told.get("started") or "startupProbe" not in spec)
            unprobed = told.get("ready", False) if "readinessProbe" in spec else True
            status["ready"] = status["started"] and memory.ready.get(last.id, unprobed)
        elif init and not is_sidecar(spec):
            status["ready"] = last.exit_code == 0
    return status


def _told_before(pod: Pod, name: str, container_id: str) -> Mapping[str, Any]:
    """Return what was said of this very container last: an agent that starts anew does not know better at first."""
    groups = ("containerStatuses", "initContainerStatuses")
    statuses = [one for group in groups for one in (pod.get("status") or {}).get(group) or ()]
    return next((one for one in statuses if (one["name"], one.get("containerID")) == (name, container_id)), {})


def _waiting(
    pod: Pod, spec: Mapping[str, Any], last: ContainerSeen | None, seen: Seen, memory: Memory, now: float, *, init: bool
) -> Status | None:
    """Return why a container does not run yet, or again; None when it runs, or has ended for good."""
    name = spec["name"]
    told = memory.waiting.get(name)
    if told is not None and (last is None or last.state == "exited"):
        return {"reason": told[0], "message": told[1]} if told[1] else {"reason": told[0]}
    if last is None:
        has_init = bool(specs(pod, "initContainers"))
        if has_init and seen.sandbox_ready and not (init and _is_first(pod, name)):
            return {"reason": "PodInitializing"}
        return {"reason": "PodInitializing" if has_init else "ContainerCreating"}
    if last.state != "exited":
        return None
    comes_again = _init_again(pod, spec, last) if init else restarts(pod, last)
    delay = backoff_seconds(last)
    if comes_again and delay and now < last.finished_at + delay:
        metadata = pod["metadata"]
        whose = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        text = f"back-off {_go_duration(delay)} restarting failed container={name} pod={whose}"
        return {"reason": "CrashLoopBackOff", "message": text}
    return None


def _is_first(pod: Pod, name: str) -> bool:
    return bool(specs(pod, "initContainers")[0]["name"] == name)


def _init_again(pod: Pod, spec: Mapping[str, Any], last: ContainerSeen) -> bool:
    return is_sidecar(spec) or (last.exit_code != 0 and pod["spec"].get("restartPolicy") != "Never")


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


def _conditions(
    pod: Pod, seen: Seen, phase: str, init: Sequence[Status], main: Sequence[Status], now: float
) -> list[Status]:
    over = phase in ("Succeeded", "Failed")
    init_left = [one["name"] for one in init if not (one["ready"] or one["started"])]
    not_ready = [one["name"] for one in main if not one["ready"]]
    completed = "PodCompleted" if phase == "Succeeded" else "PodFailed" if phase == "Failed" else ""
    why_init = ("ContainersNotInitialized", f"containers with incomplete status: [{' '.join(init_left)}]")
    why_ready = ("ContainersNotReady", f"containers with unready status: [{' '.join(not_ready)}]")
    if completed:
        why_ready = (completed, "")
    initialized = not init_left or phase == "Succeeded" or any(one.get("containerID") for one in main)
    containers_ready = not not_ready and not over
    gates_open, why_gate = _gates(pod)
    ready = containers_ready and gates_open
    wanted = [
        ("PodReadyToStartContainers", seen.sandbox_ready, ("", "")),
        ("Initialized", initialized, (completed, "") if completed and initialized else why_init),
        ("Ready", ready, why_ready if not containers_ready else why_gate),
        ("ContainersReady", containers_ready, why_ready),
        ("PodScheduled", True, ("", "")),
    ]
    old = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
    generation = pod["metadata"].get("generation")
    return [_condition(kind, value, why, old.get(kind), now, generation) for kind, value, why in wanted]


def _gates(pod: Pod) -> tuple[bool, tuple[str, str]]:
    have = {one["type"]: one["status"] for one in (pod.get("status") or {}).get("conditions") or ()}
    for gate in pod["spec"].get("readinessGates") or ():
        if have.get(gate["conditionType"]) != "True":
            text = f'corresponding condition of pod readiness gate "{gate["conditionType"]}" does not exist.'
            return False, ("ReadinessGatesNotReady", text)
    return True, ("", "")


def _condition(
    kind: str, value: bool, why: tuple[str, str], old: Mapping[str, Any] | None, now: float, generation: int | None
) -> Status:
    status = "True" if value else "False"
    same = old is not None and old.get("status") == status
    at = old.get("lastTransitionTime") if same and old is not None else None
    found: Status = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": at or timestamp(now)}
    reason, message = why
    if reason and (not value or reason.startswith("PodCompleted")):
        found["reason"] = reason
        if message:
            found["message"] = message
    if generation:
        found["observedGeneration"] = generation
    return found
