"""A real API server for tests, in this process or in its own, over a store of choice."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from apiserver.app import APIServer, ServerConfig, serving
from apiserver.auth.user import MASTERS, User
from apiserver.storage.interface import Store
from apiserver.storage.sqlite import SQLiteStore
from cluster.addresses import host_names
from cluster.apiserver_component import AGENT_CLIENTS, front_proxy
from cluster.kubeconfig import write_kubeconfig
from cluster.pki import Pki
from machinery.client.kubeconfig import ClientConfig

ADMIN_TOKEN = "test-admin-token"


def free_port() -> int:
    """Return a port of loopback that was free a moment ago, for TCP and for UDP.

    It lies below the range that connections are given theirs from: none of those can take it before it is used.
    """
    while True:
        port = random.randint(15_000, 29_999)
        with contextlib.suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port


def server_config(folder: Path, *, port: int = 0) -> ServerConfig:
    """Return the settings of a server whose certificates lie in `folder`/pki."""
    pki = Pki(folder / "pki")
    cert, key = pki.server("apiserver", "apiserver", [*host_names(), "kubernetes.default.svc", "10.96.0.1"])
    agent_cert, agent_key = pki.client("apiserver-kubelet-client", "wherry-apiserver-agent-client", [AGENT_CLIENTS])
    return ServerConfig(
        cert_file=cert,
        key_file=key,
        client_ca_file=pki.ca_file,
        token_key_file=pki.signing_key("tokens"),
        agent_client_cert_file=agent_cert,
        agent_client_key_file=agent_key,
        port=port or free_port(),
        **front_proxy(pki),
        static_tokens={ADMIN_TOKEN: User("admin", (MASTERS,))},
    )


def client_config(
    folder: Path, config: ServerConfig, *, user: str = "admin", groups: tuple[str, ...] = (MASTERS,)
) -> ClientConfig:
    """Return a client's settings for that server, with a certificate of `user`."""
    cert, key = Pki(folder / "pki").client(f"client-{user.replace(':', '-')}", user, groups)
    server = f"https://127.0.0.1:{config.port}"
    return ClientConfig(server=server, ca_file=str(config.client_ca_file), cert_file=str(cert), key_file=str(key))


def kubeconfig_file(folder: Path, config: ServerConfig) -> Path:
    """Write the administrator's kubeconfig for real clients and return its path."""
    cert, key = Pki(folder / "pki").client("client-admin", "admin", (MASTERS,))
    path = folder / "kubeconfig"
    write_kubeconfig(
        path,
        server=f"https://127.0.0.1:{config.port}",
        ca_file=config.client_ca_file,
        cert_file=cert,
        key_file=key,
        user="admin",
    )
    return path


@contextlib.asynccontextmanager
async def running_server(folder: Path, *, store: Store | None = None) -> AsyncIterator[tuple[APIServer, ClientConfig]]:
    """Serve in this process over SQLite (or the store given) until the block ends; ready when it begins."""
    own = store is None
    used: Store = store if store is not None else SQLiteStore(folder / "store.sqlite")
    config = server_config(folder)
    try:
        async with serving(used, config, sole_writer=True) as server:
            async with asyncio.timeout(10):
                await server.health.bootstrapped.wait()
            yield server, client_config(folder, config)
    finally:
        if own:
            await used.close()
