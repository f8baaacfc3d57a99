"""Webhooks that change or judge objects: who is asked, in which order, and what their answers mean.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import asyncio
import base64
import binascii
import copy
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from apiserver.admission.attributes import Attributes
from apiserver.admission.audit_annotations import Turn, publish
from apiserver.admission.equivalents import FindVersions, as_asked, as_version, version_taken
from apiserver.admission.match_conditions import Conditions
from apiserver.admission.rules import selectors_take
from apiserver.admission.webhook_client import CallFailed, WebhookClient
from apiserver.auth.user import User
from apiserver.registry.kind import Kind, Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.patch import PatchError, apply_json_patch
from machinery.api.resources import MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS

# What decides about admission is never admitted by it: a broken webhook must stay removable.
_EXEMPT_GROUP = "admissionregistration.k8s.io"
_REVIEWS = ("authentication.k8s.io", "authorization.k8s.io")
_VERSIONS = ("v1", "v1beta1")
_FIELDS = {"allowed": bool, "patch": str, "patchType": str, "status": dict, "warnings": list, "auditAnnotations": dict}

Complete = Callable[[Object], Object]
"""Brings a changed object to its kind's shape again."""


@dataclass(frozen=True, slots=True)
class _Hook:
    """One webhook of one configuration."""

    configuration: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.config["name"])


class Webhooks:
    """Asks the webhooks that are registered."""

    def __init__(self, cache: WatchCache, versions: FindVersions) -> None:
        self._cache = cache
        self._versions = versions
        self._client = WebhookClient(cache)
        self._conditions = Conditions()
        self._known: dict[str, tuple[int, Sequence[_Hook]]] = {}
        for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS):
            cache.collection(resource.group_resource)

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()

    def _hooks(self, resource: Resource) -> Sequence[_Hook]:
        """Return all webhooks, by the names of their configurations and in the order within each."""
        collection = self._cache.collection(resource.group_resource)
        known = self._known.get(resource.plural)
        if known is None or known[0] != collection.generation:
            found = [
                _Hook(obj["metadata"]["name"], config)
                for obj in sorted((one.object() for one in collection.entries("")), key=_name_of)
                for config in obj.get("webhooks") or ()
            ]
            known = self._known[resource.plural] = (collection.generation, found)
        return known[1]

    def _matching(self, resource: Resource, request: Attributes) -> Iterator[tuple[_Hook, Kind, Turn]]:
        """Yield each webhook to be asked, with the kind in which it wants to see the request's objects."""
        mutates = resource is MUTATING_WEBHOOKS
        hooks = self._hooks(resource)
        if not hooks or request.kind.resource.group == _EXEMPT_GROUP or request.kind.resource.group in _REVIEWS:
            return
        for index, hook in enumerate(hooks):
            kind = version_taken(hook.config, request, self._versions)
            if kind is not None and selectors_take(self._cache, hook.config, request):
                yield hook, kind, Turn(hook.configuration, hook.name, index, mutates=mutates)

    # ---- mutating

    async def mutate(self, request: Attributes, complete: Complete) -> None:
        """Let the mutating webhooks change the request's object, one after another.

        Those that ask for it see it once more when others changed it after them. Raises: what they refuse with.
        """
        seen: list[tuple[_Hook, Kind, Turn, bytes]] = []
        for hook, kind, turn in self._matching(MUTATING_WEBHOOKS, request):
            await self._mutate_once(hook, kind, request, complete, turn)
            seen.append((hook, kind, turn, orjson.dumps(request.obj)))
        last = seen[-1][3] if seen else b""
        for hook, kind, turn, left in seen:
            if hook.config.get("reinvocationPolicy") == "IfNeeded" and left != last:
                await self._mutate_once(hook, kind, request, complete, replace(turn, again=True))

    async def _mutate_once(self, hook: _Hook, kind: Kind, request: Attributes, complete: Complete, turn: Turn) -> None:
        shown = await as_version(request, kind)
        if not self._wanted(hook, shown):
            return
        before, changed = request.obj, False
        try:
            response = await self._ask(hook, shown, request.kind, turn)
            if response is not None and response.get("patch") and shown.obj is not None:
                await self._apply(response, hook, shown, request, complete, turn)
                changed = request.obj != before
        finally:
            turn.note_change(request, changed=changed)

    async def _apply(
        self, response: Mapping[str, Any], hook: _Hook, shown: Attributes, request: Attributes, complete: Complete,
        turn: Turn,
    ) -> None:  # fmt: skip
        """Make what a webhook wants changed. Raises: what is said where its patch is no good."""
        kind = shown.kind
        try:
            if response.get("patchType") != "JSONPatch":
                raise ValueError(f"unsupported patch type {response.get('patchType')!r}")
            operations = orjson.loads(base64.b64decode(response["patch"], validate=True))
            turn.note_patch(request, operations)
            changed = apply_json_patch(copy.deepcopy(shown.obj), operations)
            if not isinstance(changed, dict) or not isinstance(changed.get("metadata"), dict):
                raise ValueError("the patch leaves no object")
            request.obj = complete(await as_asked(changed, kind, request))
        except (PatchError, ValueError, binascii.Error, errors.BadRequest) as error:
            self._failed(hook, request, CallFailed(str(error)))

    # ---- validating

    async def validate(self, request: Attributes) -> None:
        """Ask all validating webhooks at once. Raises: what the first of them refuses with."""
        matching = [
            (hook, await as_version(request, kind), turn)
            for hook, kind, turn in self._matching(VALIDATING_WEBHOOKS, request)
        ]
        hooks = [one for one in matching if self._wanted(one[0], one[1])]
        if not hooks:
            return
        asked = (self._ask(hook, shown, request.kind, turn) for hook, shown, turn in hooks)
        results = await asyncio.gather(*asked, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    # ---- one call

    def _wanted(self, hook: _Hook, request: Attributes) -> bool:
        """Whether the matchConditions let the webhook be asked. Raises: when one of them fails and must not."""
        conditions = hook.config.get("matchConditions")
        if not conditions:
            return True
        outcome = self._conditions.met(conditions, request, self._cache)
        if outcome.error:
            self._failed(hook, request, CallFailed(outcome.error))
            return False
        return outcome.met

    async def _ask(self, hook: _Hook, request: Attributes, asked_for: Kind, turn: Turn) -> Mapping[str, Any] | None:
        """Return the response of a webhook that allows the request; None of one that failed and may.

        `asked_for` is the kind the client named, where the request is shown in another version.
        """
        config, uid = hook.config, str(uuid.uuid4())
        if request.dry_run and config.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise errors.BadRequest(f'admission webhook "{hook.name}" does not support dry run')
        version = next((one for one in config.get("admissionReviewVersions") or () if one in _VERSIONS), "v1")
        asked = _asked(request, uid, asked_for)
        review = {"kind": "AdmissionReview", "apiVersion": f"admission.k8s.io/{version}", "request": asked}
        try:
            answer = await self._client.post(
                config["clientConfig"], review, timeout_seconds=config.get("timeoutSeconds", 10)
            )
            response = _response_of(answer, uid, version)
        except CallFailed as error:
            self._failed(hook, request, error)
            turn.note_failed_open(request)
            return None
        request.warnings.extend(response.get("warnings") or ())
        for key, value in (response.get("auditAnnotations") or {}).items():
            publish(request, hook.name, key, value)
        if not response.get("allowed"):
            raise _denied(hook.name, response.get("status") or {})
        return response

    @staticmethod
    def _failed(hook: _Hook, request: Attributes, error: CallFailed) -> None:
        if hook.config.get("failurePolicy", "Fail") == "Ignore":
            return
        raise errors.InternalError(f'Internal error occurred: failed calling webhook "{hook.name}": {error}')


def _name_of(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _asked(request: Attributes, uid: str, asked_for: Kind) -> dict[str, Any]:
    resource, named = request.kind.resource, replace(request, kind=asked_for)
    found: dict[str, Any] = {
        "uid": uid, "kind": request.body_kind, "resource": request.named,
        "requestKind": named.body_kind, "requestResource": named.named,
        "name": request.name, "operation": request.operation, "userInfo": _user_info(request.user),
        "object": request.obj, "oldObject": request.old, "dryRun": request.dry_run,
        "options": request.options() or None,
    }  # fmt: skip
    if request.namespace or resource.plural == "namespaces":
        found["namespace"] = request.namespace or request.name
    if request.subresource:
        found["subResource"] = found["requestSubResource"] = request.subresource
    return found


def _user_info(user: User | None) -> dict[str, Any]:
    if user is None:
        return {"username": "system:apiserver", "groups": ["system:masters"]}
    found: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        found["uid"] = user.uid
    if user.extra:
        found["extra"] = {key: list(values) for key, values in user.extra.items()}
    return found


def _response_of(answer: Any, uid: str, version: str) -> Mapping[str, Any]:
    """Return the response of an answer. Raises: CallFailed when it is none."""
    wanted = f"admission.k8s.io/{version}"
    if not isinstance(answer, dict) or (answer.get("kind"), answer.get("apiVersion")) != ("AdmissionReview", wanted):
        got = answer if not isinstance(answer, dict) else f"{answer.get('apiVersion')}, Kind={answer.get('kind')}"
        raise CallFailed(
            f"received invalid webhook response: expected webhook response of {wanted}, Kind=AdmissionReview, got {got}"
        )
    response = answer.get("response")
    if not isinstance(response, dict):
        raise CallFailed("received invalid webhook response: webhook response was absent")
    if response.get("uid") != uid:
        raise CallFailed(
            f'received invalid webhook response: expected response.uid="{uid}", got "{response.get("uid")}"'
        )
    for field, kind in _FIELDS.items():
        if response.get(field) is not None and not isinstance(response[field], kind):
            raise CallFailed(f"received invalid webhook response: response.{field} is no {kind.__name__}")
    texts = [*(response.get("warnings") or ()), *(response.get("auditAnnotations") or {}).values()]
    if not all(isinstance(text, str) for text in texts):
        raise CallFailed("received invalid webhook response: warnings and audit annotations are texts")
    code = (response.get("status") or {}).get("code")
    if code is not None and not isinstance(code, int):
        raise CallFailed("received invalid webhook response: response.status.code is no number")
    return response


def _denied(name: str, status: Mapping[str, Any]) -> errors.APIError:
    told = f'admission webhook "{name}" denied the request'
    detail = status.get("message") or status.get("reason")
    message = f"{told}: {detail}" if detail else f"{told} without explanation"
    code = max(int(status.get("code") or 0), 400)
    return errors.from_status({**status, "message": message}, code=code)
