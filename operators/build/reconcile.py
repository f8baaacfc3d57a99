"""One step from what is to what a Build asks; safe to take at any time and any number of times."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from machinery.api.meta import ObjectKey, now, parse_time
from machinery.api.resources import CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, PODS
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, NotFound
from operators.build.pods import (
    BUILDS,
    Object,
    cache_name,
    claim_of,
    inputs,
    is_over,
    log_end,
    outcome,
    pod_name,
    pod_of,
    selector,
)  # fmt: skip

_KEPT_PODS = 3
_LOG_BYTES = 4096
_CONDITION = "Succeeded"


async def reconcile(client: Client, key: ObjectKey) -> float | None:
    """Start a run where one is due, tell how the last one stands; returns when to look again, in seconds.

    Raises: APIError.
    """
    try:
        build = await client.get(BUILDS, key.name, key.namespace)
    except NotFound:
        return None  # its pods are the garbage collector's
    if build["metadata"].get("deletionTimestamp"):
        return None
    name = (build["spec"]["context"].get("configMap") or {}).get("name")
    try:
        context = await client.get(CONFIG_MAPS, name, key.namespace) if name else None
    except NotFound:
        await _tell(client, build, {}, ("False", "NoContext", f"configmap {name} is not there"))
        return None
    pods = await _pods(client, build)
    status = build.get("status") or {}
    run, last = int(status.get("run", 0)), pods[-1] if pods else None
    wanted = inputs(build, context)
    if last is not None and not is_over(last) and status.get("inputs") == wanted:
        await _show(client, build, last)
        return _remaining(build, status)
    if run and status.get("inputs") == wanted and not _is_due(build, status):
        if last is not None:
            await _show(client, build, last)
        elif present_condition(status).get("status") == "Unknown":  # noted and never begun, or its pod is gone
            await _begin(client, build, run)
        await _tidy(client, pods)
        return _remaining(build, status)
    await _start(client, build, run + 1, wanted, [pod for pod in pods if not is_over(pod)])
    return _remaining(build, {"startTime": now()})


async def _pods(client: Client, build: Mapping[str, Any]) -> list[Object]:
    """Return a Build's own pods, the oldest run first."""
    listed = await client.list(PODS, build["metadata"]["namespace"], label_selector=selector(build))
    uid = build["metadata"]["uid"]
    owned = [
        pod for pod in listed["items"]
        if any(one["uid"] == uid for one in pod["metadata"].get("ownerReferences") or ())
    ]  # fmt: skip
    return sorted(owned, key=lambda pod: int(pod["metadata"]["labels"]["wherry.dev/build-run"]))


def _every(build: Mapping[str, Any]) -> int:
    return int((build["spec"].get("triggers") or {}).get("everySeconds", 0))


def _passed(status: Mapping[str, Any]) -> float:
    return (datetime.now(UTC) - parse_time(status["startTime"])).total_seconds() if status.get("startTime") else 0.0


def _is_due(build: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    every = _every(build)
    return bool(every) and _passed(status) >= every


def _remaining(build: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
    every = _every(build)
    return max(every - _passed(status), 1.0) if every else None


async def _start(
    client: Client, build: Object, run: int, wanted: str, running: Sequence[Mapping[str, Any]]
) -> None:  # fmt: skip
    """End what is outdated and begin a run. The status comes first: a run that was noted is not begun twice."""
    for pod in running:
        await _delete(client, pod)
    fields = {"run": run, "inputs": wanted, "pod": pod_name(build, run), "startTime": now(), "log": ""}
    await _tell(client, build, fields, ("Unknown", "Starting", "the build's pod is not running yet"))
    await _begin(client, build, run)


async def _begin(client: Client, build: Object, run: int) -> None:
    if cache_name(build):
        with contextlib.suppress(AlreadyExists):
            await client.create(PERSISTENT_VOLUME_CLAIMS, claim_of(build), build["metadata"]["namespace"])
    try:
        await client.create(PODS, pod_of(build, run), build["metadata"]["namespace"])
    except AlreadyExists:
        return  # begun by one of us that was killed before it could tell


def present_condition(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the condition that says how the last run went; empty before the first."""
    return next((one for one in status.get("conditions") or () if one["type"] == _CONDITION), {})


async def _show(client: Client, build: Object, pod: Mapping[str, Any]) -> None:
    """Tell what a run has come to."""
    status, reason, message, digest = outcome(pod)
    fields: Object = {"log": log_end(pod)[-_LOG_BYTES:]}
    if digest:
        fields["digest"] = digest
    await _tell(client, build, fields, (status, reason, message))


async def _tidy(client: Client, pods: Sequence[Mapping[str, Any]]) -> None:
    """Delete the pods of runs long past; the last ones stay for their logs."""
    for pod in [pod for pod in pods if is_over(pod)][:-_KEPT_PODS]:
        await _delete(client, pod)


async def _delete(client: Client, pod: Mapping[str, Any]) -> None:
    try:
        await client.delete(
            PODS, pod["metadata"]["name"], pod["metadata"]["namespace"], options={"gracePeriodSeconds": 0}
        )  # fmt: skip
    except NotFound:
        return


async def _tell(client: Client, build: Object, fields: Object, said: tuple[str, str, str]) -> None:
    """Write the status where it differs."""
    before = build.get("status") or {}
    present = present_condition(before)
    status, reason, message = said
    changed = now() if present.get("status") != status else present["lastTransitionTime"]
    condition = {
        "type": _CONDITION, "status": status, "reason": reason, "message": message, "lastTransitionTime": changed,
    }  # fmt: skip
    wanted = {**fields, "conditions": [condition], "observedGeneration": build["metadata"]["generation"]}
    if any(before.get(name) != value for name, value in wanted.items()):
        meta = build["metadata"]
        await client.patch(BUILDS, meta["name"], {"status": wanted}, meta["namespace"], subresource="status")
        build["status"] = {**before, **wanted}
