"""What is seen of a pod and remembered about it, and the rules by which its containers come again.

Apart from pod_worker.py, which decides by it, and pod_status.py, which tells of it. Pure.
Source of the rules: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 10.0, 300.0
# A container that ran this long starts its back-off anew.
STEADY_SECONDS = 600.0
# Static and system pods stand above this and go last of all.
CRITICAL_PRIORITY = 2_000_000_000
RESTART_ALL = "RestartAllContainers"
MIRROR, HASH, SOURCE = "kubernetes.io/config.mirror", "kubernetes.io/config.hash", "kubernetes.io/config.source"
GROUPS = ("initContainers", "containers", "ephemeralContainers")

Pod = Mapping[str, Any]
Spec = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ContainerSeen:
    """One container as the runtime tells of it; times are Unix seconds, 0 for not yet.

    Attributes:
        user: uid, gid and supplementary groups of its first process; empty where the runtime doesn't tell.
        resources: the CRI LinuxContainerResources in force; None where the runtime doesn't tell.
    """

    id: str
    name: str
    state: str  # created, running, exited, unknown
    attempt: int
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_id: str = ""
    spec_hash: str = ""
    sandbox_id: str = ""
    user: Sequence[int] = ()
    resources: Any = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the runtime holds of a pod: its newest sandbox, and all containers by name, newest attempt first."""

    sandbox_id: str = ""
    sandbox_ready: bool = False
    sandbox_attempt: int = 0
    ip: str = ""
    containers: Mapping[str, Sequence[ContainerSeen]] = field(default_factory=dict)
    old_sandboxes: Sequence[str] = ()
    ips: Sequence[str] = ()
    since: float = 0.0
    """When all containers were to begin anew last; what was made before is of the past."""

    def newest(self, name: str) -> ContainerSeen | None:
        """Return the newest attempt of a container."""
        found = self.containers.get(name)
        return found[0] if found else None

    def here(self, name: str) -> ContainerSeen | None:
        """Return the newest attempt of a container if it was made in the present sandbox, and not before `since`."""
        last = self.newest(name)
        if last is None or self.is_past(last):
            return None
        return last if last.sandbox_id in ("", self.sandbox_id) else None

    def is_past(self, one: ContainerSeen) -> bool:
        """Whether a container was made before all were to begin anew."""
        return one.created_at < self.since


@dataclass(slots=True)
class Memory:
    """What is remembered between two looks, by container name or id."""

    not_before: dict[str, float] = field(default_factory=dict)  # container name: when it may be started
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)  # name: reason and message of its waiting
    failures: dict[str, int] = field(default_factory=dict)  # name: starts that failed before there was a container
    crashes: dict[str, tuple[int, int]] = field(default_factory=dict)  # name: attempt, ends before it that count
    ready: dict[str, bool] = field(default_factory=dict)  # id: what its readiness probe says
    started: dict[str, bool] = field(default_factory=dict)  # id: what its startup probe says
    # id: why its liveness or startup probe gave it up, and the probe whose grace period counts
    unhealthy: dict[str, tuple[str, str]] = field(default_factory=dict)
    hooking: set[str] = field(default_factory=set)  # ids whose postStart hook is under way
    max_backoff: float = MAX_BACKOFF_SECONDS  # the longest wait before a container is started again
    resized: dict[str, str] = field(default_factory=dict)  # id: why it must be restarted to get its new resources


def specs(pod: Pod, group: str) -> Sequence[Spec]:
    """Return the container specs of a group: containers, initContainers, ephemeralContainers."""
    return pod["spec"].get(group) or ()


def all_specs(pod: Pod) -> Iterator[tuple[str, Spec]]:
    """Yield every container spec with its group."""
    for group in GROUPS:
        for spec in specs(pod, group):
            yield group, spec


def is_sidecar(spec: Spec) -> bool:
    """Whether an init container goes on running beside the others."""
    return bool(spec.get("restartPolicy") == "Always")


def sidecars(pod: Pod) -> list[Spec]:
    """Return the init containers that go on running."""
    return [spec for spec in specs(pod, "initContainers") if is_sidecar(spec)]


def _rule(spec: Spec, exit_code: int) -> str:
    """Return the action of the first rule that an exit code matches, "" where none does."""
    for rule in spec.get("restartPolicyRules") or ():
        wanted = rule.get("exitCodes") or {}
        if (exit_code in (wanted.get("values") or ())) == (wanted.get("operator") == "In"):
            return str(rule.get("action") or "")
    return ""


def begin_anew_at(pod: Pod, containers: Mapping[str, Sequence[ContainerSeen]]) -> float:
    """Return when a container last ended in a way that has all of the pod begin anew (action RestartAllContainers)."""
    return max(
        (
            one.finished_at
            for _, spec in all_specs(pod)
            for one in containers.get(spec["name"], ())
            if one.state == "exited" and _rule(spec, one.exit_code) == RESTART_ALL
        ),
        default=0.0,
    )


def restarts(pod: Pod, spec: Spec, exit_code: int) -> bool:
    """Whether a container that ended so is to be started again: its own rules, its own policy, then the pod's.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy
    """
    if _rule(spec, exit_code) in ("Restart", RESTART_ALL):
        return True
    policy = spec.get("restartPolicy") or pod["spec"].get("restartPolicy", "Always")
    return bool(policy == "Always" or (policy == "OnFailure" and exit_code != 0))


def init_again(pod: Pod, spec: Spec, exit_code: int) -> bool:
    """Whether an init container that ended so is run again; under the pod policy Always failures alone count."""
    if is_sidecar(spec):
        return True
    return exit_code != 0 and restarts(pod, spec, exit_code)


def backoff_seconds(exited: ContainerSeen, memory: Memory) -> float:
    """Return how long after its end a container may be started again: 0, 10, 20, 40, … up to 300 s, or less."""
    crashes = crashes_before(exited, memory)
    if crashes == 0 or was_steady(exited):
        return 0.0
    return float(min(BACKOFF_SECONDS * 2 ** min(crashes - 1, 10), memory.max_backoff))


def crashes_before(exited: ContainerSeen, memory: Memory) -> int:
    """Return how many ends before this one count for the back-off: all attempts, where nothing is remembered."""
    attempt, crashes = memory.crashes.get(exited.name, (-1, 0))
    return crashes if attempt == exited.attempt else exited.attempt


def was_steady(exited: ContainerSeen) -> bool:
    """Whether a container ran so long that its end is no sign of a crash loop."""
    return exited.started_at > 0 and exited.finished_at - exited.started_at >= STEADY_SECONDS


def init_failed(pod: Pod, seen: Seen) -> bool:
    """Whether an init container failed for good."""
    for spec in specs(pod, "initContainers"):
        last = seen.newest(spec["name"])
        if last is None or last.state != "exited" or is_sidecar(spec) or seen.is_past(last):
            continue
        if last.exit_code != 0 and not init_again(pod, spec, last.exit_code):
            return True
    return False


def is_done(pod: Pod, seen: Seen) -> bool:
    """Whether all that was to run has run: nothing will be started any more; sidecars may still run."""
    if init_failed(pod, seen):
        return True
    for spec in specs(pod, "containers"):
        last = seen.newest(spec["name"])
        if last is None or last.state != "exited" or seen.is_past(last) or restarts(pod, spec, last.exit_code):
            return False
    return bool(specs(pod, "containers"))


def is_initialized(pod: Pod, seen: Seen) -> bool:
    """Whether the pod is past its init containers: one of its own was made in the present sandbox."""
    return any(seen.here(spec["name"]) is not None for spec in specs(pod, "containers"))


def is_over(pod: Pod) -> bool:
    """Whether the API says that the pod has ended."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_critical(pod: Pod) -> bool:
    """Whether the node must not end a pod for its own sake."""
    return int(pod["spec"].get("priority") or 0) >= CRITICAL_PRIORITY or is_static(pod)


def is_static(pod: Pod) -> bool:
    """Whether a pod is one of this node's own manifests, or its mirror."""
    annotations = pod["metadata"].get("annotations") or {}
    # Users may write annotations, but not choose the uid of a pod of the API.
    is_own = annotations.get(SOURCE, "api") != "api" and annotations.get(HASH) == pod["metadata"].get("uid")
    return is_own or MIRROR in annotations


def is_mirror(pod: Pod) -> bool:
    """Whether a pod of the API shows one of a node's own manifests."""
    return MIRROR in (pod["metadata"].get("annotations") or {})
