"""Pod sandboxes: namespaces pinned by bind mounts, with no process of their own, and the pod's network.

A folder for each under STATE/sandboxes/ID: `net`, `ipc`, `uts`, `pid` (namespaces), `shm` (tmpfs), `resolv.conf`,
`hosts`, `hostname`. A PID namespace can't be without a process: only for a shared one is there a holder.
"""

import asyncio
import contextlib
import logging
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from agent.cri import api_pb2 as cri
from agent.runtime import cgroups, cni, idmap, kernel, processes
from agent.runtime.errors import InvalidArgument, RuntimeFailure
from agent.runtime.state import Records, SandboxRecord

_log = logging.getLogger(__name__)

_SHM_BYTES = 64 << 20  # Docker's and containerd's default
_KINDS = {"net": kernel.CLONE_NEWNET, "ipc": kernel.CLONE_NEWIPC, "uts": kernel.CLONE_NEWUTS}
# Unprivileged processes may ping and listen on every port of their own network namespace: it is theirs alone.
# Groups of users only: who takes NET_RAW from root means that root can't ping.
_DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "1000 2147483647"}
_NET_SYSCTLS = ("net.",)
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def config_of(record: SandboxRecord) -> cri.PodSandboxConfig:
    """The configuration a sandbox was made from."""
    return cri.PodSandboxConfig.FromString(record.config)


def wants_user_namespace(options: cri.NamespaceOption) -> bool:
    """Whether a pod is to have a user namespace of its own. Raises: InvalidArgument for a mode that can't be."""
    if not options.HasField("userns_options"):
        return False
    mode = options.userns_options.mode
    if mode not in (cri.POD, cri.NODE):
        raise InvalidArgument(f"user namespace mode {cri.NamespaceMode.Name(mode)} is not supported")
    return bool(mode == cri.POD)


class SandboxManager:
    """Makes, stops and removes sandboxes."""

    def __init__(
        self,
        records: Records[SandboxRecord],
        network: cni.Network,
        remove_containers: Callable[[str, bool], Awaitable[None]],
        cgroup_root: str,
        handlers: Collection[str],
    ) -> None:
        """Make a manager.

        Args:
            records: where sandboxes are remembered.
            network: connects them.
            remove_containers: stops the containers of a sandbox, and removes them too if told so.
            cgroup_root: the cgroup for sandboxes that name none.
            handlers: names of the OCI runtimes that containers of a sandbox may be run by.
        """
        self._records = records
        self._network = network
        self._remove_containers = remove_containers
        self._cgroup_root = cgroup_root
        self.handlers = handlers
        self._locks: dict[str, asyncio.Lock] = {}

    def folder(self, sandbox_id: str) -> Path:
        """Where a sandbox's files and namespaces are."""
        return self._records.path(sandbox_id)

    def network_namespace(self, record: SandboxRecord) -> Path | None:
        """The sandbox's network namespace, None if it is the host's."""
        path = self.folder(record.id) / "net"
        return path if path.exists() else None

    async def recover(self) -> None:
        """Undo what was half made, and finish what was half stopped, when we were killed or the machine rebooted."""
        boot_id = kernel.boot_id()
        for record in self._records.all():
            try:
                if record.state == "creating":
                    await self._tear_down(record, forgiving=True)
                    await self._forget(record)
                elif record.state == "stopping" or (record.state == "ready" and not self._is_alive(record, boot_id)):
                    await self.stop(record.id)
            except (RuntimeFailure, OSError):  # it stays as it is, and whoever stops or removes it is told why
                _log.exception("sandbox %s was left half stopped, and could not be stopped now either", record.id)

    def _is_alive(self, record: SandboxRecord, boot_id: str) -> bool:
        if record.boot_id != boot_id:
            return False
        holder = processes.find(record.pause_pid, record.pause_start_ticks)
        if holder:
            holder.close()
        return holder is not None or record.pause_pid == 0

    async def run(self, config: cri.PodSandboxConfig, handler: str) -> SandboxRecord:
        """Make a sandbox; it is ready when this returns, or it isn't there.

        Raises: InvalidArgument, RuntimeFailure.
        """
        if not config.metadata.name or not config.metadata.uid:
            raise InvalidArgument("sandbox config must include metadata with name and uid")
        if handler not in self.handlers:
            raise InvalidArgument(f'no runtime for "{handler}" is configured')
        sandbox_id = secrets.token_hex(32)
        record = SandboxRecord(
            id=sandbox_id,
            cgroup=config.linux.cgroup_parent or f"{self._cgroup_root}/{sandbox_id}",
            config=config.SerializeToString(),
            created_at=time.time_ns(),
            boot_id=kernel.boot_id(),
            runtime_handler=handler,
        )
        record.made_cgroup = not await asyncio.to_thread(cgroups.exists, record.cgroup)
        async with self._lock(record.id):
            self._records.save(record)
            try:
                await self._set_up(record, config)
            except (OSError, RuntimeFailure) as error:
                await self._tear_down(record, forgiving=True)
                await self._forget(record)
                if isinstance(error, RuntimeFailure):
                    raise
                raise RuntimeFailure(f"failed to create sandbox: {error}") from error
            record.state = "ready"
            self._records.save(record)
        return record

    async def _set_up(self, record: SandboxRecord, config: cri.PodSandboxConfig) -> None:
        folder = self.folder(record.id)
        options = config.linux.security_context.namespace_options
        has_users = wants_user_namespace(options)
        kinds = [] if options.network == cri.NODE else ["net", "uts"]
        if options.ipc != cri.NODE:
            kinds.append("ipc")
        sysctls = _checked_sysctls(config.linux.sysctls, kinds)
        if has_users:
            if options.network == cri.NODE or options.ipc == cri.NODE or options.pid == cri.NODE:
                raise InvalidArgument("a pod with a user namespace of its own can't be in the host's other namespaces")
            maps = idmap.check(options.userns_options)
            await asyncio.to_thread(idmap.make_namespaces, folder, kinds, maps)
        await kernel.in_own_thread(lambda: make_namespaces(folder, kinds, config.hostname, sysctls, is_made=has_users))
        if options.pid == cri.POD:
            await self._hold_pid_namespace(record, folder)
        await asyncio.to_thread(_make_files, folder, config, own_ipc="ipc" in kinds)
        if "net" in kinds:
            try:
                record.network = await self._network.add(self._attachment(record, config))
            except cni.NetworkError as error:
                name = config.metadata.name
                what = f'failed to setup network for sandbox "{record.id}" of pod "{name}": {error}'
                raise cni.NetworkError(what) from error
            record.ips = cni.addresses(record.network)
        await asyncio.to_thread(_write_hosts, folder, config.hostname, record.ips, own="net" in kinds)

    async def _hold_pid_namespace(self, record: SandboxRecord, folder: Path) -> None:
        pid = await kernel.in_own_thread(lambda: start_pid_holder(folder))
        record.pause_pid, record.pause_start_ticks = pid, kernel.process_start_ticks(pid)
        self._records.save(record)
        await asyncio.to_thread(cgroups.join, f"{record.cgroup}/{record.id}", pid)

    def _attachment(self, record: SandboxRecord, config: cri.PodSandboxConfig) -> cni.Attachment:
        path = self.folder(record.id) / "net"
        # We may have been killed after it was unmounted: what is left is a common file then.
        alive = record.boot_id == kernel.boot_id() and kernel.is_namespace(path)
        metadata = config.metadata
        ports = tuple(
            {"hostPort": one.host_port, "containerPort": one.container_port, "hostIP": one.host_ip,
             "protocol": cri.Protocol.Name(one.protocol).lower()}
            for one in config.port_mappings if one.host_port
        )  # fmt: skip
        return cni.Attachment(
            record.id, str(path) if alive else "", metadata.name, metadata.namespace, metadata.uid,
            dict(config.annotations), ports,
        )  # fmt: skip

    async def stop(self, sandbox_id: str) -> None:
        """Kill a sandbox's containers and give back its network; may be called again, and for an unknown one.

        Raises: RuntimeFailure if the network can't be given back; try again.
        """
        record = self._records.find(sandbox_id)
        if record is None:
            return
        await self._remove_containers(record.id, False)
        async with self._lock(record.id):
            if record.state == "notready":
                return
            record.state = "stopping"
            self._records.save(record)
            await self._tear_down(record, forgiving=False)
            record.state = "notready"
            self._records.save(record)

    async def remove(self, sandbox_id: str) -> None:
        """Remove a sandbox and its containers; may be called again, and for an unknown one."""
        record = self._records.find(sandbox_id)
        if record is None:
            return
        await self.stop(record.id)
        await self._remove_containers(record.id, True)
        async with self._lock(record.id):
            await self._forget(record)
        self._locks.pop(record.id, None)

    async def _tear_down(self, record: SandboxRecord, *, forgiving: bool) -> None:
        config = config_of(record)
        if config.linux.security_context.namespace_options.network != cri.NODE:
            await self._network.remove(self._attachment(record, config), record.network, forgiving=forgiving)
        holder = processes.find(record.pause_pid, record.pause_start_ticks)
        if holder:
            holder.kill(9)
            await holder.wait()
            holder.reap()
            holder.close()
        folder = self.folder(record.id)
        await asyncio.to_thread(_unmount_all, folder)

    async def _forget(self, record: SandboxRecord) -> None:
        def remove() -> None:
            if record.made_cgroup:
                cgroups.remove(record.cgroup)
                cgroups.remove_if_empty(self._cgroup_root)
            self._records.remove(record.id)

        await asyncio.to_thread(remove)

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        return self._locks.setdefault(sandbox_id, asyncio.Lock())


def _checked_sysctls(asked: Mapping[str, str], kinds: list[str]) -> dict[str, str]:
    """The settings to make, defaults included.

    Raises: InvalidArgument for one that would reach beyond the sandbox's own namespaces.
    """
    found = dict(_DEFAULT_SYSCTLS) if "net" in kinds else {}
    for name, value in asked.items():
        dotted = name.replace("/", ".")
        own = ("net" in kinds and dotted.startswith(_NET_SYSCTLS)) or (
            "ipc" in kinds and dotted.startswith(_IPC_SYSCTLS)
        )
        if not own or ".." in dotted:
            raise InvalidArgument(f'sysctl "{name}" is not allowed: it is not of a namespace of this sandbox')
        found[dotted] = value
    return found


def make_namespaces(
    folder: Path, kinds: list[str], hostname: str, sysctls: Mapping[str, str], *, is_made: bool = False
) -> None:
    """Give the calling thread new namespaces and pin them at `folder`/KIND. The thread is of no other use then.

    Args: `is_made` says that they are pinned there already, and only to be entered and set up.
    """
    if not kinds:
        return
    if is_made:
        for kind in kinds:
            kernel.enter_namespace(folder / kind, _KINDS[kind])
    else:
        kernel.unshare(sum(_KINDS[kind] for kind in kinds))
    if "uts" in kinds and hostname:
        socket.sethostname(hostname)
    if "net" in kinds:
        kernel.loopback_up()
    for name, value in sysctls.items():
        try:
            Path("/proc/sys", *name.split(".")).write_text(value)
        except OSError as error:
            if name not in _DEFAULT_SYSCTLS:
                raise InvalidArgument(f'sysctl "{name}={value}": {error.strerror}') from error
    for kind in kinds if not is_made else ():
        (folder / kind).touch()
        kernel.mount(f"/proc/thread-self/ns/{kind}", folder / kind, flags=kernel.MS_BIND)


def start_pid_holder(folder: Path) -> int:
    """Start the first process of a new PID namespace and pin the namespace at `folder`/pid. For a thread of its own.

    It only reaps. `catatonit -P` does this in a tenth of the memory of our own stand-in.
    """
    kernel.unshare(kernel.CLONE_NEWPID)
    program = shutil.which("catatonit")
    stand_in = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"
    argv = [program, "-P"] if program else [sys.executable, "-ISE", "-c", stand_in]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    process.returncode = 0  # it isn't Popen's to wait for: it lives on
    (folder / "pid").touch()
    kernel.mount(f"/proc/{process.pid}/ns/pid", folder / "pid", flags=kernel.MS_BIND)
    return process.pid


def _make_files(folder: Path, config: cri.PodSandboxConfig, *, own_ipc: bool) -> None:
    dns = config.dns_config
    if dns.servers or dns.searches or dns.options:
        lines = [f"nameserver {server}" for server in dns.servers]
        if dns.searches:
            lines.append("search " + " ".join(dns.searches))
        if dns.options:
            lines.append("options " + " ".join(dns.options))
        text = "\n".join(lines) + "\n"
    else:
        with contextlib.suppress(OSError):
            text = ""
            text = Path("/etc/resolv.conf").read_text()
    _write(folder / "resolv.conf", text)
    _write(folder / "hostname", (config.hostname or socket.gethostname()) + "\n")
    if own_ipc:
        (folder / "shm").mkdir(exist_ok=True)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("shm", folder / "shm", "tmpfs", flags, f"mode=1777,size={_SHM_BYTES}")


def _write_hosts(folder: Path, hostname: str, ips: list[str], *, own: bool) -> None:
    if own:
        text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        text += "".join(f"{ip}\t{hostname}\n" for ip in ips)
    else:
        text = ""
        with contextlib.suppress(OSError):
            text = Path("/etc/hosts").read_text()
    _write(folder / "hosts", text)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)  # read by whoever the container runs as


def _unmount_all(folder: Path) -> None:
    for name in (*_KINDS, "pid", "shm", "user"):
        kernel.unmount(folder / name)
