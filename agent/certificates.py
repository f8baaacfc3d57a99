"""Renews the certificates of a node that has joined: it asks for new ones when most of their time is over.

Source: https://kubernetes.io/docs/tasks/tls/certificate-rotation/
"""

import asyncio
import base64
import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.config import AgentConfig
from agent.metrics import Metrics
from machinery.api.resources import CERTIFICATE_SIGNING_REQUESTS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError

log = logging.getLogger(__name__)

CLIENT, SERVING = "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"
# Somewhere between these parts of a certificate's life the next one is asked for, so that not all nodes ask at once.
_EARLIEST, _LATEST = 0.7, 0.9
_LOOK_SECONDS = 60.0
_SIGNED_SECONDS, _PAUSE_SECONDS = 900.0, 1.0
_MAX_RETRY_SECONDS = 600.0
_NEW = ".new"


class RotationError(Exception):
    """A certificate could not be renewed now; the log shows why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, and what they are for.

    Attributes:
        kind: client or server, as metrics name it.
        names: what a serving certificate is to name.
    """

    kind: str
    signer: str
    cert_file: Path
    key_file: Path
    names: Sequence[str] = ()


def pairs_of(config: AgentConfig) -> list[Pair]:
    """Return the certificates of a node: by which it is known to the API server, and which its own server shows."""
    return [
        Pair("client", CLIENT, Path(config.client.cert_file), Path(config.client.key_file)),
        Pair("server", SERVING, config.cert_file, config.key_file, (config.node_name,)),
    ]


def settle(pair: Pair) -> None:
    """Finish what was cut off while both files were put in place: the key goes first. Blocks."""
    new_cert, new_key = (path.with_name(path.name + _NEW) for path in (pair.cert_file, pair.key_file))
    if new_cert.exists() and not new_key.exists():
        new_cert.replace(pair.cert_file)
    for path in (new_cert, new_key):
        path.unlink(missing_ok=True)


class CertificateRotation:
    """Keeps the certificates of one node fresh."""

    def __init__(self, config: AgentConfig, client: Client, metrics: Metrics) -> None:
        self._config = config
        self._client = client
        self._metrics = metrics

    async def run(self) -> None:
        """Renew for ever."""
        async with asyncio.TaskGroup() as group:
            for pair in pairs_of(self._config):
                group.create_task(self._keep(pair))

    async def _keep(self, pair: Pair) -> None:
        pause = _LOOK_SECONDS
        while True:
            begins, ends = await _validity(pair.cert_file)
            due = begins + (ends - begins) * random.uniform(_EARLIEST, _LATEST)  # noqa: S311 - spreads load
            while time.time() < due:
                self._metrics.set(f"kubelet_certificate_manager_{pair.kind}_ttl_seconds", ends - time.time())
                await asyncio.sleep(min(_LOOK_SECONDS, max(due - time.time(), 0.0)))
            try:
                await self.renew(pair)
                pause = _LOOK_SECONDS
            except (APIError, ConnectionFailed, RotationError, OSError) as error:
                log.warning("the %s certificate was not renewed: %s; trying again in %.0f s", pair.kind, error, pause)
                self._metrics.add(f"kubelet_certificate_manager_{pair.kind}_expiration_renew_errors")
                await asyncio.sleep(pause)
                pause = min(pause * 2, _MAX_RETRY_SECONDS)

    async def renew(self, pair: Pair) -> None:
        """Ask for a new certificate, wait until it is signed, and put it in place. Raises: RotationError, APIError."""
        new_cert, new_key = (path.with_name(path.name + _NEW) for path in (pair.cert_file, pair.key_file))
        request = await _child("make", self._config.node_name, str(new_key), *pair.names)
        certificate = await self._signed(pair, request)
        await asyncio.to_thread(new_cert.write_bytes, certificate)
        await asyncio.to_thread(new_key.replace, pair.key_file)
        await asyncio.to_thread(new_cert.replace, pair.cert_file)
        if pair.signer == CLIENT:
            await self._client.reload_certificate()
        log.info("the %s certificate was renewed", pair.kind)

    async def _signed(self, pair: Pair, request: bytes) -> bytes:
        usage = "client auth" if pair.signer == CLIENT else "server auth"
        spec = {
            "request": base64.b64encode(request).decode(), "signerName": pair.signer,
            "usages": ["digital signature", usage],
        }  # fmt: skip
        name = f"csr-{self._config.node_name}-{secrets.token_hex(4)}"
        kind = {"kind": "CertificateSigningRequest", "apiVersion": "certificates.k8s.io/v1"}
        await self._client.create(CERTIFICATE_SIGNING_REQUESTS, {**kind, "metadata": {"name": name}, "spec": spec})
        deadline = time.monotonic() + _SIGNED_SECONDS
        while time.monotonic() < deadline:
            status = (await self._client.get(CERTIFICATE_SIGNING_REQUESTS, name)).get("status") or {}
            if status.get("certificate"):
                return base64.b64decode(status["certificate"])
            for condition in status.get("conditions") or ():
                if condition["type"] in ("Denied", "Failed"):
                    raise RotationError(f"{name} was {condition['type'].lower()}: {condition.get('message', '')}")
            await asyncio.sleep(_PAUSE_SECONDS)
        raise RotationError(f"{name} was not signed within {_SIGNED_SECONDS:.0f} s")


async def _validity(path: Path) -> tuple[float, float]:
    begins, ends = (await _child("validity", str(path))).split()
    return float(begins), float(ends)


async def _child(*arguments: str) -> bytes:
    """Return what agent/certificate_request.py prints. Raises: RotationError."""
    argv = [sys.executable, "-m", "agent.certificate_request", *arguments]
    pipe, folder = asyncio.subprocess.PIPE, Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, env=environment)
    out, err = await process.communicate()
    if process.returncode:
        raise RotationError(err.decode(errors="replace").strip().rpartition("\n")[2])
    return out
