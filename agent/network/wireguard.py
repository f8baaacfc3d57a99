"""Encrypted ways to the pods of other nodes: one WireGuard device, with a peer for each node.

Apart from links.py, which keeps ways as the Nodes say. The private key stays on the node's disk; the public one is told
in an annotation of the Node, so nobody else has to be asked. Where the kernel has no WireGuard, wireguard-go takes its
place if it is there. Source: https://www.wireguard.com/quickstart/ and wg(8)
"""

import base64
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY_ANNOTATION = "wherry.dev/wireguard-public-key"
_PORT = 51820
OVERHEAD_BYTES = 80  # over IPv6; twenty less over IPv4


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: its public key, its address, and the ranges of its pods."""

    key: str
    node: str
    cidrs: tuple[str, ...]


def key_pair(file: Path) -> tuple[str, str]:
    """Return the private and the public key kept in a file, made when there is none. Raises: OSError, ValueError."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    try:
        private = X25519PrivateKey.from_private_bytes(base64.b64decode(file.read_text()))
    except FileNotFoundError:
        private = X25519PrivateKey.generate()
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(base64.b64encode(private.private_bytes_raw()).decode())
    known = (private.private_bytes_raw(), private.public_key().public_bytes_raw())
    return base64.b64encode(known[0]).decode(), base64.b64encode(known[1]).decode()


def configuration(private: str, peers: Mapping[str, Peer]) -> str:
    """Return what `wg syncconf` is to be told; pure."""
    lines = ["[Interface]", f"PrivateKey = {private}", f"ListenPort = {_PORT}"]
    for name in sorted(peers):
        one = peers[name]
        host = f"[{one.node}]" if ":" in one.node else one.node
        lines += ["[Peer]", f"PublicKey = {one.key}", f"Endpoint = {host}:{_PORT}"]
        lines += [f"AllowedIPs = {', '.join(one.cidrs)}"]
    return "\n".join([*lines, ""])


def settle_device(kernel: Any, name: str, address: str) -> tuple[int, bool]:
    """Make the device with its own address; returns its index and whether it is new. Raises: OSError."""
    found = kernel.link_lookup(ifname=name)
    if not found:
        _make(kernel, name)
    device: int = kernel.link_lookup(ifname=name)[0]
    kernel.link("set", index=device, state="up")
    kernel.addr("replace", index=device, address=address, prefixlen=32 if "." in address else 128)
    return device, not found


def _make(kernel: Any, name: str) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    if shutil.which("wg") is None:
        raise OSError("WireGuard between nodes needs the program wg (wireguard-tools)")
    try:
        kernel.link("add", ifname=name, kind="wireguard")
    except NetlinkError as error:
        if shutil.which("wireguard-go") is None:
            raise OSError(error.code, "this kernel has no WireGuard, and wireguard-go is not installed") from error
        # It goes on by itself, until its device is removed.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WG_")}
        subprocess.run(["wireguard-go", name], check=False, capture_output=True, env=environment, timeout=10)
        if not kernel.link_lookup(ifname=name):
            raise OSError(error.code, "wireguard-go made no device") from error


def tell(name: str, text: str) -> None:
    """Give a device its configuration; connections through it go on. Raises: OSError."""
    done = subprocess.run(
        ["wg", "syncconf", name, "/dev/stdin"], input=text, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise OSError(f"wg: {done.stderr.strip()[:500]}")
