"""Pods out of a folder of manifests: run whatever the API server says, and shown in the API by a mirror.

A mirror is a pod of the API bound to this node. Here the mirror itself is what the agent runs: it is made anew when it
is deleted, replaced when its manifest changes, and deleted when its manifest goes.
Source: https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from agent.config import AgentConfig
from machinery.api.resources import NODES, PODS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import AlreadyExists, APIError, NotFound

log = logging.getLogger(__name__)

MIRROR, HASH, SOURCE = "kubernetes.io/config.mirror", "kubernetes.io/config.hash", "kubernetes.io/config.source"
_LOOK_SECONDS = 2.0


def read_manifests(folder: Path, node_name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return a folder's pods as mirrors of this node, by namespace and name; bad files are told of and left out."""
    import yaml

    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix not in (".yaml", ".yml", ".json") or path.name.startswith("."):
            continue
        try:
            pod = yaml.safe_load(path.read_text())
            if pod.get("kind") != "Pod":
                raise ValueError(f"kind is {pod.get('kind')}, not Pod")
            mirror = _mirror(pod, node_name)
        except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            log.warning("%s is no pod manifest: %s", path, error)
            continue
        found[mirror["metadata"]["namespace"], mirror["metadata"]["name"]] = mirror
    return found


def _mirror(pod: Mapping[str, Any], node_name: str) -> dict[str, Any]:
    digest = hashlib.sha256(orjson.dumps(pod, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    metadata = dict(pod["metadata"])
    metadata["name"] = f"{metadata['name']}-{node_name}"
    metadata["namespace"] = metadata.get("namespace") or "default"
    metadata["annotations"] = {**(metadata.get("annotations") or {}), MIRROR: digest, HASH: digest, SOURCE: "file"}
    spec = {**pod["spec"], "nodeName": node_name}
    spec.setdefault("tolerations", []).append({"operator": "Exists", "effect": "NoExecute"})
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec}


class StaticPods:
    """Keeps the mirrors of a folder in the API."""

    def __init__(self, config: AgentConfig, client: Client) -> None:
        self._config = config
        self._client = client
        self._mine: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Look at the folder for ever."""
        while True:
            try:
                await self._once()
            except (APIError, ConnectionFailed) as error:
                log.warning("static pods: %s", error)
            await asyncio.sleep(_LOOK_SECONDS)  # a folder on any file system: looked at, not watched

    async def _once(self) -> None:
        folder = self._config.static_pod_dir
        if folder is None:
            return
        wanted = await asyncio.to_thread(read_manifests, folder, self._config.node_name)
        selector = f"spec.nodeName={self._config.node_name}"
        listed = (await self._client.list(PODS, field_selector=selector))["items"]
        present = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): one["metadata"]
            for one in listed
            if MIRROR in (one["metadata"].get("annotations") or {})
        }
        for key, metadata in present.items():
            digest = metadata["annotations"][MIRROR]
            if key not in wanted or wanted[key]["metadata"]["annotations"][MIRROR] != digest:
                await self._delete(key)
        for key, pod in wanted.items():
            if key not in present:
                await self._create(pod)

    async def _delete(self, key: tuple[str, str]) -> None:
        try:
            await self._client.delete(PODS, key[1], key[0])
        except NotFound:
            return

    async def _create(self, pod: Mapping[str, Any]) -> None:
        name = self._config.node_name
        try:
            uid = (await self._client.get(NODES, name))["metadata"]["uid"]
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": True}
            metadata = {**pod["metadata"], "ownerReferences": [owner]}  # else an agent may not make pods
            await self._client.create(PODS, {**pod, "metadata": metadata})
        except AlreadyExists:
            return
