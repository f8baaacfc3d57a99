"""Runs the kopf operators of add-ons, one or several in a process: each has its own handlers, identity and client.

Kept apart from the operators, so that each of them is only its handlers and what these do.
"""

import asyncio
import base64
import importlib
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import kopf

from machinery.api.meta import ObjectKey, Resource
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, Forbidden, NotFound, Unauthorized

OPERATORS = {
    "build": "operators.build.app", "compose": "operators.compose.app", "nodepool": "operators.nodepool.app",
}  # fmt: skip
"""Where each add-on's handlers are: a module with a `REGISTRY` of kopf's and the `RESOURCE` it looks after."""
RETRY_SECONDS = 2.0
_RETRIES = 30
_PAUSE_SECONDS = 0.5

T = TypeVar("T")
Reconcile = Callable[[Client, ObjectKey], Awaitable[T]]


async def run(configs: Mapping[str, ClientConfig]) -> None:
    """Run operators until told to stop; `configs` says by name who each of them is towards the API server."""
    async with asyncio.TaskGroup() as group:
        for name, config in configs.items():
            group.create_task(_run_one(name, config))


async def _run_one(name: str, config: ClientConfig) -> None:
    app = importlib.import_module(OPERATORS[name])
    async with Client(config, user_agent=f"wherry-{name}-operator") as client:
        await _until_served(client, app.RESOURCE)
        memo = kopf.Memo(client=client, config=config, locks=weakref.WeakValueDictionary())
        await kopf.operator(standalone=True, clusterwide=True, memo=memo, registry=app.REGISTRY)


async def _until_served(client: Client, resource: Resource) -> None:
    """Wait for the add-on's kind, and the right to read it; until then there is nothing to watch."""
    while True:
        try:
            await client.list(resource, limit=1)
            return
        except (NotFound, Forbidden, Unauthorized, ConnectionFailed):
            await asyncio.sleep(_PAUSE_SECONDS)


async def step(memo: kopf.Memo, key: ObjectKey, reconcile: Reconcile[T]) -> T:
    """Take a step for an object, one at a time; returns what it returned."""
    lock = memo.locks.get(key) or memo.locks.setdefault(key, asyncio.Lock())
    async with lock:
        return await reconcile(memo.client, key)


async def insist(memo: kopf.Memo, key: ObjectKey, reconcile: Reconcile[T]) -> T:
    """Take a step, and again where it fails: kopf doesn't, for events.

    Raises: APIError, ConnectionFailed when it fails to the end.
    """
    for _ in range(_RETRIES - 1):
        try:
            return await step(memo, key, reconcile)
        except (APIError, ConnectionFailed):
            await asyncio.sleep(RETRY_SECONDS)
    return await step(memo, key, reconcile)


def new_registry() -> kopf.OperatorRegistry:
    """Return handlers' registry of one operator, with what all of ours have in common."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(login)
    kopf.on.startup(registry=registry)(configure)
    return registry


def login(memo: kopf.Memo, **_: Any) -> kopf.ConnectionInfo:
    """Let kopf in as the client is."""
    config: ClientConfig = memo.config

    def text(data: bytes) -> str | None:
        return base64.b64encode(data).decode() or None

    return kopf.ConnectionInfo(
        server=config.server, ca_path=config.ca_file or None, ca_data=text(config.ca_data),
        certificate_path=config.cert_file or None, certificate_data=text(config.cert_data),
        private_key_path=config.key_file or None, private_key_data=text(config.key_data),
        token=config.token or None, insecure=config.insecure,
    )  # fmt: skip


def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Keep kopf's own notes in annotations: the status is ours."""
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage()
    settings.posting.enabled = False
