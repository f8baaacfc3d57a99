"""What to do next for one pod: a pure function from what is wanted and what is seen to actions.

No clock, no I/O; the shell in pod_runtime.py observes, asks here, and acts.
Source of the rules: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 10.0, 300.0
# A container that ran this long starts its back-off anew.
STEADY_SECONDS = 600.0

Pod = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ContainerSeen:
    """One container as the runtime tells of it; times are Unix seconds, 0 for not yet."""

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


@dataclass(frozen=True, slots=True)
class Seen:
    """What the runtime holds of a pod: its newest sandbox, and all containers by name, newest attempt first."""

    sandbox_id: str = ""
    sandbox_ready: bool = False
    sandbox_attempt: int = 0
    ip: str = ""
    containers: Mapping[str, Sequence[ContainerSeen]] = field(default_factory=dict)
    old_sandboxes: Sequence[str] = ()

    def newest(self, name: str) -> ContainerSeen | None:
        """Return the newest attempt of a container."""
        found = self.containers.get(name)
        return found[0] if found else None


@dataclass(slots=True)
class Memory:
    """What is remembered between two looks, by container name or id."""

    not_before: dict[str, float] = field(default_factory=dict)  # container name: when it may be started
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)  # name: reason and message of its waiting
    failures: dict[str, int] = field(default_factory=dict)  # name: starts that failed before there was a container
    ready: dict[str, bool] = field(default_factory=dict)  # id: what its readiness probe says
    started: dict[str, bool] = field(default_factory=dict)  # id: what its startup probe says
    unhealthy: dict[str, str] = field(default_factory=dict)  # id: why its liveness or startup probe gave it up


@dataclass(frozen=True, slots=True)
class MakeSandbox:
    """Make a new sandbox; `attempt` counts them."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """Stop a sandbox and everything in it."""

    sandbox_id: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Make and start a container."""

    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class KillContainer:
    """Stop a running container, for a reason users are told."""

    id: str
    name: str
    why: str


Action = MakeSandbox | StopSandbox | StartContainer | KillContainer


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions to take now, and when to look again at the latest (Unix seconds; None when nothing is pending)."""

    actions: Sequence[Action] = ()
    look_again_at: float | None = None


def specs(pod: Pod, group: str) -> Sequence[Mapping[str, Any]]:
    """Return the container specs of a group: containers, initContainers."""
    return pod["spec"].get(group) or ()


def is_sidecar(spec: Mapping[str, Any]) -> bool:
    """Whether an init container goes on running beside the others."""
    return bool(spec.get("restartPolicy") == "Always")


def restarts(pod: Pod, exited: ContainerSeen) -> bool:
    """Whether a container that ended is to be started again."""
    policy = pod["spec"].get("restartPolicy", "Always")
    return policy == "Always" or (policy == "OnFailure" and exited.exit_code != 0)


def backoff_seconds(exited: ContainerSeen) -> float:
    """Return how long after its end a container may be started again: 0, 10, 20, 40, … up to 300 s."""
    if exited.attempt == 0 or exited.finished_at - exited.started_at >= STEADY_SECONDS:
        return 0.0
    return float(min(BACKOFF_SECONDS * 2 ** min(exited.attempt - 1, 10), MAX_BACKOFF_SECONDS))


def is_done(pod: Pod, seen: Seen) -> bool:
    """Whether all that was to run has run: nothing will be started any more."""
    for spec in specs(pod, "initContainers"):
        last = seen.newest(spec["name"])
        failed = last is not None and last.state == "exited" and last.exit_code != 0
        if failed and not is_sidecar(spec) and pod["spec"].get("restartPolicy", "Always") == "Never":
            return True
    for spec in specs(pod, "containers"):
        last = seen.newest(spec["name"])
        if last is None or last.state != "exited" or restarts(pod, last):
            return False
    return True


def decide(pod: Pod, seen: Seen, memory: Memory, now: float, hashes: Mapping[str, str]) -> Decision:
    """Return the next step towards what the pod asks; called again after each step and each change.

    Args: `hashes` tell for each container name what its spec hashes to now; a running one of another hash is replaced.
    """
    if is_done(pod, seen):
        return Decision([StopSandbox(seen.sandbox_id)] if seen.sandbox_ready else [])
    if not seen.sandbox_ready:
        if seen.sandbox_id:
            return Decision([StopSandbox(seen.sandbox_id), MakeSandbox(seen.sandbox_attempt + 1)])
        return Decision([MakeSandbox(0)])
    kills = list(_kills(pod, seen, memory, hashes))
    if kills:
        return Decision(kills)
    starts: list[Action] = []
    pending: list[float] = []
    for spec in specs(pod, "initContainers"):
        step = _init_step(pod, spec, seen, memory, now)
        starts += [step] if isinstance(step, StartContainer) else []
        pending += [step] if isinstance(step, float) else []
        if not _init_passed(spec, seen, memory):
            return Decision(starts, min(pending, default=None))
    for spec in specs(pod, "containers"):
        step = _main_step(pod, spec, seen, memory, now)
        starts += [step] if isinstance(step, StartContainer) else []
        pending += [step] if isinstance(step, float) else []
    return Decision(starts, min(pending, default=None))


def _kills(pod: Pod, seen: Seen, memory: Memory, hashes: Mapping[str, str]) -> Iterator[KillContainer]:
    for group in ("initContainers", "containers"):
        for spec in specs(pod, group):
            last = seen.newest(spec["name"])
            if last is None or last.state != "running":
                continue
            if last.id in memory.unhealthy:
                yield KillContainer(last.id, last.name, memory.unhealthy[last.id])
            elif group == "containers" and last.spec_hash and last.spec_hash != hashes.get(last.name, last.spec_hash):
                yield KillContainer(last.id, last.name, f"Container {last.name} definition changed, will be restarted")


def _init_passed(spec: Mapping[str, Any], seen: Seen, memory: Memory) -> bool:
    last = seen.newest(spec["name"])
    if last is None:
        return False
    if is_sidecar(spec):
        return last.state == "running" and memory.started.get(last.id, "startupProbe" not in spec)
    return last.state == "exited" and last.exit_code == 0


def _init_step(
    pod: Pod, spec: Mapping[str, Any], seen: Seen, memory: Memory, now: float
) -> StartContainer | float | None:
    last = seen.newest(spec["name"])
    if last is not None and last.state == "exited":
        if not is_sidecar(spec) and (last.exit_code == 0 or pod["spec"].get("restartPolicy") == "Never"):
            return None
        return _after(spec["name"], last, memory, now)
    return _first(spec["name"], memory, now) if last is None else None


def _main_step(
    pod: Pod, spec: Mapping[str, Any], seen: Seen, memory: Memory, now: float
) -> StartContainer | float | None:
    last = seen.newest(spec["name"])
    if last is None:
        return _first(spec["name"], memory, now)
    if last.state in ("running", "created") or (last.state == "exited" and not restarts(pod, last)):
        return None
    return _after(spec["name"], last, memory, now)


def _first(name: str, memory: Memory, now: float) -> StartContainer | float:
    allowed = memory.not_before.get(name, 0.0)
    return StartContainer(name, 0) if allowed <= now else allowed


def _after(name: str, last: ContainerSeen, memory: Memory, now: float) -> StartContainer | float:
    allowed = max(last.finished_at + backoff_seconds(last), memory.not_before.get(name, 0.0))
    return StartContainer(name, last.attempt + 1) if allowed <= now else allowed
