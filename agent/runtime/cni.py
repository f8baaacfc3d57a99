"""Pod networks by CNI plugins: executables that are told on standard input what to do to a network namespace.

Specification: https://github.com/containernetworking/cni/blob/main/SPEC.md (1.0)
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import socket
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.runtime.errors import InvalidArgument, RuntimeFailure
from machinery.api.quantity import to_bytes
from machinery.files import write_atomically

INTERFACE = "eth0"
OWN_FILE = "99-wherry.conflist"
SYSTEM_DIR = Path("/etc/cni/net.d")
_VERSION = "1.0.0"
_PLUGIN_SECONDS = 60
_SIOCGIFMTU = 0x8921
_BURST_BITS = 2**31 - 1
# Lists that container engines put into the system's folder for their own containers.
_OTHER_ENGINES = ("podman", "crio-bridge", "docker")


class NetworkError(RuntimeFailure):
    """The pod network isn't set up, or a plugin failed."""


@dataclass(frozen=True)
class Attachment:
    """Which sandbox a plugin is called for; `netns` is "" when the namespace is gone."""

    sandbox_id: str
    netns: str
    pod_name: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Mapping[str, Any], ...] = ()  # as the capability portMappings has them


@dataclass(frozen=True)
class NetworkList:
    """A network: plugins that are called one after another."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]


TUNNEL_SUFFIXES = ("-vx", "-wg")
"""Behind the bridge's name, the names of the tunnels that the agent makes to other nodes."""


class Network:
    """The network list of a folder, and the plugins that carry it out."""

    def __init__(
        self, folder: Path, bin_dirs: tuple[Path, ...], bridge: str, ipam_dir: Path, system_dir: Path | None = None
    ) -> None:  # fmt: skip
        """Args: `system_dir` is where administrators and other networks put lists; one there wins over our own."""
        self._folder = folder
        self._system_dir = system_dir
        self._bin_dirs = bin_dirs
        self._bridge = bridge
        self._ipam_dir = ipam_dir

    def write_bridge_list(self, pod_cidr: str) -> None:
        """Write our own list: a bridge with addresses of `pod_cidr`, a route to everywhere and no masquerading.

        Source address translation for what leaves the cluster is the agent's, in one nftables table with the rest.

        Raises: InvalidArgument if it is no address range.
        """
        try:
            ranges = [str(ipaddress.ip_network(part.strip())) for part in pod_cidr.split(",")]
        except ValueError as error:
            raise InvalidArgument(f"pod CIDR: {error}") from error
        plugin = {
            "type": "bridge",
            "bridge": self._bridge,
            "isGateway": True,
            "forceAddress": True,
            "ipMasq": False,
            "hairpinMode": True,
            **({"mtu": mtu} if (mtu := uplink_mtu()) else {}),
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._ipam_dir),
                "ranges": [[{"subnet": part}] for part in ranges],
                "routes": [route for part in ranges for route in _routes(part)],
            },
        }
        limits = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
        content = {"cniVersion": _VERSION, "name": "wherry", "plugins": [plugin, limits]}
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / OWN_FILE, json.dumps(content, indent=2).encode(), mode=0o644)

    def load(self) -> NetworkList:
        """The first network list by file name.

        Raises: NetworkError if there is none, or a plugin it names isn't installed.
        """
        names = self._lists()
        if not names:
            raise NetworkError("cni plugin not initialized")
        try:
            content = json.loads(names[0].read_bytes())
            plugins = content.get("plugins", [content])
            if names[0] == self._folder / OWN_FILE:
                self._fit_tunnel(plugins[0])
            found = NetworkList(content["name"], content.get("cniVersion", _VERSION), tuple(plugins))
            for plugin in found.plugins:
                if plugin["type"] != "bandwidth":  # looked for when a pod asks for limits
                    self._find(plugin["type"])
                if "type" in plugin.get("ipam", {}):
                    self._find(plugin["ipam"]["type"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NetworkError(f"{names[0].name}: {error!r}") from error
        return found

    def _fit_tunnel(self, plugin: dict[str, Any]) -> None:
        """Make packets short enough for the tunnel to other nodes, once there is one."""
        for suffix in TUNNEL_SUFFIXES:
            if tunnel := link_mtu(f"{self._bridge}{suffix}"):
                plugin["mtu"] = min(plugin.get("mtu") or tunnel, tunnel)

    def _lists(self) -> list[Path]:
        """The network lists there are, the one that counts first."""
        for folder in filter(None, (self._system_dir, self._folder)):
            found = sorted(path for path in folder.glob("*") if path.suffix in (".conflist", ".conf", ".json"))
            found = [path for path in found if not any(name in path.name for name in _OTHER_ENGINES)]
            if found:
                return found
        return []

    def forget_leaked(self, known: Collection[str]) -> list[str]:
        """Give back the addresses of sandboxes that are no more, and return them: a crash may have left some."""
        leaked = []
        for lease in (self._ipam_dir / "wherry").glob("*"):
            with contextlib.suppress(ValueError, OSError):
                ipaddress.ip_address(lease.name)
                if lease.read_text().split()[0] not in known:
                    lease.unlink()
                    leaked.append(lease.name)
        return leaked

    def _find(self, kind: str) -> str:
        for folder in self._bin_dirs:
            if os.access(folder / kind, os.X_OK):
                return str(folder / kind)
        places = ", ".join(map(str, self._bin_dirs))
        raise NetworkError(f'failed to find plugin "{kind}" in path [{places}]')

    async def add(self, attachment: Attachment) -> dict[str, Any]:
        """Connect a network namespace and return the last plugin's result.

        Raises: NetworkError; what was done until then is undone.
        """
        network = await asyncio.to_thread(self.load)
        result: dict[str, Any] | None = None
        try:
            for plugin in _asked(network.plugins, attachment):
                result = await self._call("ADD", network, plugin, attachment, result)
        except NetworkError:
            await self.remove(attachment, result, forgiving=True)
            raise
        return result or {}

    async def remove(self, attachment: Attachment, result: Mapping[str, Any] | None, *, forgiving: bool) -> None:
        """Disconnect a network namespace; may be called again.

        Args:
            attachment: what was added.
            result: what `add` returned, if it did.
            forgiving: go on after a failure instead of raising NetworkError.
        """
        try:
            network = await asyncio.to_thread(self.load)
        except NetworkError:
            if forgiving:
                return
            raise
        for plugin in reversed(_asked(network.plugins, attachment)):
            try:
                await self._call("DEL", network, plugin, attachment, result)
            except NetworkError:
                if not forgiving:
                    raise

    async def _call(
        self,
        command: str,
        network: NetworkList,
        plugin: Mapping[str, Any],
        attachment: Attachment,
        previous: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        config = {**plugin, "cniVersion": network.version, "name": network.name}
        if previous:
            config["prevResult"] = previous
        if runtime_config := _runtime_config(plugin, attachment):
            config["runtimeConfig"] = runtime_config
        program = await asyncio.to_thread(self._find, plugin["type"])
        process = await asyncio.create_subprocess_exec(
            program,
            env=self._environment(command, attachment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_PLUGIN_SECONDS):
                output, complaint = await process.communicate(json.dumps(config).encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise NetworkError(f'plugin type="{plugin["type"]}" did not finish ({command.lower()})') from None
        if process.returncode != 0:
            reason = _message(output) or complaint.decode(errors="replace").strip()
            raise NetworkError(f'plugin type="{plugin["type"]}" failed ({command.lower()}): {reason}')
        return json.loads(output) if output.strip() else {}

    def _environment(self, command: str, attachment: Attachment) -> dict[str, str]:
        args = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": attachment.pod_namespace,
            "K8S_POD_NAME": attachment.pod_name,
            "K8S_POD_INFRA_CONTAINER_ID": attachment.sandbox_id,
            "K8S_POD_UID": attachment.pod_uid,
        }
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.sandbox_id,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in args.items()),
            "CNI_PATH": ":".join(map(str, self._bin_dirs)),
        }


def _runtime_config(plugin: Mapping[str, Any], attachment: Attachment) -> dict[str, Any]:
    """What a plugin is told beside its list, by the capabilities it says it has.

    Source: https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md
    """
    capabilities = plugin.get("capabilities") or {}
    found: dict[str, Any] = {}
    if capabilities.get("portMappings") and attachment.ports:
        found["portMappings"] = list(attachment.ports)
    if capabilities.get("bandwidth") and (limits := _bandwidth(attachment.annotations)):
        found["bandwidth"] = limits
    return found


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """The limits of a pod, in bits a second; one that is no quantity is none."""
    found: dict[str, int] = {}
    for side in ("ingress", "egress"):
        with contextlib.suppress(ValueError):
            if text := annotations.get(f"kubernetes.io/{side}-bandwidth"):
                found |= {f"{side}Rate": to_bytes(text), f"{side}Burst": _BURST_BITS}
    return found


def _asked(plugins: Sequence[Mapping[str, Any]], attachment: Attachment) -> list[Mapping[str, Any]]:
    """The plugins a pod needs: without limits it is spared the one for limits."""
    return [one for one in plugins if one["type"] != "bandwidth" or _runtime_config(one, attachment)]


def _routes(pod_cidr: str) -> list[dict[str, str]]:
    """Everything goes through the node, other pods on the same bridge too.

    So pods of one node are subject to services and policies as those of two are, whatever the kernel does with frames
    on a bridge. The two halves of the range are more specific than the range, which the plugin routes to the bridge.
    """
    network = ipaddress.ip_network(pod_cidr)
    gateway = str(network[1])
    everywhere = "0.0.0.0/0" if network.version == 4 else "::/0"
    # The half that has the gateway comes last: once it is there, IPv6 takes the gateway for one behind itself.
    halves = reversed(list(network.subnets()))
    return [{"dst": everywhere}, *({"dst": str(half), "gw": gateway} for half in halves)]


def uplink_mtu() -> int:
    """Return how long packets may be on the link of the default route, 0 when there is none."""
    with contextlib.suppress(OSError, IndexError):
        rows = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
        defaults = [row for row in rows if row[1] == "00000000" and row[7] == "00000000"]
        link = min(defaults, key=lambda row: int(row[6]), default=[""])[0]
        if link:
            return link_mtu(link)
    return 0


def link_mtu(link: str) -> int:
    """Return how long packets may be on a link, 0 when there is none of this name."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        answer = fcntl.ioctl(channel, _SIOCGIFMTU, struct.pack("16si", link.encode()[:15], 0))
        return int(struct.unpack_from("i", answer, 16)[0])
    return 0


def addresses(result: Mapping[str, Any]) -> list[str]:
    """The pod's own addresses in a CNI result, without prefix lengths; IPv4 first."""
    found = [row["address"].partition("/")[0] for row in result.get("ips", ())]
    return sorted(found, key=lambda address: ipaddress.ip_address(address).version)


def _message(output: bytes) -> str:
    """The words of a plugin's error, which it prints as JSON."""
    try:
        error = json.loads(output)
        return ": ".join(error[key] for key in ("msg", "details") if error.get(key))
    except (ValueError, TypeError, AttributeError):
        return output.decode(errors="replace").strip()
