"""Notes requests as a policy asks; events are encoded and written in batches, apart from the requests themselves.

Source: https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
"""

import asyncio
import contextlib
import functools
import logging
import random
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from apiserver.admission.audit_annotations import ONLY_WITH_BODIES
from apiserver.audit.policy import COMPLETE, LEVELS, NOTHING, RECEIVED, STARTED, AuditPolicy, Decision
from apiserver.audit.sinks import LogFile, Webhook
from apiserver.auth.user import User
from apiserver.request import AUDIT, RequestInfo

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.2
_REQUEST, _RESPONSE = LEVELS.index("Request"), LEVELS.index("RequestResponse")
_REASON = "authorization.k8s.io/reason"
_LONG = frozenset({"exec", "attach", "portforward", "proxy"})
_NAME = re.compile(rb'"name":"([^"\\]+)"')
_NAME_WITHIN = 400  # names come early in what the server encodes


@dataclass(slots=True)
class AuditSettings:
    """What is noted, and where."""

    policy: AuditPolicy
    log_path: str = ""
    log_max_megabytes: int = 100
    log_max_age_days: int = 0
    log_max_backups: int = 0
    webhook_file: Path | None = None
    webhook_max_batch: int = 400
    webhook_max_wait_seconds: float = 30.0


@dataclass(slots=True)
class Record:
    """One request as it is noted."""

    http: Any
    received: float  # Unix seconds
    audit_id: str
    decision: Decision = NOTHING
    info: RequestInfo | None = None
    user: User | None = None
    as_user: User | None = None
    body: bytes = b""  # where the policy wants it
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def wants_body(self) -> bool:
        """Whether the request's body is noted."""
        return self.decision.level >= _REQUEST


class Auditor:
    """Takes records of requests to the sinks."""

    def __init__(self, settings: AuditSettings) -> None:
        self._policy = settings.policy
        self._events: list[tuple[Record, str, float, int, bytes | None]] = []
        self._file = None
        if settings.log_path:
            self._file = LogFile(
                settings.log_path, max_megabytes=settings.log_max_megabytes, max_age_days=settings.log_max_age_days,
                max_backups=settings.log_max_backups,
            )  # fmt: skip
        self._webhook = None
        if settings.webhook_file is not None:
            self._webhook = Webhook(
                settings.webhook_file, max_batch=settings.webhook_max_batch,
                max_wait_seconds=settings.webhook_max_wait_seconds,
            )  # fmt: skip

    def begin(self, http: Any) -> Record:
        """Return the record of a request that came in."""
        given = http.headers.get("Audit-ID", "")
        return Record(http, time.time(), given[:64] if given else f"{random.getrandbits(128):032x}")

    def identified(self, record: Record, info: RequestInfo, user: User, as_user: User) -> None:
        """Note who asks what; `as_user` is another where one acts for another."""
        decision = record.decision = self._policy.decide(user, info)
        record.info, record.user = info, user
        record.as_user = as_user if as_user is not user else None
        if not decision.level:
            return
        record.http[AUDIT] = record
        if RECEIVED not in decision.omitted:
            self._note(record, RECEIVED, 0, None)

    def allowed(self, record: Record, reason: str) -> None:
        """Note that the request may be served, and why; one that lasts has begun to be answered."""
        info = record.info
        if not record.decision.level or info is None:
            return
        record.annotations["authorization.k8s.io/decision"] = "allow"
        record.annotations[_REASON] = reason
        if (info.verb == "watch" or info.subresource in _LONG) and STARTED not in record.decision.omitted:
            self._note(record, STARTED, 200 if info.verb == "watch" else 101, None)

    def end(self, record: Record, response: web.StreamResponse | None) -> None:
        """Note what came of a request."""
        if record.info is None:  # nobody knows who asked
            record.decision = self._policy.decide(User(""), RequestInfo(record.http.method.lower(), record.http.path))
        if not record.decision.level or COMPLETE in record.decision.omitted:
            return
        code = response.status if response is not None else 499
        if code == 403:
            record.annotations.setdefault("authorization.k8s.io/decision", "forbid")
        body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else None
        if body is not None and response is not None and "Content-Encoding" in response.headers:
            body = None
        self._note(record, COMPLETE, code, body)

    def _note(self, record: Record, stage: str, code: int, body: bytes | None) -> None:
        self._events.append((record, stage, time.time(), code, body))

    async def run(self) -> None:
        """Write events until cancelled; then what is left."""
        posting = asyncio.create_task(self._webhook.run()) if self._webhook is not None else None
        try:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                await self._flush()
        finally:
            if posting is not None:
                posting.cancel()
                await asyncio.gather(posting, return_exceptions=True)
            self._write(self._taken())
            if self._webhook is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._webhook.flush()

    def _taken(self) -> list[bytes]:
        events, self._events = self._events, []
        return [_encoded(*event) for event in events]

    async def _flush(self) -> None:
        lines = self._taken()
        if lines:
            await asyncio.to_thread(self._write, lines)

    def _write(self, lines: list[bytes]) -> None:
        if self._webhook is not None:
            self._webhook.offer(lines)
        if self._file is not None and lines:
            try:
                self._file.write(b"\n".join(lines) + b"\n")
            except OSError as error:
                log.error("%d audit events are lost: %s", len(lines), error)


def _encoded(record: Record, stage: str, moment: float, code: int, body: bytes | None) -> bytes:
    """Return one event as JSON."""
    http, info, decision = record.http, record.info, record.decision
    event: dict[str, Any] = {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": LEVELS[decision.level], "auditID": record.audit_id,
        "stage": stage, "requestURI": http.path_qs, "verb": info.verb if info is not None else http.method.lower(),
        "user": _user(record.user), "sourceIPs": _sources(http), "userAgent": http.headers.get("User-Agent", ""),
    }  # fmt: skip
    if record.as_user is not None:
        event["impersonatedUser"] = _user(record.as_user)
    if info is not None and info.is_resource:
        event["objectRef"] = _reference(info, body if 200 <= code < 300 else None)
    if code:
        event["responseStatus"] = _status(code, body)
    if decision.level >= _REQUEST and stage != RECEIVED:
        if record.body:
            event["requestObject"] = _content(record.body, decision)
        if decision.level >= _RESPONSE and body:
            event["responseObject"] = _content(body, decision)
    event["requestReceivedTimestamp"], event["stageTimestamp"] = _micro(record.received), _micro(moment)
    if record.annotations:
        told = record.annotations
        if decision.level < _REQUEST:
            told = {key: value for key, value in told.items() if not key.startswith(ONLY_WITH_BODIES)}
        event["annotations"] = {_REASON: "", **told}
    return orjson.dumps(event)


def _user(user: User | None) -> dict[str, Any]:
    if user is None:
        return {}
    found: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        found["uid"] = user.uid
    if user.extra:
        found["extra"] = {key: list(values) for key, values in user.extra.items()}
    return found


def _sources(http: Any) -> list[str]:
    forwarded = [one.strip() for one in http.headers.get("X-Forwarded-For", "").split(",") if one.strip()]
    remote = http.remote
    return [*forwarded, remote] if remote and remote not in forwarded else forwarded


def _reference(info: RequestInfo, body: bytes | None) -> dict[str, str]:
    name = info.name
    if not name and info.verb == "create" and body and (match := _NAME.search(body, 0, _NAME_WITHIN)):
        name = match[1].decode(errors="replace")
    found = {
        "resource": info.resource, "namespace": info.namespace, "name": name, "apiGroup": info.group,
        "apiVersion": info.version, "subresource": info.subresource,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value}


def _status(code: int, body: bytes | None) -> dict[str, Any]:
    status: dict[str, Any] = {"metadata": {}, "code": code}
    if code >= 400 and body:
        with contextlib.suppress(ValueError):
            told = orjson.loads(body)
            status |= {key: told[key] for key in ("status", "message", "reason", "details") if key in told}
    return status


def _content(body: bytes, decision: Decision) -> Any:
    """Return a body as an event holds it; what is no JSON is left out."""
    try:
        value = orjson.loads(body)
    except ValueError:
        return None
    if decision.omit_managed_fields and isinstance(value, dict):
        for one in (value, *(value.get("items") or ())):
            if isinstance(one, dict) and isinstance(one.get("metadata"), dict):
                one["metadata"].pop("managedFields", None)
    return value


@functools.lru_cache(maxsize=64)
def _second(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _micro(moment: float) -> str:
    whole = int(moment)
    return f"{_second(whole)}.{int((moment - whole) * 1_000_000):06d}Z"
