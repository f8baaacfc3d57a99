"""Pods as they come from the API, kept small: 50,000 of them must fit.

An informer of our own kind: it keeps what scheduler.pods makes of a pod, and tells of changes in those terms.
"""

import logging
from collections.abc import Callable, Iterable

import msgspec

from machinery.api.meta import ObjectKey
from machinery.client.reflector import Partial
from machinery.client.rest import WatchEvent
from scheduler.pods import Pod, PodReader

log = logging.getLogger(__name__)

OnChange = Callable[[Pod | None, Pod | None], None]


class PodFeed:
    """The sink of a reflector of pods."""

    def __init__(self, on_change: OnChange, on_synced: Callable[[], None] = lambda: None) -> None:
        """Args: `on_change(old, new)` is called for each change; `on_synced` once all pods are here."""
        self._pods: dict[ObjectKey, Pod] = {}
        self._listed: set[ObjectKey] = set()
        self._reader = PodReader()
        self._on_change, self._on_synced = on_change, on_synced

    def __len__(self) -> int:
        return len(self._pods)

    def get(self, key: ObjectKey) -> Pod | None:
        """Return a pod, or None."""
        return self._pods.get(key)

    def all(self) -> Iterable[Pod]:
        """Return all pods."""
        return self._pods.values()

    # ---- the reflector's sink

    def page(self, items: list[msgspec.Raw], *, first: bool) -> None:
        """Take a part of the whole state; the rest follows, and last `replace`."""
        if first:
            self._listed.clear()
        self._listed.update(pod.key for pod in map(self._put, items) if pod is not None)

    def replace(self, items: list[msgspec.Raw]) -> None:
        """Take the whole state; what is here and not in `items` was deleted while nobody watched."""
        self.page(items, first=False)
        listed, self._listed = self._listed, set()
        for key in [key for key in self._pods if key not in listed]:
            self._remove(key)
        self._on_synced()

    def apply(self, event: WatchEvent, partial: Partial) -> None:
        """Take one change."""
        if event.type == "DELETED":
            self._remove(ObjectKey(partial.metadata.namespace, partial.metadata.name))
        else:
            self._put(event.object)

    def _put(self, raw: msgspec.Raw) -> Pod | None:
        try:
            pod = self._reader.read(raw)
        except (msgspec.DecodeError, ValueError):
            log.exception("a pod could not be read")
            return None
        old = self._pods.get(pod.key)
        if old is not None:
            if old.version == pod.version:
                return old
            if old.uid != pod.uid:
                self._remove(pod.key)  # deleted and made anew while nobody watched: two things, so two calls
                old = None
            else:
                pod.key, pod.name, pod.uid = old.key, old.name, old.uid  # one copy of each string
        self._pods[pod.key] = pod
        self._tell(old, pod)
        return pod

    def _remove(self, key: ObjectKey) -> None:
        old = self._pods.pop(key, None)
        if old is not None:
            self._tell(old, None)

    def _tell(self, old: Pod | None, new: Pod | None) -> None:
        try:
            self._on_change(old, new)
        except Exception:
            log.exception("taking a change of %s failed", (new or old))  # one pod must not stop the news of others
