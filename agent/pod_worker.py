"""What to do next for one pod: a pure function from what is wanted and what is seen to actions.

No clock, no I/O; the shell in pod_runtime.py observes, asks here, and acts.
Source of the rules: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.pod_state import (
    ContainerSeen,
    Memory,
    Pod,
    Seen,
    Spec,
    backoff_seconds,
    init_again,
    is_done,
    is_initialized,
    is_sidecar,
    restarts,
    sidecars,
    specs,
)


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
    """Stop a running container, for a reason users are told; `probe` names the one whose grace period counts."""

    id: str
    name: str
    why: str
    probe: str = ""


@dataclass(frozen=True, slots=True)
class EndSidecars:
    """Stop the sidecars, the last first: the containers they stood by have ended."""

    names: Sequence[str]


Action = MakeSandbox | StopSandbox | StartContainer | KillContainer | EndSidecars


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions to take now, and when to look again at the latest (Unix seconds; None when nothing is pending)."""

    actions: Sequence[Action] = ()
    look_again_at: float | None = None


def decide(pod: Pod, seen: Seen, memory: Memory, now: float, hashes: Mapping[str, str]) -> Decision:
    """Return the next step towards what the pod asks; called again after each step and each change.

    Args: `hashes` tell for each container name what its spec hashes to now; a running one of another hash is replaced.
    """
    if is_done(pod, seen):
        return _finish(pod, seen)
    if not seen.sandbox_ready:
        return _sandbox_step(pod, seen)
    kills = list(_kills(pod, seen, memory, hashes))
    if kills:
        return Decision(kills)
    steps = [*_ephemeral_steps(pod, seen, memory, now), *_ordered_steps(pod, seen, memory, now)]
    starts = [step for step in steps if isinstance(step, StartContainer)]
    pending = [step for step in steps if isinstance(step, float)]
    return Decision(starts, min(pending, default=None))


def _finish(pod: Pod, seen: Seen) -> Decision:
    running = [spec["name"] for spec in sidecars(pod) if _is_running(seen, spec)]
    if running:
        return Decision([EndSidecars(running)])
    return Decision([StopSandbox(seen.sandbox_id)] if seen.sandbox_ready else [])


def _is_running(seen: Seen, spec: Spec) -> bool:
    last = seen.newest(spec["name"])
    return last is not None and last.state in ("running", "created")


def _sandbox_step(pod: Pod, seen: Seen) -> Decision:
    if not seen.sandbox_id:
        return Decision([MakeSandbox(0)])
    return Decision([StopSandbox(seen.sandbox_id), MakeSandbox(seen.sandbox_attempt + 1)])


def _kills(pod: Pod, seen: Seen, memory: Memory, hashes: Mapping[str, str]) -> Iterator[KillContainer]:
    for group in ("initContainers", "containers"):
        for spec in specs(pod, group):
            last = seen.newest(spec["name"])
            if last is None or last.state != "running":
                continue
            again = init_again(pod, spec, 1) if group == "initContainers" else restarts(pod, spec, 1)
            tail = ", will be restarted" if again else ""
            if seen.is_past(last):
                yield KillContainer(last.id, last.name, "Container stopped: all containers of the pod are restarted")
            elif last.id in memory.unhealthy:
                why, probe = memory.unhealthy[last.id]
                yield KillContainer(last.id, last.name, why + tail, probe)
            elif last.id in memory.resized:
                yield KillContainer(last.id, last.name, memory.resized[last.id])
            elif last.spec_hash and last.spec_hash != hashes.get(last.name, last.spec_hash):
                yield KillContainer(last.id, last.name, f"Container {last.name} definition changed, will be restarted")


Step = StartContainer | float


def _ephemeral_steps(pod: Pod, seen: Seen, memory: Memory, now: float) -> Iterator[Step]:
    """Ephemeral containers run once, whatever the others do."""
    for spec in specs(pod, "ephemeralContainers"):
        if seen.newest(spec["name"]) is None:
            yield _first(spec["name"], memory, now)


def _ordered_steps(pod: Pod, seen: Seen, memory: Memory, now: float) -> Iterator[Step]:
    initialized = is_initialized(pod, seen)
    for spec in specs(pod, "initContainers"):
        if initialized and not is_sidecar(spec):
            continue  # it has done its work, or the containers would not be there
        step = _init_step(pod, spec, seen, memory, now)
        if step is not None:
            yield step
        if not initialized and not _init_passed(spec, seen, memory):
            return
    for spec in specs(pod, "containers"):
        step = _main_step(pod, spec, seen, memory, now)
        if step is not None:
            yield step
        if _holds_up(spec, step, seen, memory):
            return


def _holds_up(spec: Spec, step: Step | None, seen: Seen, memory: Memory) -> bool:
    """Whether the containers after this one wait: until its postStart hook is over."""
    last = seen.newest(spec["name"])
    has_hook = bool((spec.get("lifecycle") or {}).get("postStart"))
    return has_hook and (isinstance(step, StartContainer) or (last is not None and last.id in memory.hooking))


def _init_passed(spec: Spec, seen: Seen, memory: Memory) -> bool:
    last = seen.here(spec["name"])
    if last is None:
        return False
    if is_sidecar(spec):
        started = memory.started.get(last.id, "startupProbe" not in spec) and last.id not in memory.hooking
        return last.state == "running" and started
    return last.state == "exited" and last.exit_code == 0


def _init_step(pod: Pod, spec: Spec, seen: Seen, memory: Memory, now: float) -> Step | None:
    last = seen.newest(spec["name"])
    if last is None:
        return _first(spec["name"], memory, now)
    if seen.here(spec["name"]) is None:  # it belongs to a sandbox that is gone
        return StartContainer(spec["name"], last.attempt + 1)
    if last.state == "exited" and init_again(pod, spec, last.exit_code):
        return _after(spec["name"], last, memory, now)
    return None


def _main_step(pod: Pod, spec: Spec, seen: Seen, memory: Memory, now: float) -> Step | None:
    last = seen.newest(spec["name"])
    if last is None:
        return _first(spec["name"], memory, now)
    if last.state in ("running", "created") and seen.here(spec["name"]) is not None:
        return None
    if seen.is_past(last):
        return StartContainer(spec["name"], last.attempt + 1)
    if last.state == "exited" and not restarts(pod, spec, last.exit_code):
        return None
    return _after(spec["name"], last, memory, now)


def _first(name: str, memory: Memory, now: float) -> Step:
    allowed = memory.not_before.get(name, 0.0)
    return StartContainer(name, 0) if allowed <= now else allowed


def _after(name: str, last: ContainerSeen, memory: Memory, now: float) -> Step:
    allowed = max(last.finished_at + backoff_seconds(last, memory), memory.not_before.get(name, 0.0))
    return StartContainer(name, last.attempt + 1) if allowed <= now else allowed
