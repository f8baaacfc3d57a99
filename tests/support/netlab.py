"""Machines made of network namespaces, with real traffic between them, all of it driven by one process.

A socket belongs to the namespace it was made in, whoever uses it later: so tests enter a namespace only to make sockets.
"""

import contextlib
import ctypes
import ctypes.util
import errno
import ipaddress
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
ANSWER_SECONDS = 0.6


def _set_namespace(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@dataclass
class Machine:
    """One network namespace."""

    name: str
    label: str
    _servers: list[socket.socket] = field(default_factory=list)

    def run(self, *argv: str, given: str | None = None, check: bool = True) -> str:
        """Run a command in it and return what it prints."""
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.name}", *argv],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} on {self.label}: {done.stdout}{done.stderr}")
        return done.stdout

    def ip(self, command: str) -> str:
        return self.run("ip", *command.split())

    def nft(self, transaction: str) -> None:
        self.run("nft", "-f", "-", given=transaction)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """While the block lasts, this thread makes its sockets here."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _set_namespace(there)
            yield
        finally:
            _set_namespace(own)
            os.close(own)
            os.close(there)

    def open(self, kind: socket.SocketKind, family: int = socket.AF_INET) -> socket.socket:
        with self.inside():
            made = socket.socket(family, kind)
        made.settimeout(ANSWER_SECONDS)
        return made

    def serve(self, port: int, address: str = "", *, ipv6: bool = False) -> None:
        """Answer on a TCP and a UDP port with our label and the client's address."""
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        tcp, udp = self.open(socket.SOCK_STREAM, family), self.open(socket.SOCK_DGRAM, family)
        for one in (tcp, udp):
            one.settimeout(None)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, port))
        tcp.listen(128)
        self._servers += [tcp, udp]
        threading.Thread(target=self._serve_tcp, args=(tcp,), daemon=True).start()
        threading.Thread(target=self._serve_udp, args=(udp,), daemon=True).start()

    def _serve_tcp(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, client = listener.accept()
                threading.Thread(target=self._echo, args=(connection, client[0]), daemon=True).start()

    def _echo(self, connection: socket.socket, client: str) -> None:
        with contextlib.suppress(OSError), connection:
            while connection.recv(1000):
                connection.sendall(f"{self.label} {client}".encode())

    def _serve_udp(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                _, client = server.recvfrom(1000)
                if client is None:
                    return  # it was shut down
                server.sendto(f"{self.label} {client[0]}".encode(), client)

    def ask(self, address: str, port: int, *, udp: bool = False, source: str = "") -> str:
        """Return "label client" of who answers there, "refused" or "unreachable", or "lost" when nobody does."""
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        with self.open(kind, socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
            try:
                if source:
                    client.bind((source, 0))
                client.connect((address, port))
                return exchange(client)
            except ConnectionRefusedError:
                return "refused"
            except OSError as error:
                return "unreachable" if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else "lost"

    def who(self, address: str, port: int, *, udp: bool = False, tries: int = 1) -> set[str]:
        """Return the labels of those who answer there."""
        return {self.ask(address, port, udp=udp).split()[0] for _ in range(tries)}

    def close(self) -> None:
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            server.close()
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


def exchange(client: socket.socket) -> str:
    """Send a word over a connected socket and return the answer."""
    client.sendall(b"hello")
    return client.recv(1000).decode()


class Lab:
    """Makes machines and links them."""

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex[:6]
        self._machines: list[Machine] = []
        self._links = 0

    def machine(self, label: str) -> Machine:
        made = Machine(f"lab-{self._token}-{label}", label)
        subprocess.run(["ip", "netns", "add", made.name], check=True)
        self._machines.append(made)
        made.ip("link set lo up")
        # Nobody else has our addresses: they need not be tried out for a second before they are used.
        made.run("sh", "-c", "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
        return made

    def link(self, one: Machine, one_name: str, other: Machine, other_name: str) -> None:
        """Lay a cable between two machines and switch it on."""
        self._links += 1
        pair = [f"l{self._token}{self._links}{side}" for side in "ab"]
        subprocess.run(["ip", "link", "add", pair[0], "type", "veth", "peer", "name", pair[1]], check=True)
        for machine, temporary, name in ((one, pair[0], one_name), (other, pair[1], other_name)):
            subprocess.run(["ip", "link", "set", temporary, "netns", machine.name], check=True)
            machine.ip(f"link set {temporary} name {name}")
            machine.ip(f"link set {name} up")

    def pod(self, host: Machine, label: str, bridge: str, address: str, gateway: str) -> Machine:
        """Make a pod on a host's bridge, with a way to everything through the host as the runtime gives it."""
        pod = self.machine(label)
        self.link(pod, "eth0", host, f"v{label}")
        host.ip(f"link set v{label} master {bridge}")
        host.run("bridge", "link", "set", "dev", f"v{label}", "hairpin", "on")
        bits = 64 if ":" in address else 24
        version = "-6" if ":" in address else "-4"
        pod.ip(f"{version} address add {address}/{bits} dev eth0" + (" nodad" if ":" in address else ""))
        halves = list(ipaddress.ip_network(f"{address}/{bits}", strict=False).subnets())
        # The half that has the gateway comes last: once it is there, IPv6 takes the gateway for one behind itself.
        for destination in ("default", halves[1], halves[0]):
            pod.ip(f"{version} route add {destination} via {gateway}")
        return pod

    def close(self) -> None:
        for machine in self._machines:
            machine.close()
