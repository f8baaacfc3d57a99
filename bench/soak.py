"""Whether a cluster stays well when much comes and goes: what failed, what was left behind, how memory grew.

Several users, each with the real kubectl, make a namespace, run one part of soak.yaml in it, look that it did what it
should, and delete the namespace; for WHERRY_SOAK_MINUTES (2 if nothing is said).
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from bench.clusters import memory_mb, percentile, running
from cluster.layout import Layout
from cluster.processes import running_pid

USERS = 6
COMPONENTS = ("apiserver", "controller-manager", "scheduler", "agent", "runtime", "dns")
_MANIFESTS = Path(__file__).with_suffix(".yaml")
PATIENCE_SECONDS = 120.0
_SETTLE_SECONDS = 8.0
_ENDED = "jsonpath={.status.containerStatuses[0].state.terminated.reason}"


class Failed(AssertionError):
    """A part did not do what it should."""


def main() -> dict[str, object]:
    """Return counts, seconds per part, leftovers and memory in MB before and after."""
    if os.geteuid() != 0:
        return {"skipped": "needs root"}
    minutes = float(os.environ.get("WHERRY_SOAK_MINUTES", "2"))
    with running() as (layout, _, _):
        time.sleep(_SETTLE_SECONDS)
        before = _memory(layout)
        soak = Soak(str(layout.kubeconfig), time.monotonic() + minutes * 60)
        soak.run()
        time.sleep(_SETTLE_SECONDS)
        return {
            "rounds": sum(map(len, soak.seconds.values())), "failures": soak.failures,
            "seconds": {
                name: {"p50": round(percentile(found, 0.5), 1), "max": round(max(found), 1)}
                for name, found in sorted(soak.seconds.items())
            },
            "left_behind": left(layout, soak), "memory_mb": {"before": before, "after": _memory(layout)},
        }  # fmt: skip


def _memory(layout: Layout) -> dict[str, float]:
    return {name: memory_mb(running_pid(layout, name) or 0) for name in COMPONENTS}


def left(layout: Layout, soak: "Soak") -> dict[str, int]:
    """Return how much there is that nothing needs any more; all should be 0."""
    mounts = Path("/proc/self/mounts").read_text().count(f"{layout.root}/agent/pods")
    containers = len(list((layout.root / "runtime" / "containers").iterdir()))
    volumes = len(soak.kubectl("get", "persistentvolumes", "-o", "name").split())
    return {"mounts": mounts, "containers": containers, "volumes": volumes}


class Soak:
    """Users at work, until a time of time.monotonic()."""

    def __init__(self, kubeconfig: str, until: float) -> None:
        self._kubeconfig = kubeconfig
        self._until = until
        self._numbers = count()
        self.failures: list[str] = []
        self.seconds: dict[str, list[float]] = {}

    def run(self) -> None:
        """Return when all users have ended what they were at."""
        users = [threading.Thread(target=self._work) for _ in range(USERS)]
        for user in users:
            user.start()
        for user in users:
            user.join()

    def _work(self) -> None:
        parts = list(_PARTS.items())
        while time.monotonic() < self._until:
            number = next(self._numbers)
            name, part = parts[number % len(parts)]
            namespace, began = f"soak-{number}", time.monotonic()
            try:
                self.kubectl("create", "namespace", namespace)
                self._apply(namespace, name)
                part(self, namespace)
                self.kubectl("delete", "namespace", namespace, "--timeout=90s")
                self.seconds.setdefault(name, []).append(time.monotonic() - began)
            except (Failed, subprocess.TimeoutExpired) as error:
                self.failures.append(f"{namespace} ({name}): {error}")

    def _apply(self, namespace: str, part: str) -> None:
        self._until_true(lambda: self.kubectl("-n", namespace, "get", "serviceaccounts", "-o", "name"), "an account")
        self.kubectl("-n", namespace, "apply", "-l", f"part={part}", "-f", str(_MANIFESTS))

    def kubectl(self, *arguments: str) -> str:
        """Return what kubectl prints. Raises: Failed with what it says."""
        argv = ["kubectl", "--kubeconfig", self._kubeconfig, *arguments]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if done.returncode:
            raise Failed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _until_true(self, check: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not check():
            if time.monotonic() > deadline:
                raise Failed(f"no {what} in time")
            time.sleep(0.2)

    def rolled_out(self, namespace: str, what: str) -> None:
        """Wait until a workload has what it should."""
        self.kubectl("-n", namespace, "rollout", "status", what, "--timeout=90s")

    def deployment(self, namespace: str) -> None:
        """Pods behind a service, more of them, then new ones."""
        self.rolled_out(namespace, "deployment/web")
        address = self.kubectl("-n", namespace, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
        ask = rf"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 {address} 80 | grep web-"
        names = self.kubectl(
            "-n", namespace, "exec", "deploy/web", "--", "sh", "-c",
            f"nslookup web.{namespace}.svc.cluster.local && for i in 1 2 3 4 5 6 7 8; do {ask} || exit 1; done",
        )  # fmt: skip
        _expect(names.count("web-") == 8, f"eight answers, not {names}")
        self.kubectl("-n", namespace, "scale", "deployment/web", "--replicas=5")
        self.kubectl("-n", namespace, "rollout", "restart", "deployment/web")
        self.rolled_out(namespace, "deployment/web")

    def statefulset(self, namespace: str) -> None:
        """A pod that comes back to its claim."""
        self.rolled_out(namespace, "statefulset/db")
        self.kubectl("-n", namespace, "delete", "pod", "db-0")
        self.rolled_out(namespace, "statefulset/db")
        log = self.kubectl("-n", namespace, "exec", "db-0", "--", "cat", "/data/log")
        _expect(log == "begun\nbegun\n", f"the claim of the pod before, not {log}")

    def job(self, namespace: str) -> None:
        """Each index once."""
        self.kubectl("-n", namespace, "wait", "--for=condition=complete", "job/sums", "--timeout=90s")
        printed = self.kubectl("-n", namespace, "logs", "-l", "job-name=sums", "--tail=-1")
        _expect(sorted(printed.split()) == list("01234"), f"all indexes once, not {printed}")

    def pod(self, namespace: str) -> None:
        """Init, sidecar and hooks; one container dies and comes back."""
        self.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/whole", "--timeout=90s")
        _expect(self.kubectl("-n", namespace, "logs", "whole", "-c", "main") == "hello\n", "its log")
        self.kubectl("-n", namespace, "exec", "whole", "-c", "main", "--", "sh", "-c", "ls /shared/started && kill 1")
        restarts = "jsonpath={.status.containerStatuses[?(@.name=='main')].restartCount}"
        self._until_true(lambda: self.kubectl("-n", namespace, "get", "pod", "whole", "-o", restarts) == "1", "restart")

    def daemonset(self, namespace: str) -> None:
        """A pod on each node, replaced by a changed one."""
        self.rolled_out(namespace, "daemonset/everywhere")
        self.kubectl("-n", namespace, "set", "env", "daemonset/everywhere", "CHANGED=1")
        self.rolled_out(namespace, "daemonset/everywhere")

    def ends(self, namespace: str) -> None:
        """How containers ended."""
        for name, reason in (("hungry", "OOMKilled"), ("wrong", "Error")):
            get = ("-n", namespace, "get", "pod", name, "-o", _ENDED)
            self._until_true(lambda get=get: self.kubectl(*get), f"end of {name}")  # type: ignore[misc]
            _expect((found := self.kubectl(*get)) == reason, f"{reason} for {name}, not {found}")


_PARTS: dict[str, Callable[[Soak, str], None]] = {
    "deployment": Soak.deployment, "statefulset": Soak.statefulset, "job": Soak.job, "pod": Soak.pod,
    "daemonset": Soak.daemonset, "ends": Soak.ends,
}  # fmt: skip


def _expect(met: bool, what: str) -> None:
    if not met:
        raise Failed(f"expected {what}")
