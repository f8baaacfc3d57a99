"""What everything that works on one pod shares: the pod, what is seen and remembered of it, and a voice for events."""

import asyncio
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from agent import container_config
from agent.environment import ConfigError
from agent.node_services import NodeServices
from agent.pod_files import dns_config, hostname
from agent.pod_state import Memory, Pod, Seen, Spec, all_specs, is_static
from agent.volumes.sources import FileSources


class PodContext:
    """One pod on this node."""

    def __init__(self, node: NodeServices, pod: Pod) -> None:
        self.node = node
        self.desired: Pod = pod  # as the API tells it
        self.pod: Pod = node.resizes.as_granted(pod)  # with the resources it was granted
        self.uid: str = pod["metadata"]["uid"]
        self.memory = Memory()
        self.seen = Seen()
        self.changed = asyncio.Event()
        self.is_static = is_static(pod)
        self.mirror: Pod | None = None  # the pod of the API that shows a static one
        self._tasks: set[asyncio.Task[None]] = set()

    def update(self, pod: Pod) -> None:
        """Take a newer version of the pod from the API."""
        images = {spec["name"]: spec.get("image") for _, spec in all_specs(self.desired)}
        for _, spec in all_specs(pod):
            if images.get(spec["name"]) != spec.get("image"):
                self._begin_anew(spec["name"])
        self.desired = pod
        self.pod = self.node.resizes.as_granted(pod)
        self.changed.set()

    @property
    def shown(self) -> Pod | None:
        """The pod of the API that tells of this one; None where there is none yet."""
        return self.mirror if self.is_static else self.pod

    def keep_status(self, status: Mapping[str, Any]) -> None:
        """Keep a static pod's status here: nobody else tells it."""
        conditions = [one for one in status.get("conditions") or () if "$patch" not in one]
        self.desired = {**self.desired, "status": {**status, "conditions": conditions}}
        self.pod = self.node.resizes.as_granted(self.desired)
        self.node.keep_pod(self.desired)

    def _begin_anew(self, name: str) -> None:
        """A container got another image: what went wrong with the old one counts no more."""
        memory, last = self.memory, self.seen.newest(name)
        for known in (memory.waiting, memory.not_before, memory.failures):
            known.pop(name, None)
        if last is not None:
            memory.crashes[name] = (last.attempt, 0)

    @property
    def name(self) -> str:
        """Namespace and name, for the log."""
        metadata = self.pod["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}"

    @property
    def folder(self) -> Path:
        """Where the pod's files lie."""
        return self.node.volumes.folder(self.uid)

    @property
    def host(self) -> str:
        """The address at which the pod's ports are reached from this node."""
        return self.node.config.node_ip if self.pod["spec"].get("hostNetwork") else self.seen.ip

    def wake(self) -> None:
        """Something may have changed: look again."""
        self.changed.set()

    def spec(self, name: str) -> Spec:
        """Return a container's spec. Raises: StopIteration for a name the pod has not."""
        return next(spec for _, spec in all_specs(self.pod) if spec["name"] == name)

    def sandbox_config(self, attempt: int) -> Any:
        """Return the sandbox as the runtime is to make it."""
        config = self.node.config
        dns = dns_config(self.pod, config.settings.cluster_dns, config.settings.cluster_domain)
        return container_config.sandbox_config(
            self.pod,
            attempt,
            config.logs_dir,
            dns,
            hostname=hostname(self.pod, config.settings.cluster_domain),
            seccomp_root=config.seccomp_dir,
            id_base=self.id_base(),
        )

    def id_base(self) -> int:
        """Return the first host id of the pod's user namespace; 0 where it has none."""
        return self.node.ids.base(self.uid) if self.pod["spec"].get("hostUsers") is False else 0

    def facts(self) -> dict[str, Any]:
        """Return what the downward API can tell beside the pod's own fields."""
        config = self.node.config
        ip = config.node_ip if self.pod["spec"].get("hostNetwork") else self.seen.ip
        return {"host_ip": config.node_ip, "pod_ip": ip, "allocatable": self.node.allocatable}

    def sources(self) -> FileSources:
        """Return where the files of the pod's volumes come from."""
        return FileSources(self.pod, self.fetch, self.token, self.facts(), self.node.objects.trust_bundles)

    async def fetch(self, plural: str, name: str) -> Mapping[str, Any]:
        """Return a ConfigMap or Secret of the pod's namespace. Raises: NotFound."""
        return await self.node.objects.get(plural, self.pod["metadata"]["namespace"], name, user=self.uid)

    async def fetch_once(self, plural: str, name: str) -> Mapping[str, Any]:
        """Return a ConfigMap or Secret whose later changes don't matter to the pod. Raises: NotFound."""
        return await self.node.objects.get(plural, self.pod["metadata"]["namespace"], name)

    async def from_file(self, reference: Mapping[str, Any]) -> str | None:
        """Return a variable that another container wrote to a file; None for an optional one. Raises: ConfigError."""
        from agent import env_files

        volume = next(one for one in self.pod["spec"]["volumes"] if one["name"] == reference["volumeName"])
        path, key = reference["path"], reference["key"]
        text = await asyncio.to_thread(env_files.read_beneath, self.node.volumes.path(self.pod, volume), path)
        found = env_files.parse(text) if text is not None else {}
        if key in found or reference.get("optional"):
            return found.get(key)
        why = f'file "{path}" not found' if text is None else f'key "{key}" not found in file "{path}"'
        raise ConfigError(f"couldn't get environment variable from volume {volume['name']}: {why}")

    async def token(self, source: Mapping[str, Any]) -> str:
        """Return a service account token for the pod. Raises: APIError."""
        return await self.node.tokens.get(self.pod, source)

    def event(self, type_: str, reason: str, message: str) -> None:
        """Tell users of the pod."""
        self.spawn(self.node.recorder.event(self.pod, type_, reason, message))  # type: ignore[arg-type]

    def event_on(self, spec: Spec, type_: str, reason: str, message: str) -> None:
        """Tell users of one container; the event names it by its field path."""
        metadata = self.pod["metadata"]
        field = next((group for group, one in all_specs(self.pod) if one["name"] == spec["name"]), "containers")
        reference = {
            "kind": "Pod", "apiVersion": "v1", "namespace": metadata["namespace"], "name": metadata["name"],
            "uid": self.uid, "resourceVersion": metadata.get("resourceVersion", ""),
            "fieldPath": f"spec.{field}{{{spec['name']}}}",
        }  # fmt: skip
        self.spawn(self.node.recorder.event(reference, type_, reason, message))  # type: ignore[arg-type]

    def spawn(self, work: Awaitable[None]) -> "asyncio.Task[None]":
        """Have something done beside; it ends with the pod."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End what was spawned."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
