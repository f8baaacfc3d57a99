"""One step from what is to what a Compose object asks; safe to take at any time and any number of times."""

from collections.abc import Mapping
from typing import Any

from machinery.api.meta import ObjectKey, now
from machinery.api.resources import CONFIG_MAPS, JOBS
from machinery.client.rest import Client, PatchType
from machinery.compose.values import ComposeError
from machinery.errors import Invalid, NotFound
from operators.compose.project import COMPOSES, KINDS, OWNER, Object, Part, is_met, parts_of

_MANAGER = "wherry-compose-operator"
_Known = dict[tuple[str, str], Object]


async def reconcile(client: Client, key: ObjectKey) -> None:
    """Bring a project's objects to what it asks, and tell in its status how it stands. Raises: APIError."""
    try:
        owner = await client.get(COMPOSES, key.name, key.namespace)
    except NotFound:
        return  # what it owned is the garbage collector's
    if owner["metadata"].get("deletionTimestamp"):
        return
    try:
        text, source = await _text(client, owner)
        parts = parts_of(owner, text, source)
        known = await _known(client, key)
        for obj in (obj for part in parts for obj in part.objects):
            await _refuse_others(client, owner, obj, known)
    except ComposeError as error:
        # What ran goes on: a slip of the pen is no reason to take a project down.
        await _tell(client, owner, _condition("Accepted", "False", "Invalid", str(error)), None)
        return
    waiting = [part.name for part in parts if not await _bring(client, part, known)]
    await _remove(client, parts, known)
    ready = _readiness(parts, known, waiting)
    await _tell(client, owner, _condition("Accepted", "True", "Converted", "the project is valid"), ready)


async def _text(client: Client, owner: Mapping[str, Any]) -> tuple[str, str]:
    """Return the project's file and what mistakes call it. Raises: ComposeError."""
    if reference := owner["spec"].get("configMap"):
        name, item = reference["name"], reference.get("key", "compose.yaml")
        source = f"configmap/{name}/{item}"
        try:
            return (await client.get(CONFIG_MAPS, name, owner["metadata"]["namespace"]))["data"][item], source
        except (NotFound, KeyError) as error:
            raise ComposeError(f"{source}: not found") from error
    return owner["spec"]["project"], "spec.project"


async def _known(client: Client, key: ObjectKey) -> _Known:
    found: _Known = {}
    for kind, resource in KINDS.items():
        listed = await client.list(resource, key.namespace, label_selector=f"{OWNER}={key.name}")
        found |= {(kind, one["metadata"]["name"]): {**one, "kind": kind} for one in listed["items"]}
    return found


async def _refuse_others(client: Client, owner: Mapping[str, Any], obj: Object, known: _Known) -> None:
    """Refuse to take what somebody else made. Raises: ComposeError."""
    kind, meta = obj["kind"], obj["metadata"]
    there = known.get((kind, meta["name"]))
    if there is None:
        try:
            there = await client.get(KINDS[kind], meta["name"], meta["namespace"])
        except NotFound:
            return
    if all(one["uid"] != owner["metadata"]["uid"] for one in there["metadata"].get("ownerReferences") or ()):
        raise ComposeError(f"{kind} {meta['name']} is there already and is not this project's")


async def _bring(client: Client, part: Part, known: _Known) -> bool:
    """Apply a part's objects; a new service waits for those it depends on. Returns False when it does."""
    is_new = bool(part.name) and not any((kind, part.name) in known for kind in ("Deployment", "Job"))
    if is_new and not all(is_met(_workload(known, name), wanted) for name, wanted in part.waits_for.items()):
        return False
    for obj in part.objects:
        known[obj["kind"], obj["metadata"]["name"]] = await _apply(client, obj)
    return True


async def _apply(client: Client, obj: Object) -> Object:
    resource, meta = KINDS[obj["kind"]], obj["metadata"]

    async def once() -> Object:
        return await client.patch(
            resource, meta["name"], obj, meta["namespace"], type=PatchType.APPLY,
            params={"fieldManager": _MANAGER, "force": "true"},
        )  # fmt: skip

    try:
        return await once()
    except Invalid:
        if resource is not JOBS:
            raise
        # A job's template can't be changed: it is made anew.
        await client.delete(JOBS, meta["name"], meta["namespace"], options={"propagationPolicy": "Background"})
        return await once()


def _workload(known: _Known, name: str) -> Object | None:
    return known.get(("Deployment", name)) or known.get(("Job", name))


async def _remove(client: Client, parts: list[Part], known: _Known) -> None:
    """Delete what the project no longer has; claims stay with their data until the project itself goes."""
    wanted = {(obj["kind"], obj["metadata"]["name"]) for part in parts for obj in part.objects}
    for kind, name in set(known) - wanted:
        if kind == "PersistentVolumeClaim":
            continue
        namespace = known.pop((kind, name))["metadata"]["namespace"]
        try:
            await client.delete(KINDS[kind], name, namespace, options={"propagationPolicy": "Background"})
        except NotFound:
            continue


def _readiness(parts: list[Part], known: _Known, waiting: list[str]) -> Object:
    names = [part.name for part in parts if part.name]
    unready = [name for name in names if name not in waiting and not is_met(_workload(known, name), "service_healthy")]
    if not waiting and not unready:
        return _condition("Ready", "True", "AllReady", f"{len(names)} of {len(names)} services are ready")
    told = [f"not ready: {', '.join(unready)}"] if unready else []
    told += [f"waiting for what they depend on: {', '.join(waiting)}"] if waiting else []
    return _condition("Ready", "False", "ServicesNotReady", "; ".join(told))


def _condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


async def _tell(client: Client, owner: Mapping[str, Any], accepted: Object, ready: Object | None) -> None:
    """Write the conditions where they differ; None leaves Ready as it is."""
    status = owner.get("status") or {}
    present = {one["type"]: one for one in status.get("conditions") or ()}
    found = []
    for one in (accepted, ready or present.get("Ready")):
        if one is not None:
            before = present.get(one["type"], {})
            same = before.get("status") == one["status"]
            found.append({**one, "lastTransitionTime": before["lastTransitionTime"] if same else now()})
    wanted = {"conditions": found, "observedGeneration": owner["metadata"]["generation"]}
    if any(status.get(name) != value for name, value in wanted.items()):
        meta = owner["metadata"]
        await client.patch(COMPOSES, meta["name"], {"status": wanted}, meta["namespace"], subresource="status")
