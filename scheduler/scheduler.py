"""The scheduler itself: takes news of nodes and pods, chooses, binds.

A chosen pod is counted on its node at once (it is *assumed* there) and bound while the next one is being placed. The
API's word settles it: the pod comes back bound, or it is gone, or it was not bound after all and is tried again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from machinery.api.meta import ObjectKey
from machinery.api.resources import PODS
from machinery.client.events import EventType
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, NotFound
from scheduler.binder import BINDINGS_AT_ONCE, Binder
from scheduler.cluster import Cluster
from scheduler.config import SchedulerConfig
from scheduler.devices.extended import classes_by_resource
from scheduler.evictor import Evictor
from scheduler.extenders import Extender, ExtenderFailed, Filtered
from scheduler.framework.plugin import Cycle, Happening, PostFilterPlugin, Rejected, Rescue
from scheduler.metrics import ATTEMPTS, DURATION, PENDING, PREEMPTION_ATTEMPTS, PREEMPTION_VICTIMS
from scheduler.pods import Pod
from scheduler.queue import Entry, SchedulingQueue, by_priority
from scheduler.reporter import Reporter
from scheduler.schedule_one import Chooser, Diagnosis, Unschedulable
from scheduler.table import NodeTable

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
_SLICE_SECONDS = 0.003
"""The loop is given back after so long, so that bindings and news go on."""
_MAX_UNBOUND = 4 * BINDINGS_AT_ONCE


class Scheduler:
    """Places the pods of its profiles' names on the nodes of one cluster."""

    def __init__(
        self,
        client: Client,
        binder: Binder,
        settings: SchedulerConfig,
        cluster: Cluster,
        extenders: Sequence[Extender] = (),
    ) -> None:
        self._extenders = extenders
        self._client = client
        self._binder = binder
        profiles = self.profiles = {one.name: one for one in settings.profiles}
        self.cluster = cluster
        cluster.background, cluster.tell = self._spawn, self._tell
        self.table = NodeTable()
        self.choosers = {name: Chooser(self.table, profile, cluster) for name, profile in profiles.items()}
        any_profile = settings.profiles[0]
        sorter = next((one for one in any_profile.plugins if "sort_key" in type(one).__dict__), None)
        self.queue = SchedulingQueue(
            sorter.sort_key if sorter else by_priority,
            self._gate,
            first_backoff_seconds=settings.first_backoff_seconds,
            max_backoff_seconds=settings.max_backoff_seconds,
        )
        self._reporter = Reporter(client, profiles)
        self._news = asyncio.Event()
        self._happenings = 0  # how much has happened that could help a pod
        self._assumed: dict[str, tuple[Pod, str]] = {}  # uid: the pod, and the node it is counted on
        self._evictor = Evictor(client)
        self._groups: dict[tuple[str, str], set[str]] = {}  # uids of the pods of each group
        self._placed_members: set[str] = set()  # uids of those that the API says have a node
        self._waiting: dict[str, asyncio.Future[None]] = {}  # by uid: pods that have a place and wait for leave
        for profile in settings.profiles:
            for plugin in profile.plugins:
                plugin.attach(self)
        self._preempting: set[str] = set()  # uids of pods for which others are being deleted
        self._tasks: set[asyncio.Task[Any]] = set()

    def _gate(self, pod: Pod) -> str:
        return self.profiles[pod.scheduler].gated(pod)

    # ---- what plugins may ask

    def group(self, pod: Pod) -> Mapping[str, bool]:
        """See Handle."""
        members = self._groups.get((pod.key.namespace, pod.group), ())
        return {uid: uid in self._assumed or uid in self._placed_members for uid in members}

    def allow(self, uid: str) -> None:
        """See Handle."""
        waiting = self._waiting.get(uid)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def reject(self, uid: str, why: Rejected) -> None:
        """See Handle."""
        waiting = self._waiting.get(uid)
        if waiting is not None and not waiting.done():
            waiting.set_exception(why)

    def find(self, key: ObjectKey) -> Pod | None:
        """Return a pod that waits or is placed."""
        entry = self.queue.get(key)
        if entry is not None:
            return entry.pod
        return next((pod for node in self.table.nodes for pod in node.pods.values() if pod.key == key), None)

    def _note_group(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        if pod is None or not pod.group:
            return
        members = self._groups.setdefault((pod.key.namespace, pod.group), set())
        if new is None or new.done:
            members.discard(pod.uid)
            self._placed_members.discard(pod.uid)
            if not members:
                del self._groups[pod.key.namespace, pod.group]
            return
        known = len(members)
        members.add(new.uid)
        if new.node:
            self._placed_members.add(new.uid)
        if len(members) > known:
            self.queue.reopen()

    # ---- news

    def on_node(self, old: Object | None, new: Object | None) -> None:
        """Take a change of a node."""
        if new is None:
            if old is not None:
                self.table.remove_node(old["metadata"]["name"])
                self._happened(Happening("Node", "delete", old))
            return
        if self.table.put_node(new):
            row = self.table.by_name[new["metadata"]["name"]].row
            self._happened(Happening("Node", "add" if old is None else "update", old, new, row))

    def on_pod(self, old: Pod | None, new: Pod | None) -> None:
        """Take a change of a pod."""
        self._note_group(old, new)
        if new is None:
            if old is not None:
                self._forget(old)
        elif new.done:
            self._forget(new)
        elif new.node:
            self._count(old, new)
        elif new.scheduler not in self.profiles or new.deleting:
            self.queue.remove(new.key)
            self._nominate(new, "")
        elif new.uid not in self._assumed:
            self._keep_nomination(old, new)
            self.queue.put(new)
            self._news.set()

    def on_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Take a change of a namespace."""
        if self.table.tallies.set_namespace(name, labels):
            self._happened(Happening("Namespace", "update", None, name))

    def on_other(self, kind: str, old: Object | None, new: Object | None) -> None:
        """Take a change of an object that some plugin looks at."""
        if kind in ("Service", "ReplicaSet", "StatefulSet", "ReplicationController"):
            self.cluster.version += 1
        if kind == "DeviceClass":
            self.table.set_device_resources(classes_by_resource(self.cluster.device_classes()))
        self.cluster.changed()
        action = "delete" if new is None else "add" if old is None else "update"
        self._happened(Happening(kind, action, old, new))

    def _keep_nomination(self, old: Pod | None, new: Pod) -> None:
        """What the API says of a nomination counts when it changes; else what we decided and it has not heard yet."""
        known = self.table.nominated.get(new.uid)
        if new.nominated != (old.nominated if old is not None else ""):
            self._nominate(new, new.nominated)
        elif known is not None:
            self._nominate(new, self.table.nodes[known[1]].name)

    def _nominate(self, pod: Pod, node: str) -> None:
        known = self.table.nominated.get(pod.uid)
        if node or known is not None:
            self.table.nominate(pod, node)

    def _count(self, old: Pod | None, new: Pod) -> None:
        assumed = self._assumed.pop(new.uid, None)
        before = assumed[1] if assumed is not None else old.node if old is not None else ""
        if before and before != new.node:
            self.table.remove_pod(before, new.uid)
        self.table.put_pod(new, new.node)
        if assumed is not None:
            return
        self.queue.remove(new.key)
        self._nominate(new, "")
        if self.queue.has_aside:
            action = "update" if old is not None and old.node else "add"
            self._happened(Happening("AssignedPod", action, old, new, self.table.by_name[new.node].row))
        else:
            self._happenings += 1

    def _forget(self, pod: Pod) -> None:
        """A pod is gone, or done: its place is free."""
        assumed = self._assumed.pop(pod.uid, None)
        node = assumed[1] if assumed is not None else pod.node
        self.queue.remove(pod.key)
        self._nominate(pod, "")
        if node and (there := self.table.by_name.get(node)) is not None:
            row = there.row
            if self.table.remove_pod(node, pod.uid) is not None:
                self._happened(Happening("AssignedPod", "delete", pod, None, row))

    def _happened(self, happening: Happening) -> None:
        self._happenings += 1
        if self.queue.has_aside:

            def helps(pod: Pod, plugins: frozenset[str]) -> bool:
                chosen = self.profiles[pod.scheduler].named(plugins)
                return any(one.helped_by(happening, pod, self.table) for one in chosen)

            self.queue.happened(helps, asyncio.get_running_loop().time())
        self._news.set()

    # ---- placing

    async def place(self) -> None:
        """Place pods until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            until = loop.time() + _SLICE_SECONDS
            found = True
            while found and self._binder.pending < _MAX_UNBOUND and loop.time() < until:
                entry = self.queue.pop(loop.time())
                found = entry is not None
                if entry is not None and any(one.is_interested(entry.pod) for one in self._extenders):
                    await self._place_with_extenders(entry)
                elif entry is not None:
                    self._place_one(entry)
            if found:
                await asyncio.sleep(0 if self._binder.pending < _MAX_UNBOUND else 0.001)
                continue
            for state, number in self.queue.counts().items():
                PENDING.set(number, state)
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self.queue.next_time()):
                    await self._news.wait()

    def _place_one(self, entry: Entry) -> None:
        pod = entry.pod
        chooser = self.choosers[pod.scheduler]
        cycle = chooser.cycle(pod)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            row = chooser.choose_in(cycle)
        except Unschedulable as error:
            DURATION.observe(loop.time() - began)
            self._rejected(entry, cycle, error.diagnosis)
            return
        except Exception:
            log.exception("placing %s", pod.key)
            self._failed(entry, pod)
            return
        DURATION.observe(loop.time() - began)
        self._assume(entry, cycle, row)

    async def _place_with_extenders(self, entry: Entry) -> None:
        """As `_place_one`, but others are asked, too; the cluster may change meanwhile: the choice is checked again."""
        pod = entry.pod
        chooser = self.choosers[pod.scheduler]
        cycle = chooser.cycle(pod)
        asked, happenings = [one for one in self._extenders if one.is_interested(pod)], self._happenings
        try:
            obj = await self._client.get(PODS, pod.key.name, pod.key.namespace)
            names = list[str]()
            for own_first in (True, False) if pod.uid in self.table.nominated else (False,):
                rows = chooser.passed_rows(cycle, own_first=own_first)
                names, failed, hopeless = self.table.names(rows.tolist()), dict[str, str](), dict[str, str]()
                for one in asked:
                    names, *more = await self._filtered(one, obj, names)
                    failed, hopeless = failed | more[0], hopeless | more[1]
                if names:
                    break
            else:
                raise Unschedulable(chooser.diagnosis_of(cycle, failed, hopeless))
            scores = dict(zip(self.table.names(rows.tolist()), chooser.scores(cycle, rows).tolist(), strict=True))
            for one in asked:
                for name, score in (await self._prioritized(one, obj, names)).items():
                    scores[name] = scores.get(name, 0) + score
        except Unschedulable as error:
            await self._rejected_asking(entry, cycle, error.diagnosis, asked, happenings)
            return
        except NotFound:
            self.queue.remove(pod.key)
            return
        except (APIError, ConnectionFailed, ExtenderFailed) as error:
            self._report(pod, str(error), None)
            self._failed(entry, pod)
            return
        best = max(names, key=lambda name: scores.get(name, 0))
        node = self.table.by_name.get(best)
        if node is None or self.queue.get(pod.key) is not entry or not chooser.still_passes_on(cycle, node.row):
            self._failed(entry, pod)
            return
        self._assume(entry, cycle, node.row)

    async def _filtered(self, one: Extender, obj: Object, names: list[str]) -> Filtered:
        try:
            return await one.filter(obj, names)
        except ExtenderFailed as error:
            if not one.ignorable:
                raise
            log.warning("%s", error)
            return Filtered(names, {}, {})

    async def _prioritized(self, one: Extender, obj: Object, names: list[str]) -> dict[str, int]:
        try:
            return await one.prioritize(obj, names)
        except ExtenderFailed as error:
            log.warning("%s", error)  # scores are a matter of taste: as upstream, go on without
            return {}

    def _assume(self, entry: Entry, cycle: Cycle, row: int) -> None:
        pod, profile = entry.pod, self.profiles[entry.pod.scheduler]
        node = self.table.nodes[row]
        self._assumed[pod.uid] = (pod, node.name)
        self.table.put_pod(pod, node.name)
        self._nominate(pod, "")
        waits = False
        if profile.reserves or profile.permits or profile.pre_binds:
            try:
                for plugin in profile.reserves:
                    plugin.reserve(cycle, node)
                patience = max((plugin.permit(cycle, node) for plugin in profile.permits), default=0.0)
            except Rejected as error:
                self._give_up(entry, cycle, node.name, str(error))
                return
            if patience > 0:  # from this moment others may allow it
                self._waiting[pod.uid] = asyncio.get_running_loop().create_future()
            waits = patience > 0 or any(one.needs_pre_bind(cycle) for one in profile.pre_binds)
        if waits:
            self._spawn(self._bind_later(entry, cycle, node.name, patience))
        else:
            self._bind(entry, cycle, node.name)

    async def _bind_later(self, entry: Entry, cycle: Cycle, node: str, patience: float) -> None:
        profile = self.profiles[entry.pod.scheduler]
        self._report(entry.pod, "", node)  # where it is expected to go, should that take a while
        try:
            if patience > 0:
                await self._leave_to_bind(entry.pod, patience)
            for plugin in profile.pre_binds:
                if plugin.needs_pre_bind(cycle):
                    await plugin.pre_bind(cycle, self.table.by_name[node])
        except (Rejected, APIError, ConnectionFailed, TimeoutError) as error:
            self._give_up(entry, cycle, node, str(error))
        except Exception as error:
            log.exception("preparing %s for %s", entry.pod.key, node)
            self._give_up(entry, cycle, node, f"running PreBind plugin: {error!r}")
        else:
            self._bind(entry, cycle, node)

    async def _leave_to_bind(self, pod: Pod, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._waiting[pod.uid]
        except TimeoutError:
            raise Rejected(f"rejected due to timeout after waiting {patience:g}s at plugin PodGroup") from None
        finally:
            del self._waiting[pod.uid]

    async def _bind_by(self, binding: Coroutine[Any, Any, None], entry: Entry, cycle: Cycle, node: str) -> None:
        try:
            await binding
        except (ExtenderFailed, Rejected, APIError, ConnectionFailed) as error:
            self._give_up(entry, cycle, node, str(error))
        else:
            self._bound(entry, cycle, node)

    def _bind(self, entry: Entry, cycle: Cycle, node: str) -> None:
        binder = next((one for one in self.profiles[entry.pod.scheduler].binds if one.binds(cycle)), None)
        if binder is not None:
            self._spawn(self._bind_by(binder.bind(cycle, self.table.by_name[node]), entry, cycle, node))
            return
        for extender in self._extenders:
            if extender.binds and extender.is_interested(entry.pod):
                self._spawn(self._bind_by(extender.bind(entry.pod, node), entry, cycle, node))
                return

        def answered(status: int, body: bytes) -> None:
            if status == 201 or status == 200:
                self._bound(entry, cycle, node)
            elif status == 0:
                self._spawn(self._find_out(entry, cycle, node))
            else:
                self._refused(entry, cycle, node, status, body)

        self._binder.bind(entry.pod, node, answered)

    def _bound(self, entry: Entry, cycle: Cycle, node: str) -> None:
        pod = entry.pod
        ATTEMPTS.add("scheduled", pod.scheduler)
        self.queue.remove(pod.key)
        self._binder.say_scheduled(pod, node)
        there = self.table.by_name.get(node)
        if there is not None:
            for plugin in self.profiles[pod.scheduler].post_binds:
                plugin.post_bind(cycle, there)

    def _refused(self, entry: Entry, cycle: Cycle, node: str, status: int, body: bytes) -> None:
        pod = entry.pod
        self._unassume(entry, cycle, node)
        if status == 404 or status == 409:  # gone, or placed by another: the API tells which
            self.queue.back_off(entry, asyncio.get_running_loop().time())
            return
        log.warning("binding %s to %s: %d %s", pod.key, node, status, body[:300].decode(errors="replace"))
        self._failed(entry, pod)

    async def _find_out(self, entry: Entry, cycle: Cycle, node: str) -> None:
        """The answer to a binding was lost: the pod stays assumed until the API says what became of it."""
        pod = entry.pod
        pause = 0.1
        while pod.uid in self._assumed:
            try:
                found = await self._client.get(PODS, pod.key.name, pod.key.namespace)
            except NotFound:
                break
            except (APIError, ConnectionFailed):
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
                continue
            if found["metadata"]["uid"] != pod.uid or found["spec"].get("nodeName", "") == "":
                break
            self._bound(entry, cycle, node)
            return
        if pod.uid in self._assumed:
            self._unassume(entry, cycle, node)
            self._failed(entry, pod)

    def _unassume(self, entry: Entry, cycle: Cycle, node: str) -> None:
        pod = entry.pod
        for plugin in self.profiles[pod.scheduler].reserves:
            plugin.unreserve(cycle, self.table.nodes[self.table.by_name[node].row])
        if self._assumed.pop(pod.uid, None) is not None:
            row = self.table.by_name[node].row
            self.table.remove_pod(node, pod.uid)
            self._happened(Happening("AssignedPod", "delete", pod, None, row))

    def _give_up(self, entry: Entry, cycle: Cycle, node: str, why: str) -> None:
        """A plugin refused after the node was chosen."""
        self._unassume(entry, cycle, node)
        log.info("%s was not bound to %s: %s", entry.pod.key, node, why)
        self._report(entry.pod, why, "" if entry.pod.nominated == node else None)
        self._failed(entry, entry.pod)

    def _failed(self, entry: Entry, pod: Pod) -> None:
        ATTEMPTS.add("error", pod.scheduler)
        self.queue.back_off(entry, asyncio.get_running_loop().time())
        self._news.set()

    # ---- what does not fit

    def _rejected(self, entry: Entry, cycle: Cycle, diagnosis: Diagnosis) -> None:
        nominated = self._carry_out(entry.pod, [one for _, one in self._rescues(cycle, diagnosis)], diagnosis)
        self._put_aside(entry, diagnosis, nominated)

    async def _rejected_asking(
        self, entry: Entry, cycle: Cycle, diagnosis: Diagnosis, asked: Sequence[Extender], happenings: int
    ) -> None:
        """As `_rejected`, but others have a say in who has to go; `happenings`: what had happened when all began."""
        pod, rescues = cycle.pod, list[Rescue]()
        for plugin, rescue in self._rescues(cycle, diagnosis):
            rescues.append(await self._agreed(plugin, rescue, pod, asked))
        if self.queue.get(pod.key) is not entry:
            return
        nothing_new = self._happenings == happenings and entry.pod is pod
        nominated = self._carry_out(entry.pod, rescues, diagnosis)
        if nothing_new:
            self._put_aside(entry, diagnosis, nominated)
            return
        # What happened while others were asked may have been what the pod waits for.
        self._report(pod, str(diagnosis), nominated)
        self._failed(entry, pod)

    def _rescues(self, cycle: Cycle, diagnosis: Diagnosis) -> Iterator[tuple[PostFilterPlugin, Rescue]]:
        """Yield what plugins say could make room, up to the first that names a node."""
        pod = cycle.pod
        if not diagnosis.nodes or not len(diagnosis.resolvable) or pod.uid in self._preempting:
            return
        for plugin in self.profiles[pod.scheduler].post_filters:
            rescue = plugin.post_filter(cycle, diagnosis.resolvable)
            yield plugin, rescue
            if rescue.node:
                return

    async def _agreed(self, plugin: PostFilterPlugin, rescue: Rescue, pod: Pod, asked: Sequence[Extender]) -> Rescue:
        """Return what is left of a rescue when the extenders that have a say in it have been asked."""
        options, saying = rescue.options, [one for one in asked if one.preempts]
        if not options or not saying:
            return rescue
        try:
            obj = await self._client.get(PODS, pod.key.name, pod.key.namespace)
            for one in saying:
                try:
                    options = await one.preempt(obj, options, self.table)
                except ExtenderFailed as error:
                    if not one.ignorable:
                        raise
                    log.warning("%s", error)
                if not options:
                    return Rescue("preemption: no candidate node for preemption")
        except (APIError, ConnectionFailed, ExtenderFailed) as error:
            return Rescue(f"preemption: {error}")
        best = plugin.choose(options)
        return replace(rescue, node=best, victims=options[best].pods)

    def _carry_out(self, pod: Pod, rescues: Iterable[Rescue], diagnosis: Diagnosis) -> str | None:
        """Preempt as the last of these says, if it names a node; returns the new nomination, if there is one."""
        nominated, texts = None, list[str]()
        for rescue in rescues:
            if rescue.node and rescue.node not in self.table.by_name:  # it left while extenders were asked
                continue
            if rescue.node is not None:
                nominated = rescue.node
                self._nominate(pod, rescue.node)
            if rescue.node:
                texts = []
                self._preempt(pod, rescue)
            texts += [rescue.text] if rescue.text else []
        diagnosis.post_filter = ", ".join(texts)
        return nominated

    def _put_aside(self, entry: Entry, diagnosis: Diagnosis, nominated: str | None) -> None:
        ATTEMPTS.add("unschedulable", entry.pod.scheduler)
        self.queue.put_aside(entry, frozenset(diagnosis.plugins), asyncio.get_running_loop().time())
        self._report(entry.pod, str(diagnosis), nominated)

    def _preempt(self, pod: Pod, rescue: Rescue) -> None:
        PREEMPTION_ATTEMPTS.add()
        PREEMPTION_VICTIMS.observe(len(rescue.victims))
        node = self.table.by_name[rescue.node or ""]
        displaced = [one for one in self.table.nominated_on.get(node.row, {}).values() if one.priority < pod.priority]
        for one in displaced:  # their place is taken; they may find another
            self._nominate(one, "")
            self.queue.wake(one.key)
            self._report(one, one.condition, "")
        self._preempting.add(pod.uid)
        self._spawn(self._evict(pod, rescue))

    async def _evict(self, pod: Pod, rescue: Rescue) -> None:
        try:
            await self._evictor.evict(rescue.victims, pod, rescue.node or "", self._reporter.recorders[pod.scheduler])
        except (APIError, ConnectionFailed) as error:
            log.warning("preempting on %s for %s: %s", rescue.node, pod.key, error)
        finally:
            self._preempting.discard(pod.uid)
            if not any(self._is_there(victim) for victim in rescue.victims):
                self.queue.wake(pod.key)  # they went before we were done, and nothing more will happen
                self._news.set()

    def _is_there(self, pod: Pod) -> bool:
        node = self.table.by_name.get(pod.node)
        return node is not None and pod.uid in node.pods

    def _tell(self, pod: Pod, kind: EventType, reason: str, text: str) -> None:
        self._spawn(self._reporter.tell(pod, kind, reason, text))

    def _report(self, pod: Pod, text: str, nominated: str | None) -> None:
        self._spawn(self._reporter.report(pod, text, nominated))

    async def stop(self) -> None:
        """End what is under way beside the placing."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
