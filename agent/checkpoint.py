"""What the API server told last, kept on disk: an agent that starts while the API is away goes on by it.

Pods of this node with their statuses, and what of Services containers are told by variables. Written a moment after it
changes, in one go for all that changed; what is lost by a crash in between, the API or the runtime still knows.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from machinery.files import write_atomically

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
_GATHER_SECONDS = 0.5
_SERVICES = "services.json"
_DROPPED = ("managedFields",)


class Checkpoint:
    """A folder with a file a pod, by uid, and one for all Services; for root alone, pods may hold secrets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pods = folder / "pods"
        self._waiting: dict[str, Object | None] = {}  # uid -> what is to be written; None for what is to go
        self._services: Callable[[], Sequence[Object]] | None = None  # set where they changed
        self._changed = asyncio.Event()

    def note_pod(self, old: Object | None, new: Object | None) -> None:
        """Take news of a pod; fits an informer's handler."""
        if new is not None:
            self._waiting[new["metadata"]["uid"]] = new
        if old is not None and (new is None or old["metadata"]["uid"] != new["metadata"]["uid"]):
            self._waiting[old["metadata"]["uid"]] = None
        self._changed.set()

    def note_services(self, services: Callable[[], Sequence[Object]]) -> None:
        """Services changed; `services` tells of all there are."""
        self._services = services
        self._changed.set()

    def keep_only(self, uids: Collection[str]) -> None:
        """Forget all pods but these."""
        for path in self._pods.glob("*.json"):
            if path.stem not in uids:
                self._waiting[path.stem] = None
        self._changed.set()

    async def run(self) -> None:
        """Write what changes until cancelled."""
        self._make_folders()
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._changed.clear()
            waiting, self._waiting = self._waiting, {}
            services, self._services = self._services, None
            try:
                await asyncio.to_thread(self._write, waiting, services() if services is not None else None)
            except OSError as error:
                log.warning("what the API server told was not written down: %s", error)

    def _make_folders(self) -> None:
        for folder in (self._folder, self._pods):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _write(self, pods: Mapping[str, Object | None], services: Sequence[Object] | None) -> None:
        for uid, pod in pods.items():
            path = self._pods / f"{uid}.json"
            if pod is None:
                path.unlink(missing_ok=True)
            else:
                metadata = {name: value for name, value in pod["metadata"].items() if name not in _DROPPED}
                write_atomically(path, orjson.dumps({**pod, "metadata": metadata}))
        if services is not None:
            write_atomically(self._folder / _SERVICES, orjson.dumps([_told(one) for one in services]))

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods that were known last; files that can't be read are left out. Blocks."""
        found = []
        for path in self._pods.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                pod = orjson.loads(path.read_bytes())
                if pod["metadata"]["uid"] == path.stem and "spec" in pod:
                    found.append(pod)
        return found

    def pod(self, uid: str) -> dict[str, Any] | None:
        """Return one pod as it was known last. Blocks."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = orjson.loads((self._pods / f"{uid}.json").read_bytes())
            return found
        return None

    def services(self) -> list[dict[str, Any]] | None:
        """Return the Services that were known last; None when none ever were. Blocks."""
        with contextlib.suppress(OSError, ValueError):
            found: list[dict[str, Any]] = orjson.loads((self._folder / _SERVICES).read_bytes())
            return found
        return None


def _told(service: Object) -> dict[str, Any]:
    """Return the part of a Service that containers' variables are made of."""
    metadata, spec = service["metadata"], service.get("spec") or {}
    return {
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": {name: spec[name] for name in ("clusterIP", "ports", "type") if name in spec},
    }
