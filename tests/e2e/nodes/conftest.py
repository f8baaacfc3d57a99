"""A cluster of three machines, each a network namespace with its own agent, runtime, bridge and address.

`control` and `near` share a link; `far` is behind a router, so its pods are reached through the tunnel.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.processes import running_pid
from tests.e2e.conftest import IMAGE, ROOT
from tests.support.netlab import Lab, Machine

ADDRESSES = {"control": "192.0.2.1", "near": "192.0.2.2", "far": "198.51.100.3"}


@dataclass
class Nodes:
    """The machines, their data folders, and commands run on them."""

    folder: Path
    machines: dict[str, Machine]
    outside: Machine
    labels: dict[str, str] = field(default_factory=dict)

    def layout(self, name: str) -> Layout:
        return Layout(self.folder / name)

    def run(self, name: str, *argv: str, given: str = "", check: bool = True, words: bool = True) -> str:
        """Run a command on a machine and return its output, with `words` what it says on standard error too."""
        home = str(self.folder / "control")
        environment = {**os.environ, "KUBECONFIG": f"{home}/kubeconfig", "HOME": home, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.machines[name].name}", *argv], input=given, capture_output=True,
            text=True, timeout=60, env=environment, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} on {name}: {done.stdout}{done.stderr}\n{self.logs()}")
        return done.stdout if check or not words else done.stdout + done.stderr

    def wherry(self, name: str, *arguments: str, check: bool = True) -> str:
        argv = (sys.executable, "-m", "cluster.main", *arguments, "--data-dir", str(self.folder / name))
        return self.run(name, *argv, check=check)

    def kubectl(self, *arguments: str, given: str = "", check: bool = True) -> str:
        return self.run("control", "kubectl", *arguments, given=given, check=check)

    def sh(self, pod: str, command: str) -> str:
        return self.run("control", "kubectl", "exec", pod, "--", "sh", "-c", command, check=False, words=False).strip()

    def get(self, pod: str, host: str, port: int = 8080) -> str:
        """What a pod is told by an HTTP server; "" when there is no answer."""
        return self.sh(pod, f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {host} {port} 2>/dev/null | tail -n 1")

    def ip(self, pod: str) -> str:
        return self.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")

    def until(self, met: Callable[[], bool], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not met():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}\n{self.logs()}")
            time.sleep(0.1)

    def pid(self, name: str, component: str) -> int:
        found = running_pid(self.layout(name), component)
        assert found is not None, f"{component} does not run on {name}"
        return found

    def logs(self) -> str:
        tails = []
        for path in sorted(self.folder.glob("*/log/*.log")):
            tails += [f"== {path.parts[-3]} {path.name}", *path.read_text(errors="replace").splitlines()[-8:]]
        return "\n".join(tails)


def pod(name: str, node: str, command: str = "", *, labels: str = "", extra: str = "") -> str:
    command = command or f"mkdir /w; echo {name} > /w/index.html; httpd -f -p 8080 -h /w"
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{test: nodes{", " + labels if labels else ""}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  {extra}
  containers:
  - {{name: main, image: "{IMAGE}", imagePullPolicy: IfNotPresent, command: [sh, -c, {json.dumps(command)}]}}
---"""


def _wire(lab: Lab) -> tuple[dict[str, Machine], Machine]:
    switch, router, outside = lab.machine("switch"), lab.machine("router"), lab.machine("outside")
    switch.ip("link add br0 type bridge")
    switch.ip("link set br0 up")
    machines = {name: lab.machine(name) for name in ADDRESSES}
    for number, machine in enumerate((machines["control"], machines["near"], router, outside)):
        lab.link(machine, "eth0", switch, f"p{number}")
        switch.ip(f"link set p{number} master br0")
    lab.link(machines["far"], "eth0", router, "eth1")
    router.ip("address add 192.0.2.254/24 dev eth0")
    router.ip("address add 198.51.100.254/24 dev eth1")
    router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for name, address in (*ADDRESSES.items(), ("outside", "192.0.2.9")):
        machine = outside if name == "outside" else machines[name]
        machine.ip(f"address add {address}/24 dev eth0")
        machine.ip(f"route add default via {address.rpartition('.')[0]}.254")
    return machines, outside


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    lab, folder = Lab(), Path("/var/tmp") / f"wherry-nodes-{os.getpid()}"
    try:
        machines, outside = _wire(lab)
        found = Nodes(folder, machines, outside)
        folder.mkdir()
        try:
            found.wherry("control", "up", "--node-name", "control", "--detach")
            words = found.wherry("control", "token", "create").split()
            for name in ("near", "far"):
                # One keeps what is its pods' where drivers made for kubelets look for it.
                own = ("--root-dir", str(folder / "kubelet")) if name == "far" else ()
                found.wherry(name, *words[1:], "--node-name", name, *own, "--detach")
            found.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=30s")
            found.until(lambda: found.kubectl("get", "nodes", "-o", "name").count("node/") == 3, "three nodes")
            found.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=30s")
            yield found
        finally:
            for name in reversed(ADDRESSES):
                found.wherry(name, "reset", "--yes", check=False)
            assert not list((folder / "kubelet").glob("*")), "reset leaves nothing there either"
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lab.close()
