"""Looks at the cluster's network from this machine and says what is broken: `wherry net check`.

It reads the API and the kernel and sends a few packets, from the node and from a pod of it; it changes nothing.
"""

import ctypes
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.connection import Connection
from cluster.layout import Layout
from machinery.errors import APIError, Forbidden

Object = Mapping[str, Any]
_SECONDS = 2.0
_CLONE_NEWNET = 0x40000000
_AGENT_PORT = 10250


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is in order, and else what that means."""

    what: str
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it is in order."""
        return not self.trouble


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod of this machine, and the file of its network namespace."""

    name: str
    ip: str
    namespace_file: Path


class Check:
    """All that is looked at, in the order in which one thing needs the other."""

    def __init__(self, connection: Connection, layout: Layout, *, bridge: str, node: str) -> None:
        self._connection = connection
        self._layout = layout
        self._bridge = bridge
        self._node = node

    def run(self) -> Iterator[Finding]:
        """Yield what is found."""
        yield from self._kernel()
        try:
            nodes = self._list("/api/v1/nodes")
            services = self._list("/api/v1/services")
            pods = self._all_pods()
        except (APIError, OSError) as error:
            yield Finding("API server", f"does not answer: {error}")
            return
        yield Finding("API server")
        yield from self._nodes(nodes)
        yield from self._services("from this node", services, None)
        local = list(local_pods(self._layout, pods, self._node))
        for pod in local[:1]:
            where = f"from pod {pod.name}"
            yield from self._services(where, services, pod.namespace_file)
            yield from self._pods(where, pod, pods, nodes)
        if not local:
            yield Finding("pods of this node (there are none to look from)")

    def _list(self, path: str, **params: str) -> list[Object]:
        return list(json.loads(self._connection.request("GET", path, params=params))["items"])

    def _all_pods(self) -> list[Object]:
        """Return all pods; with an agent's rights, those of this node, and of others those behind a service."""
        try:
            return self._list("/api/v1/pods")
        except Forbidden:
            found = self._list("/api/v1/pods", fieldSelector=f"spec.nodeName={self._node}")
            slices = self._list("/apis/discovery.k8s.io/v1/endpointslices")
            return found + [pod for one in slices for pod in _pods_behind(one)]

    # ---- this machine

    def _kernel(self) -> Iterator[Finding]:
        if shutil.which("nft") is None:
            yield Finding("nftables", "nft is not installed: services can't be routed")
            return
        for table in (f"ip {self._bridge}",):
            done = subprocess.run(["nft", "-t", "list", "table", *table.split()], check=False, capture_output=True)
            why = "is not there: does the agent run, and as root?" if done.returncode else ""
            yield Finding(f"nftables table {table}", why)
        forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
        yield Finding("forwarding", "" if forwards else "net.ipv4.ip_forward is 0: pods reach nobody beyond this node")
        yield from _foreign_rules(self._bridge)

    # ---- nodes

    def _nodes(self, nodes: Sequence[Object]) -> Iterator[Finding]:
        ranges: dict[str, Any] = {}
        for node in nodes:
            name = node["metadata"]["name"]
            trouble = _not_ready(node)
            yield Finding(f"node {name} is ready", trouble)
            cidrs = node["spec"].get("podCIDRs") or []
            if not cidrs:
                yield Finding(f"node {name} has a range for pods", "podCIDR is empty: is --cluster-cidr exhausted?")
            for cidr in cidrs:
                network = ipaddress.ip_network(cidr)
                for other, taken in ranges.items():
                    if taken.version == network.version and taken.overlaps(network):
                        yield Finding(f"node {name} has a range of its own", f"{cidr} overlaps {taken} of {other}")
                ranges[name] = network
            if name != self._node:
                yield from _way_to(node, cidrs)

    # ---- services and pods

    def _services(self, where: str, services: Sequence[Object], namespace: Path | None) -> Iterator[Finding]:
        found = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in services}
        if api := found.get(("default", "kubernetes")):
            address, port = api["spec"]["clusterIP"], api["spec"]["ports"][0]["port"]
            why = inside(namespace, lambda: connects(address, port))
            yield Finding(f"{where}: the API server at its service address {address}:{port}", why)
        if dns := found.get(("kube-system", "kube-dns")):
            address = dns["spec"]["clusterIP"]
            name = "kubernetes.default.svc.cluster.local"
            why = inside(namespace, lambda: resolves(address, name))
            yield Finding(f"{where}: cluster DNS at {address}", why)
        else:
            yield Finding(f"{where}: cluster DNS", "there is no service kube-system/kube-dns")

    def _pods(self, where: str, own: LocalPod, pods: Sequence[Object], nodes: Sequence[Object]) -> Iterator[Finding]:
        """Ask one pod of each node for an echo."""
        for node in nodes:
            name = node["metadata"]["name"]
            for pod in pods:
                ip = (pod.get("status") or {}).get("podIP")
                if pod["spec"].get("nodeName") != name or pod["spec"].get("hostNetwork") or ip in (None, own.ip):
                    continue
                if (pod.get("status") or {}).get("phase") != "Running":
                    continue
                why = inside(own.namespace_file, lambda ip=ip: echoes(ip))  # type: ignore[misc]
                whose = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                hint = " (a network policy may want it so)" if why else ""
                yield Finding(f"{where}: pod {whose} at {ip} on {name}", why + hint)
                break


def _pods_behind(slice_: Object) -> Iterator[Object]:
    """Yield of each pod behind a service what its endpoint tells of it."""
    for endpoint in slice_.get("endpoints") or ():
        target = endpoint.get("targetRef") or {}
        if target.get("kind") == "Pod" and (endpoint.get("conditions") or {}).get("ready"):
            yield {
                "metadata": target, "spec": {"nodeName": endpoint.get("nodeName")},
                "status": {"phase": "Running", "podIP": endpoint["addresses"][0]},
            }  # fmt: skip


def _not_ready(node: Object) -> str:
    for one in (node.get("status") or {}).get("conditions") or ():
        if one["type"] == "Ready":
            return "" if one["status"] == "True" else one.get("message") or one.get("reason") or "it is not"
    return "its agent has said nothing yet"


def _way_to(node: Object, cidrs: Sequence[str]) -> Iterator[Finding]:
    name = node["metadata"]["name"]
    rows = (node.get("status") or {}).get("addresses") or ()
    address = next((row["address"] for row in rows if row["type"] == "InternalIP"), "")
    endpoint = ((node.get("status") or {}).get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    port = endpoint.get("Port", _AGENT_PORT)
    yield Finding(f"node {name} at {address}:{port}", connects(address, port))
    for cidr in cidrs:
        target = str(ipaddress.ip_network(cidr)[1])
        done = subprocess.run(["ip", "route", "get", target], check=False, capture_output=True, text=True)
        default = subprocess.run(["ip", "route", "show", "exact", cidr], check=False, capture_output=True, text=True)
        why = "" if done.returncode == 0 and default.stdout.strip() else "there is no route: does the agent run here?"
        yield Finding(f"the way to the pods of {name}, {cidr}", why)


def _foreign_rules(bridge: str) -> Iterator[Finding]:
    """Others' rules that drop what is forwarded by default: Docker makes such a one."""
    done = subprocess.run(["nft", "-j", "list", "chains"], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        return
    for item in json.loads(done.stdout).get("nftables", ()):
        chain = item.get("chain") or {}
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and not chain["table"].startswith(bridge):
            table = f"{chain['family']} {chain['table']}"
            yield Finding("others' rules", f"chain {chain['name']} of table {table} drops what it does not know of")


def local_pods(layout: Layout, pods: Sequence[Object], node: str) -> Iterator[LocalPod]:
    """Yield the running pods of this machine whose network namespaces can be entered."""
    folder = layout.run / "runtime" / "sandboxes"
    by_uid = {pod["metadata"]["uid"]: pod for pod in pods if pod["spec"].get("nodeName") == node}
    for uid, sandbox in _sandboxes(layout):
        pod = by_uid.get(uid)
        file = folder / sandbox / "net"
        if pod is not None and file.exists() and (pod.get("status") or {}).get("podIP"):
            yield LocalPod(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}", pod["status"]["podIP"], file)


def _sandboxes(layout: Layout) -> Iterator[tuple[str, str]]:
    import grpc

    from agent.cri import api_pb2 as cri
    from agent.cri.api_pb2_grpc import RuntimeServiceStub

    with grpc.insecure_channel(f"unix:{layout.runtime_socket}") as channel:
        try:
            found = RuntimeServiceStub(channel).ListPodSandbox(cri.ListPodSandboxRequest(), timeout=5).items
        except grpc.RpcError:
            return
    for one in found:
        if one.state == cri.SANDBOX_READY:
            yield one.metadata.uid, one.id


def inside(namespace: Path | None, ask: Callable[[], str]) -> str:
    """Do something in a network namespace, in a thread that is of no other use then; here when it is None."""
    if namespace is None:
        return ask()
    answers: list[str] = []

    def work() -> None:
        try:
            with namespace.open() as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            answers.append(ask())
        except OSError as error:
            answers.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return answers[0]


def connects(address: str, port: int) -> str:
    """Return why a TCP connection can't be made, "" when it can."""
    try:
        socket.create_connection((address, port), timeout=_SECONDS).close()
    except OSError as error:
        return str(error) or "no answer"
    return ""


def resolves(server: str, name: str) -> str:
    """Return why a name server does not answer for a name, "" when it does."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = b"\x57\x48\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"
    try:
        with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(_SECONDS)
            client.connect((server, 53))
            client.send(query)
            answer = client.recv(4096)
    except OSError as error:
        return str(error) or "no answer"
    code, count = answer[3] & 0xF, struct.unpack(">H", answer[6:8])[0]
    return "" if code == 0 and count else f"it does not know {name} (response code {code})"


def echoes(address: str) -> str:
    """Return why an address gives no echo, "" when it does."""
    message = struct.pack(">BBHHH", 8, 0, 0, 0x5748, 1) + b"wherry net check"
    total = sum(struct.unpack(f">{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    message = message[:2] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + message[4:]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as client:
            client.settimeout(_SECONDS)
            client.sendto(message, (address, 0))
            while True:
                answer, (source, _) = client.recvfrom(1000)
                if source == address and answer[20] == 0:
                    return ""
    except TimeoutError:
        return "no echo"
    except OSError as error:
        return str(error)
