"""The parts of objects with paths of their own: status, scale, binding, eviction, token, finalize."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import orjson
from aiohttp import web

from apiserver.auth.tokens import ISSUER, TokenIssuer
from apiserver.endpoints import reading, scaling, writing
from apiserver.endpoints.eviction import evict
from apiserver.endpoints.reading import respond
from apiserver.endpoints.writing import read_typed, write_options
from apiserver.registry.catalog import Catalog
from apiserver.registry.kind import Object
from apiserver.registry.rest import Rest
from apiserver.request import Call
from apiserver.storage.object_storage import conflict
from machinery import errors
from machinery.api import meta
from machinery.api.resources import NODES, PODS, SECRETS

MIN_TOKEN_SECONDS, MAX_TOKEN_SECONDS = 600, 1 << 32
# What a token may be bound to: it is good as long as that lives.
_BINDABLE = {("v1", one.kind): one for one in (PODS, SECRETS, NODES)}


class Subresources:
    """Answers requests for subresources of stored objects."""

    def __init__(self, rest: Rest, catalog: Catalog, issuer: TokenIssuer) -> None:
        self._rest = rest
        self._catalog = catalog
        self._issuer = issuer
        self._handlers: Mapping[str, Callable[[Call], Awaitable[web.StreamResponse]]] = {
            "status": self._status, "approval": self._status, "binding": self._binding,
            "scale": lambda call: scaling.answer(call, self._rest),
            "ephemeralcontainers": self._part, "resize": self._part,
            "eviction": self._eviction,
            "token": self._token, "finalize": self._finalize,
        }  # fmt: skip

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer the request. Raises: NotFound for a subresource without handler."""
        handler = self._handlers.get(call.info.subresource)
        if handler is None:
            raise errors.NotFound("the server could not find the requested resource")
        return await handler(call)

    async def _status(self, call: Call) -> web.StreamResponse:
        match call.info.verb:
            case "get":
                return await reading.get(call, self._rest.storage)
            case "update":
                return await writing.update(call, self._rest, subresource=call.info.subresource)
            case _:
                return await writing.patch(call, self._rest, subresource=call.info.subresource)

    async def _part(self, call: Call) -> web.StreamResponse:
        """Read the object, or write the part of its spec that the subresource is about."""
        match call.info.verb:
            case "get":
                return await reading.get(call, self._rest.storage)
            case "update":
                return await writing.update(call, self._rest, subresource=call.info.subresource)
            case _:
                return await writing.patch(call, self._rest, subresource=call.info.subresource)

    async def bind(self, call: Call) -> web.StreamResponse:
        """Answer a Binding that is posted by itself and names its pod."""
        pods = self._catalog.find("", "v1", "pods")
        binding = await read_typed(call, "Binding", "v1", "io.k8s.api.core.v1.Binding")
        name = binding["metadata"].get("name", "")
        if pods is None or not call.info.namespace or not name:
            raise errors.BadRequest("name must be provided")
        call.kind, call.info = pods, replace(call.info, resource="pods", name=name, subresource="binding")
        return await self._bound(call, binding)

    async def _binding(self, call: Call) -> web.StreamResponse:
        return await self._bound(call, await read_typed(call, "Binding", "v1", "io.k8s.api.core.v1.Binding"))

    async def _bound(self, call: Call, binding: Object) -> web.StreamResponse:
        """Put a pod on a node, once."""
        kind, info = call.known, call.info
        uid = binding["metadata"].get("uid", "")
        binding = await self._rest.admit_part(kind, info, binding, write_options(call))
        target = binding.get("target") or {}
        if not target.get("name"):
            raise errors.Invalid('Binding "" is invalid: target.name: Required value', kind="Binding", name=info.name)

        def bound(pod: Object) -> Object:
            if pod["metadata"].get("deletionTimestamp"):
                raise conflict(
                    kind.resource, info.name, f"pod {info.name} is being deleted, cannot be assigned to a host"
                )
            if pod["spec"].get("nodeName"):
                why = f'pod {info.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
                raise conflict(kind.resource, info.name, why)
            if pod["spec"].get("schedulingGates"):
                raise conflict(kind.resource, info.name, f"pod {info.name} has non-empty .spec.schedulingGates")
            pod["spec"]["nodeName"] = target["name"]
            pod.setdefault("status", {}).pop("nominatedNodeName", None)  # it was about where the pod may come to be
            if annotations := binding["metadata"].get("annotations"):
                pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), **annotations}
            _set_condition(pod, {"type": "PodScheduled", "status": "True"})
            return pod

        await self._rest.replace(kind, info.namespace, info.name, bound, write_options(call), expected_uid=uid)
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return respond(orjson.dumps(status), status=201)

    async def _eviction(self, call: Call) -> web.StreamResponse:
        """Delete a pod as an eviction does."""
        kind, info = call.known, call.info
        eviction = await read_typed(call, "Eviction", "policy/v1", "io.k8s.api.policy.v1.Eviction")
        eviction = await self._rest.admit_part(kind, info, eviction, write_options(call))
        await evict(self._rest, self._catalog, kind, info.namespace, info.name, eviction)
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return respond(orjson.dumps(status), status=201)

    async def _finalize(self, call: Call) -> web.StreamResponse:
        """Replace a namespace's spec.finalizers; the namespace goes when none is left."""
        kind, info = call.known, call.info
        given = await read_typed(call, "Namespace", "v1", "io.k8s.api.core.v1.Namespace")

        def finalized(namespace: Object) -> Object:
            asked = given["metadata"].get("resourceVersion")
            if asked and asked != namespace["metadata"]["resourceVersion"]:
                raise conflict(kind.resource, info.name)
            namespace.setdefault("spec", {})["finalizers"] = (given.get("spec") or {}).get("finalizers") or []
            return namespace

        entry = await self._rest.replace(kind, "", info.name, finalized, write_options(call))
        return reading.object_response(call, entry)

    async def _token(self, call: Call) -> web.StreamResponse:
        """Answer a TokenRequest for a service account."""
        kind, info = call.known, call.info
        request = await read_typed(
            call, "TokenRequest", "authentication.k8s.io/v1", "io.k8s.api.authentication.v1.TokenRequest"
        )
        request = await self._rest.admit_part(kind, info, request, write_options(call))
        entry = await self._rest.storage.get(kind.resource, kind.key(info.namespace, info.name))
        spec = request.get("spec") or {}
        seconds = spec.get("expirationSeconds") or 3600
        if not MIN_TOKEN_SECONDS <= seconds <= MAX_TOKEN_SECONDS:
            raise errors.Invalid(
                f'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: {seconds}: '
                "may not specify a duration less than 10 minutes", group="authentication.k8s.io", kind="TokenRequest",
            )  # fmt: skip
        bound = spec.get("boundObjectRef")
        if bound:
            await self._check_bound(bound, info.namespace, info.name)
        await asyncio.to_thread(self._issuer.load)
        token, expires = self._issuer.issue(entry.object(), spec.get("audiences") or [], seconds, bound)
        if bound:
            bound.pop("node", None)
        ends = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        request["spec"] = {**spec, "audiences": spec.get("audiences") or [ISSUER], "expirationSeconds": seconds}
        request["status"] = {"token": token, "expirationTimestamp": ends}
        metadata = {"name": info.name, "namespace": info.namespace, "creationTimestamp": meta.now()}
        return respond(orjson.dumps({**request, "metadata": metadata}), status=201)

    async def _check_bound(self, bound: Object, namespace: str, account: str) -> None:
        """Complete a reference to what a token is bound to. Raises: NotFound, Conflict, BadRequest, Invalid."""
        resource = _BINDABLE.get((bound.get("apiVersion", "v1"), bound.get("kind", "")))
        if resource is None:
            raise errors.BadRequest(f"cannot bind token for serviceaccount \"{account}\" to type "
                f"{bound.get('apiVersion', '')}, Kind={bound.get('kind', '')}")  # fmt: skip
        scope = f"{namespace}/" if resource.namespaced else ""
        found = await self._rest.storage.get(resource, f"/registry/{resource.plural}/{scope}{bound.get('name', '')}")
        obj = found.object()
        uid = obj["metadata"]["uid"]
        if bound.setdefault("uid", uid) != uid:
            why = f"the UID in the bound object reference ({bound['uid']}) does not match the UID in record. "
            raise conflict(resource, bound["name"], why + "The object might have been deleted and then recreated")
        if resource.kind == "Pod":
            running_as = obj["spec"].get("serviceAccountName") or "default"
            if running_as != account:
                why = "to pod running with different serviceaccount name."
                raise errors.BadRequest(f'cannot bind token for serviceaccount "{account}" {why}')
            if node := obj["spec"].get("nodeName"):
                entry = self._rest.storage.cache.collection("nodes").get(f"/registry/nodes/{node}")
                bound["node"] = {"name": node, "uid": entry.object()["metadata"]["uid"] if entry is not None else ""}


def _set_condition(pod: Object, condition: Object) -> None:
    conditions = pod.setdefault("status", {}).setdefault("conditions", [])
    conditions[:] = [one for one in conditions if one.get("type") != condition["type"]]
    conditions.append({**condition, "lastProbeTime": None, "lastTransitionTime": meta.now()})
