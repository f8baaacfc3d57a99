"""`wherry up`: a whole cluster on this machine, and how it is looked at, stopped and wiped."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster import addons, etcd
from cluster.addresses import node_address
from cluster.components import API_PORT, POD_CIDR, SERVICE_CIDR
from cluster.kubeconfig import write_kubeconfig
from cluster.layout import Layout
from cluster.processes import Component, Supervisor, running_pid, stop_pid, write_pid

log = logging.getLogger(__name__)

SUPERVISOR = "up"
# The order they are started in; stopped in reverse.
COMPONENTS = (
    "etcd", "apiserver", "runtime", "controller-manager", "scheduler", "agent", "dns", "ingress", "operators",
    "dashboard", "simulated-nodes", "pool-nodes",
)  # fmt: skip
_OF_ADDONS = ("operators", "dashboard", "pool-nodes")
_READY_SECONDS = 60.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """What a cluster on this machine is to be."""

    store: str = ""  # etcd or embedded; "" for etcd when it is installed
    etcd_servers: str = ""
    api_port: int = API_PORT
    bind_address: str = ""
    simulated_nodes: int = 0
    agent: bool = True
    service_cidr: str = SERVICE_CIDR
    pod_cidr: str = POD_CIDR
    bridge: str = "wherry0"
    node_name: str = ""
    agent_port: int = 10250
    cri_endpoint: str = ""
    dns: bool = True
    cluster_cidr: str = ""  # all nodes' pods; worked out from pod_cidr when left out
    node_network: str = "auto"
    ingress: bool = False
    node_ip: str = ""  # the address others reach this machine at; that of its default route when left out
    load_balancer: str = "nodes"  # nodes, a range of addresses, or none
    join: str = ""  # the API server of the cluster this machine has joined; "" for a control plane
    cluster_dns: str = ""  # only for a machine that has joined
    addons: list[str] = field(default_factory=list)
    dashboard_port: int = 8090


def missing_for_agent() -> list[str]:
    """Return what this machine lacks to run containers, in words."""
    missing = [] if os.geteuid() == 0 else ["root rights"]
    tools = {"runc": "runs containers", "conmon": "watches over them", "nft": "routes services"}
    missing += [f"{tool} ({why})" for tool, why in tools.items() if shutil.which(tool) is None]
    if not any((Path(folder) / "bridge").exists() for folder in ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")):
        missing.append("CNI plugins (connect pods)")
    return missing


def settle(settings: Settings) -> tuple[Settings, list[str]]:
    """Return what this machine can do of what was asked, and what to tell about it."""
    notes: list[str] = []
    values = asdict(settings)
    if not settings.store and not settings.etcd_servers:
        values["store"] = "etcd" if etcd.is_installed() else "embedded"
        if values["store"] == "embedded":
            notes.append("etcd is not installed: using the embedded store (SQLite)")
    elif not settings.store:
        values["store"] = "etcd"
    elif settings.store == "etcd" and not settings.etcd_servers and not etcd.is_installed():
        raise FileNotFoundError("--store etcd needs etcd: install etcd-server, or give --etcd-servers")
    if settings.agent and (missing := missing_for_agent()):
        values["agent"] = False
        values["simulated_nodes"] = settings.simulated_nodes or 1
        notes.append(f"no containers on this machine, it lacks: {', '.join(missing)}")
        notes.append(f"starting {values['simulated_nodes']} simulated node(s) instead")
    if not settings.bind_address:
        # Pods reach the server at the machine's address, not at loopback.
        values["bind_address"] = "0.0.0.0" if values["agent"] else "127.0.0.1"  # noqa: S104
    return Settings(**values), notes


def _wherry(layout: Layout, component: str, *arguments: str) -> Component:
    argv = [sys.executable, "-m", "cluster.main", component, "--data-dir", str(layout.root), *arguments]
    return Component(component, argv)


def plan(layout: Layout, settings: Settings) -> list[Component]:
    """Return the processes of a cluster, in the order of their start."""
    if settings.join:
        return _node(layout, settings, settings.cluster_dns)
    found: list[Component] = []
    if settings.store == "etcd" and not settings.etcd_servers:
        found.append(etcd.component(layout))
    server = [
        "--port", str(settings.api_port), "--bind-address", settings.bind_address, "--store", settings.store,
        "--service-cidr", settings.service_cidr,
    ]  # fmt: skip
    if settings.etcd_servers:
        server += ["--etcd-servers", settings.etcd_servers]
    if settings.node_ip:
        server += ["--advertise-address", settings.node_ip]
    found.append(_wherry(layout, "apiserver", *server))
    if settings.agent:
        found += _node(layout, settings, dns_address(settings.service_cidr) if settings.dns else "")
    ranges = ["--service-cidr", settings.service_cidr, "--cluster-cidr", cluster_cidr(settings)]
    if settings.load_balancer != "none":
        ranges += ["--load-balancer", settings.load_balancer]
    found.append(_wherry(layout, "controller-manager", *ranges))
    found.append(_wherry(layout, "scheduler"))
    if settings.agent and settings.dns:
        dns = ["--pod-cidr", settings.pod_cidr, "--service-cidr", settings.service_cidr]
        found.append(_wherry(layout, "dns", *dns, "--node-name", settings.node_name or node_name()))
    return found + _beside(layout, settings)


def _beside(layout: Layout, settings: Settings) -> list[Component]:
    """Return what a cluster can have and does not need."""
    found: list[Component] = []
    if settings.ingress:
        found.append(_wherry(layout, "ingress", *(["--address", settings.node_ip] if settings.node_ip else [])))
    if operated := addons.operated(settings.addons):
        found.append(replace(_wherry(layout, "operator", *operated), name="operators"))
    if "dashboard" in settings.addons:
        where = ["--server", f"https://127.0.0.1:{settings.api_port}", "--port", str(settings.dashboard_port)]
        where += ["--certificate-authority", str(layout.pki / "ca.crt")]
        found.append(Component("dashboard", [sys.executable, "-m", "cluster.main", "dashboard", *where]))
    if "nodepool" in settings.addons:
        found.append(replace(_wherry(layout, "simulated-nodes", "--pools"), name="pool-nodes"))
    if settings.simulated_nodes:
        found.append(_wherry(layout, "simulated-nodes", "--count", str(settings.simulated_nodes)))
    return found


def _node(layout: Layout, settings: Settings, cluster_dns: str) -> list[Component]:
    """Return what makes a machine a node."""
    agent = [
        "--pod-cidr", settings.pod_cidr, "--service-cidr", settings.service_cidr, "--bridge", settings.bridge,
        "--port", str(settings.agent_port), "--cluster-cidr", cluster_cidr(settings),
        "--node-network", settings.node_network,
    ]  # fmt: skip
    if settings.load_balancer not in ("nodes", "none"):
        agent += ["--load-balancer", settings.load_balancer]
    if settings.node_name:
        agent += ["--node-name", settings.node_name]
    if settings.node_ip:
        agent += ["--node-ip", settings.node_ip]
    if cluster_dns:
        agent += ["--cluster-dns", cluster_dns]
    if settings.join:  # there is no CA on this machine to make new ones with
        agent += ["--rotate-certificates"]
    if settings.cri_endpoint:
        return [_wherry(layout, "agent", *agent, "--cri-endpoint", settings.cri_endpoint)]
    runtime = ["--pod-cidr", settings.pod_cidr, "--bridge", settings.bridge]
    return [_wherry(layout, "runtime", *runtime), _wherry(layout, "agent", *agent)]


def cluster_cidr(settings: Settings) -> str:
    """Return the range of all nodes' pods: the one given, else 256 times that of this node's pods."""
    import ipaddress

    if settings.cluster_cidr:
        return settings.cluster_cidr
    parts = [ipaddress.ip_network(part.strip()) for part in settings.pod_cidr.split(",") if part.strip()]
    return ",".join(str(one.supernet(prefixlen_diff=min(8, one.prefixlen))) for one in parts)


def shared_settings(settings: Settings) -> dict[str, str]:
    """Return what other machines are to know of the cluster's network."""
    return {
        "service_cidr": settings.service_cidr, "cluster_cidr": cluster_cidr(settings),
        "cluster_dns": dns_address(settings.service_cidr) if settings.dns else "",
        "load_balancer": settings.load_balancer,
    }  # fmt: skip


def node_settings(server: str, name: str, shared: Mapping[str, str], given: Mapping[str, Any]) -> Settings:
    """Return the settings of a machine that has joined: what the cluster says, and what was asked for here."""
    known = {
        key: shared[key] for key in ("service_cidr", "cluster_cidr", "cluster_dns", "load_balancer") if key in shared
    }
    return Settings(join=server, pod_cidr="", dns=False, **{**given, **known, "node_name": name})


def dns_address(service_cidr: str) -> str:
    """Return the well-known address of cluster DNS: the tenth of the service range."""
    import ipaddress

    return str(ipaddress.ip_network(service_cidr.partition(",")[0])[10])


def write_credentials(layout: Layout, settings: Settings) -> None:
    """Make the certificates and kubeconfigs that the components and the administrator use."""
    from cluster.pki import Pki

    pki = Pki(layout.pki)
    server = f"https://127.0.0.1:{settings.api_port}"
    users = {
        "scheduler": ("system:kube-scheduler", []),
        "controller-manager": ("system:kube-controller-manager", []),
        "simulated-nodes": ("system:simulated-nodes", ["system:masters"]),
        "dns": ("system:wherry-dns", []),
        "ingress": ("system:wherry-ingress", []),
    }
    for component, (user, groups) in users.items():
        cert, key = pki.client(component, user, groups)
        path = layout.component_kubeconfig(component)
        write_kubeconfig(path, server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key, user=user)
    write_operator_credentials(layout, settings)
    name = settings.node_name or node_name()
    hosts = [*agent_hosts(name), *([settings.node_ip] if settings.node_ip else [])]
    cert, key = pki.server("agent", f"system:node:{name}", hosts, ["system:nodes"])
    write_kubeconfig(
        layout.component_kubeconfig("agent"), server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key,
        user=f"system:node:{name}",
    )  # fmt: skip
    cert, key = pki.client("admin", "wherry-admin", ["system:masters"])
    write_kubeconfig(
        layout.kubeconfig, server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key, user="wherry-admin"
    )


def write_operator_credentials(layout: Layout, settings: Settings) -> None:
    """Make the certificates and kubeconfigs of the add-ons' operators."""
    from cluster.pki import Pki

    pki, server = Pki(layout.pki), f"https://127.0.0.1:{settings.api_port}"
    for name in addons.operated(settings.addons):
        user, component = f"system:wherry-{name}", f"{name}-operator"
        cert, key = pki.client(component, user, [])
        path = layout.component_kubeconfig(component)
        write_kubeconfig(path, server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key, user=user)


def node_name() -> str:
    """Return this machine's name as a node's: its host name in lower case."""
    import socket

    return socket.gethostname().lower()


def agent_hosts(name: str) -> list[str]:
    """Return the names and addresses the agent is reached at."""
    return list(dict.fromkeys([name, "localhost", "127.0.0.1", node_address()]))


def take_over(layout: Layout) -> None:
    """End what a killed `wherry up` left running; containers stay."""
    for component in reversed(COMPONENTS):
        pid = running_pid(layout, component)
        if pid is not None:
            log.warning("ending a left-over %s (process %s)", component, pid)
            stop_pid(pid)
        layout.pid_file(component).unlink(missing_ok=True)
    layout.addons_installed.unlink(missing_ok=True)


async def serve(layout: Layout, settings: Settings, *, announce: bool) -> None:
    """Run a cluster until SIGINT or SIGTERM."""
    supervisor = Supervisor(layout)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    changed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, changed.set)
    write_pid(layout, SUPERVISOR, os.getpid())
    try:
        for component in plan(layout, settings):
            supervisor.start(component)
        tasks = [
            asyncio.create_task(_follow_addons(layout, supervisor, settings, changed)),
            asyncio.create_task(_complete(layout, settings, announce=announce)),
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()
    finally:
        await supervisor.stop()
        layout.pid_file(SUPERVISOR).unlink(missing_ok=True)


async def _follow_addons(layout: Layout, supervisor: Supervisor, settings: Settings, changed: asyncio.Event) -> None:
    """Run what belongs to the add-ons that the settings on disk name, whenever we are told that those have changed."""
    running = {one.name: one for one in plan(layout, settings) if one.name in _OF_ADDONS}
    while True:
        await changed.wait()
        changed.clear()
        settings = load(layout) or settings
        wanted = {one.name: one for one in plan(layout, settings) if one.name in _OF_ADDONS}
        if gone := [name for name in running if wanted.get(name) != running[name]]:
            await supervisor.stop(*gone)
        for name, component in wanted.items():
            if running.get(name) != component:
                supervisor.start(component)
        running = wanted


async def _complete(layout: Layout, settings: Settings, *, announce: bool) -> None:
    """Put the add-ons in when the cluster is ready, and tell of it."""
    if not announce and not settings.addons:
        return
    try:
        await asyncio.to_thread(wait_ready, layout, settings)
        await asyncio.to_thread(_install_addons, layout, settings)
    except (TimeoutError, ChildProcessError) as error:
        log.error("%s", error)
        return
    if announce:
        print(greeting(layout), flush=True)


def _install_addons(layout: Layout, settings: Settings) -> None:
    """Apply the add-ons' manifests, in processes of their own: we stay small. Raises: ChildProcessError."""
    for name in settings.addons:
        argv = [sys.executable, "-m", "cluster.main", "addon", "enable", name, "--data-dir", str(layout.root)]
        environment = {**os.environ, "KUBECONFIG": str(layout.kubeconfig)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ChildProcessError(f"add-on {name}: {done.stderr.strip()}")
    layout.addons_installed.touch()


def wait_addons(layout: Layout, settings: Settings) -> None:
    """Wait until the supervisor has put the add-ons in. Raises: TimeoutError."""
    deadline = time.monotonic() + _READY_SECONDS
    while settings.addons and not layout.addons_installed.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the add-ons could not be put in")
        time.sleep(_PAUSE_SECONDS)  # the other process has no other way to tell us


def greeting(layout: Layout) -> str:
    """Return what to tell when the cluster is up."""
    return f"The cluster is up. To use it:\n\n  export KUBECONFIG={layout.kubeconfig}\n  kubectl get nodes\n"


def wait_ready(layout: Layout, settings: Settings) -> None:
    """Wait until the API is ready and a node, if one was asked for, takes pods. Raises: TimeoutError."""
    from cluster.probe import Probe

    deadline = time.monotonic() + _READY_SECONDS
    probe = Probe(layout)
    try:
        probe.until_ready(deadline)
        if settings.agent or settings.simulated_nodes:
            probe.until_node_ready(deadline)
            probe.until_pods_may_start(deadline)
    finally:
        probe.close()


def start_detached(layout: Layout, arguments: Sequence[str], *, command: str = "up") -> None:
    """Start `wherry up`, or another command that keeps processes, as a process of its own session."""
    with layout.log_file(SUPERVISOR).open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.main", command, "--data-dir", str(layout.root), *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def save(layout: Layout, settings: Settings) -> None:
    """Remember the settings for `status`, `down` and the next `up`."""
    layout.settings.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def load(layout: Layout) -> Settings | None:
    """Return the settings of the last `up`, if there was one."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Settings(**json.loads(layout.settings.read_text()))
    return None


def statuses(layout: Layout) -> Iterator[tuple[str, int | None]]:
    """Yield each component that should run and its process id, None where it does not."""
    settings = load(layout)
    for component in plan(layout, settings) if settings else ():
        yield component.name, running_pid(layout, component.name)


def stop(layout: Layout) -> bool:
    """Stop a cluster: its pods, then its components. Returns False when nothing ran."""
    supervisor = running_pid(layout, SUPERVISOR)
    found = supervisor is not None or any(pid for _, pid in statuses(layout))
    settings = load(layout)
    if settings is not None and settings.agent and (found or (layout.run / "runtime").exists()):
        _stop_pods(layout, settings, supervisor)
    if supervisor is not None:
        stop_pid(supervisor, timeout_seconds=30)
        layout.pid_file(SUPERVISOR).unlink(missing_ok=True)
    take_over(layout)
    _leave_network(layout)
    return found


def _stop_pods(layout: Layout, settings: Settings, supervisor: int | None) -> None:
    """End all sandboxes through the runtime while nobody starts them anew; one that is away is started for it."""
    from cluster.teardown import stop_sandboxes

    if supervisor is not None:
        os.kill(supervisor, signal.SIGSTOP)  # it must not restart the agent meanwhile
    ours: subprocess.Popen[bytes] | None = None
    try:
        agent = running_pid(layout, "agent")
        if agent is not None:
            stop_pid(agent)
        if not settings.cri_endpoint and running_pid(layout, "runtime") is None:
            argv = next(one.argv for one in plan(layout, settings) if one.name == "runtime")
            with layout.log_file("runtime").open("ab") as log:
                ours = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        endpoint = settings.cri_endpoint.removeprefix("unix://")
        stop_sandboxes(Path(endpoint) if endpoint else layout.runtime_socket, layout.log_file("runtime"))
    finally:
        if ours is not None:
            ours.terminate()
            ours.wait()
        if supervisor is not None:
            os.kill(supervisor, signal.SIGCONT)


def _leave_network(layout: Layout) -> None:
    settings = load(layout)
    if settings is not None and settings.agent and os.geteuid() == 0:
        from cluster.teardown import leave_cgroups, leave_network

        leave_cgroups()

        announced = "" if settings.load_balancer in ("nodes", "none") else settings.load_balancer
        leave_network(settings.bridge, settings.service_cidr, announced)


def wipe(layout: Layout) -> None:
    """Remove all of a cluster's data; it must be stopped."""
    from cluster.teardown import unmount_below

    unmount_below(layout.root)
    for entry in layout.root.iterdir() if layout.root.exists() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
