"""An add-on's real kopf operator, in a process of its own, over a real API server."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import yaml

from cluster.kubeconfig import write_kubeconfig
from cluster.pki import Pki
from machinery.api.meta import Resource
from machinery.client.rest import Client, PatchType
from tests.support.server import running_server

_MANIFESTS = Path(__file__).parents[2] / "manifests"


@contextlib.asynccontextmanager
async def running_operator(name: str, folder: Path) -> AsyncIterator[Client]:
    """Yield an administrator's client of a server whose objects the operator looks after, with its own rights alone."""
    async with running_server(folder) as (server, admin), Client(admin) as client:
        await _enable(client, name)
        path, user = folder / "operator.kubeconfig", f"system:wherry-{name}"
        cert, key = Pki(folder / "pki").client("operator", user, ())
        ca = server.config.client_ca_file
        write_kubeconfig(path, server=admin.server, ca_file=ca, cert_file=cert, key_file=key, user=user)
        argv = [sys.executable, "-m", "cluster.main", "operator", name, "--kubeconfig", str(path)]
        with (folder / "operator.log").open("wb") as log:
            operator = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
        try:
            yield client
            assert operator.returncode is None
        finally:
            with contextlib.suppress(ProcessLookupError):
                operator.terminate()
            await operator.wait()
            print((folder / "operator.log").read_text())


async def _enable(client: Client, name: str) -> None:
    for obj in yaml.safe_load_all((_MANIFESTS / f"addon-{name}.yaml").read_text()):
        group, _, version = obj["apiVersion"].partition("/")
        resource = Resource(group, version, obj["kind"].lower() + "s", obj["kind"], namespaced=False)
        params = {"fieldManager": "test", "force": "true"}
        await client.patch(resource, obj["metadata"]["name"], obj, type=PatchType.APPLY, params=params)
