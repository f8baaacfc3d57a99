"""Pods out of a folder of manifests: run by this node whatever the API server says, and shown in the API by mirrors.

The pod that runs is the manifest's, under a uid made of it; it needs no API. A mirror is a pod of the API that tells
its status: made when the API can be reached, made anew when somebody deletes it, and deleted when the pod has ended
because its manifest went. A manifest that changed is another pod, which begins when the one before it has ended.
Source: https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.checkpoint import Checkpoint
from agent.config import AgentConfig
from agent.inotify import FolderNews
from agent.pod_manager import PodManager
from agent.pod_runtime import PodRuntime
from agent.pod_state import MIRROR, is_static
from agent.static_manifest import read_manifests
from machinery.api.resources import NODES, PODS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import AlreadyExists, APIError, Conflict, NotFound

log = logging.getLogger(__name__)

Key = tuple[str, str]  # namespace and name
# A folder on a file system without news is looked at this often; else only to be sure.
_LOOK_SECONDS, _SURE_SECONDS = 2.0, 20.0
_RETRY_SECONDS = 1.0


class StaticPods:
    """Runs the pods of a folder and keeps their mirrors."""

    def __init__(self, config: AgentConfig, client: Client, pods: PodManager, checkpoint: Checkpoint) -> None:
        self._config = config
        self._client = client
        self._pods = pods
        self._checkpoint = checkpoint
        self._wanted: dict[Key, Mapping[str, Any]] = {}
        self._files: dict[str, str] = {}  # name of a file -> uid of its pod
        self._mirrors: dict[Key, Mapping[str, Any]] = {}
        self._news: FolderNews | None = None
        self._is_synced = False  # the mirrors of the API are known
        self._changed = asyncio.Event()
        pods.on_mirror, pods.on_end = self.on_mirror, self._changed.set

    async def start(self) -> None:
        """Run what the folder holds now."""
        await self._read()
        self._run_wanted()

    def synced(self) -> None:
        """All mirrors that the API holds have been told."""
        self._is_synced = True
        self._changed.set()

    def on_mirror(self, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> None:
        """Take news of a mirror from the API."""
        if old is not None:
            self._mirrors.pop(_key(old), None)
        if new is not None:
            self._mirrors[_key(new)] = new
        self._changed.set()

    async def run(self) -> None:
        """Follow folder and mirrors for ever."""
        try:
            while True:
                self._watch()
                await self._read()
                self._run_wanted()
                pause = _SURE_SECONDS if self._news is not None and self._news.is_told else _LOOK_SECONDS
                try:
                    await self._settle_mirrors()
                except (APIError, ConnectionFailed) as error:
                    log.warning("mirrors of static pods: %s", error)
                    pause = _RETRY_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            if self._news is not None:
                self._news.close()

    # ---- the folder

    def _watch(self) -> None:
        """Have the kernel tell of the folder, once it is there."""
        folder = self._config.static_pod_dir
        if folder is None or (self._news is not None and self._news.is_told):
            return
        self._news = FolderNews(folder, self._told)

    def _told(self, name: str, went: bool) -> None:
        uid = self._files.pop(name, "") if went else ""
        if uid:
            self._end(uid)  # even if its file comes again at once
        self._changed.set()

    async def _read(self) -> None:
        folder = self._config.static_pod_dir
        found: dict[Path, dict[str, Any]] = {}
        if folder is not None:
            found = await asyncio.to_thread(read_manifests, folder, self._config.node_name)
        self._wanted = {_key(pod): pod for pod in found.values()}
        self._files = {path.name: pod["metadata"]["uid"] for path, pod in found.items()}

    def _run_wanted(self) -> None:
        uids = {pod["metadata"]["uid"] for pod in self._wanted.values()}
        for one in list(self._pods.runtimes()):
            if is_static(one.pod) and one.uid not in uids:
                self._end(one.uid)
        for key, pod in self._wanted.items():
            running = self._pods.find(*key)
            if running is None:
                self._pods.take(self._as_before(pod))
            elif running.deleted and running.uid == pod["metadata"]["uid"]:
                running.comes_back = True

    def _as_before(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a pod with the status it had under an agent before this one."""
        before = self._checkpoint.pod(pod["metadata"]["uid"])
        return pod if before is None else {**pod, "status": {**pod["status"], **(before.get("status") or {})}}

    def _end(self, uid: str) -> None:
        found = next((one for one in self._pods.runtimes() if one.uid == uid), None)
        if found is None or found.deleted:
            return
        seconds = found.pod["spec"].get("terminationGracePeriodSeconds", 30)
        metadata = {**found.pod["metadata"], "deletionTimestamp": found.now(), "deletionGracePeriodSeconds": seconds}
        found.vanish({**found.pod, "metadata": metadata})

    # ---- mirrors

    async def _settle_mirrors(self) -> None:
        if not self._is_synced:
            return
        running = {_key(one.pod): one for one in self._pods.runtimes() if is_static(one.pod)}
        for key, mirror in list(self._mirrors.items()):
            if not self._is_right(mirror, running.get(key)):
                await self._delete(key, mirror["metadata"]["uid"])
        for key, one in running.items():
            found = self._mirrors.get(key)
            one.show_by(found if found is not None and _hash(found) == one.uid else None)
            if found is None and not one.deleted:
                await self._create(one)

    def _is_right(self, mirror: Mapping[str, Any], running: PodRuntime | None) -> bool:
        return running is not None and _hash(mirror) == running.uid and not mirror["metadata"].get("deletionTimestamp")

    async def _delete(self, key: Key, uid: str) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        with contextlib.suppress(NotFound, Conflict):
            await self._client.delete(PODS, key[1], key[0], options=options)

    async def _create(self, one: PodRuntime) -> None:
        name, pod = self._config.node_name, one.pod
        owner_uid = (await self._client.get(NODES, name))["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner_uid, "controller": True}
        dropped = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
        metadata = {name: value for name, value in pod["metadata"].items() if name not in dropped}
        metadata["annotations"] = {**metadata["annotations"], MIRROR: one.uid}
        metadata["ownerReferences"] = [owner]  # else an agent may not make pods
        spec = {name: value for name, value in pod["spec"].items() if name != "priority"}
        body = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec}
        with contextlib.suppress(AlreadyExists):
            await self._client.create(PODS, body)


def _key(pod: Mapping[str, Any]) -> Key:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _hash(mirror: Mapping[str, Any]) -> str:
    return str((mirror["metadata"].get("annotations") or {}).get(MIRROR, ""))
