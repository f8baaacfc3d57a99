"""In-place resize: which resources each container was granted, beside those its spec asks for.

What a pod was granted is written beside its files, so that an agent that starts anew neither grants what doesn't fit
nor takes back what was granted.
Source: https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.pod_state import Pod, is_sidecar, specs

Granted = dict[str, dict[str, Any]]  # container name -> its resources
_FILE = "granted.json"
PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"


def asked(pod: Pod) -> Granted:
    """Return the resources each container that can be resized asks for."""
    lasting = [spec for spec in specs(pod, "initContainers") if is_sidecar(spec)]
    return {spec["name"]: spec.get("resources") or {} for spec in (*lasting, *specs(pod, "containers"))}


class Resizes:
    """What pods of this node were granted, and how far their resizes are."""

    def __init__(self, pods_dir: Path) -> None:
        self._root = pods_dir
        self._granted: dict[str, Granted] = {}
        self._conditions: dict[str, dict[str, tuple[str, str]]] = {}  # uid -> type -> reason, message
        self._applied: dict[str, dict[str, Any]] = {}  # container id -> resources it runs with
        # Says why a pod can't be granted what it asks for: (Infeasible|Deferred, message), None when it can.
        self.refusal: Callable[[Pod], tuple[str, str] | None] = lambda _: None

    def granted(self, pod: Pod) -> Granted:
        """Return what a pod was granted; all it asks for at first."""
        uid = pod["metadata"]["uid"]
        if uid not in self._granted:
            try:
                self._granted[uid] = json.loads((self._root / uid / _FILE).read_text())
            except (OSError, ValueError):
                self._granted[uid] = asked(pod)
        return self._granted[uid]

    def as_granted(self, pod: Pod) -> Pod:
        """Return the pod with the resources it was granted in place of those it asks for."""
        granted = self.granted(pod)
        if granted == asked(pod):
            return pod
        spec = dict(pod["spec"])
        for group in ("initContainers", "containers"):
            if group in spec:
                spec[group] = [
                    {**one, "resources": granted[one["name"]]} if one["name"] in granted else one for one in spec[group]
                ]
        return {**pod, "spec": spec}

    def grant(self, pod: Pod) -> bool:
        """Grant what a pod asks for, if the node can; returns whether that was news."""
        uid = pod["metadata"]["uid"]
        conditions = self._conditions.setdefault(uid, {})
        if asked(pod) == self.granted(pod):
            conditions.pop(PENDING, None)
            return False
        refused = self.refusal(pod)
        if refused is not None:
            conditions[PENDING] = refused
            return False
        conditions.pop(PENDING, None)
        conditions[IN_PROGRESS] = ("", "")
        self._granted[uid] = asked(pod)
        path = self._root / uid / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._granted[uid]))
        return True

    def done(self, uid: str, error: str = "") -> None:
        """All containers run with what was granted; or `error` tells why one can't."""
        conditions = self._conditions.setdefault(uid, {})
        if error:
            conditions[IN_PROGRESS] = ("Error", error)
        else:
            conditions.pop(IN_PROGRESS, None)

    def applied(self, container_id: str, resources: dict[str, Any]) -> None:
        """A container runs with these resources now."""
        self._applied[container_id] = resources

    def status(self, pod: Pod, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return what resizes change in a status: conditions, and the resources containers run with meanwhile."""
        metadata = pod["metadata"]
        now = self._conditions.get(metadata["uid"]) or {}
        old = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
        found = list(status["conditions"])
        for kind in (PENDING, IN_PROGRESS):
            if kind in now:
                found.append(_condition(kind, now[kind], old.get(kind), metadata.get("generation")))
            elif kind in old:
                found.append({"type": kind, "$patch": "delete"})
        groups = [group for group in ("containerStatuses", "initContainerStatuses") if group in status]
        return {"conditions": found, **{group: [self._with_applied(one) for one in status[group]] for group in groups}}

    def _with_applied(self, status: dict[str, Any]) -> dict[str, Any]:
        container_id = status.get("containerID", "").rpartition("//")[2]
        applied = self._applied.get(container_id)
        if applied is None or "running" not in status["state"]:
            return status
        return {**status, "resources": {key: applied[key] for key in ("limits", "requests") if key in applied}}

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        self._granted.pop(uid, None)
        self._conditions.pop(uid, None)


def _condition(
    kind: str, why: tuple[str, str], old: Mapping[str, Any] | None, generation: int | None
) -> dict[str, Any]:  # fmt: skip
    from machinery.api.meta import now

    reason, message = why
    same = old is not None and old.get("status") == "True"
    at = old.get("lastTransitionTime") if same and old is not None else now()
    found = {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": at}
    found |= {"reason": reason} if reason else {}
    found |= {"message": message} if message else {}
    return found | ({"observedGeneration": generation} if generation else {})
