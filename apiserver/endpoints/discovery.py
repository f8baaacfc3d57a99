"""Discovery: which groups, versions and resources there are; all derived from the catalog.

Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
"""

import base64
import hashlib
from typing import Any

import orjson
from aiohttp import web

from apiserver.aggregation.aggregator import Aggregator
from apiserver.aggregation.backend import Backend
from apiserver.endpoints.body import PROTOBUF
from apiserver.endpoints.reading import respond
from apiserver.registry.catalog import Catalog
from apiserver.registry.kind import Kind
from apiserver.request import Accepted, Call, accepted
from machinery import errors

_AGGREGATED = "APIGroupDiscoveryList"
_GROUP = "apidiscovery.k8s.io"
_MEDIA = ("application/json", "application/yaml", PROTOBUF)


class Discovery:
    """Answers /api, /apis and what lies directly below."""

    def __init__(self, catalog: Catalog, aggregator: Aggregator) -> None:
        self._catalog = catalog
        self._aggregator = aggregator

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer the request. Raises: NotFound for a group or version that is not served."""
        parts = call.info.path.strip("/").split("/")
        want = self._wanted(call, aggregates=len(parts) == 1)
        if want.as_kind == _AGGREGATED:
            return self._aggregated(call, want, core=parts[0] == "api")
        found = self._plain(call, parts)
        return respond(orjson.dumps({"apiVersion": "v1", **found} if want.media == PROTOBUF else found), want)

    def _plain(self, call: Call, parts: list[str]) -> dict[str, Any]:
        if len(parts) == 1:
            return self._core_versions(call) if parts[0] == "api" else self._groups()
        group = "" if parts[0] == "api" else parts[1]
        version = parts[1] if parts[0] == "api" else parts[2] if len(parts) > 2 else ""
        return self._group(group) if group and not version else self._resources(group, version)

    @staticmethod
    def _wanted(call: Call, *, aggregates: bool) -> Accepted:
        for one in accepted(call.http.headers.get("Accept", "")):
            if one.media == "application/json" and aggregates and one.as_kind == _AGGREGATED:
                if dict(one.parameters).get("g") == _GROUP and one.as_version == "v2":
                    return one
            elif one.media in _MEDIA and not one.as_kind:
                return one
        raise errors.NotAcceptable(f"only the following media types are accepted: {', '.join(_MEDIA)}")

    def _aggregated(self, call: Call, want: Accepted, *, core: bool) -> web.Response:
        groups = [group for group in self._catalog.groups() if (group == "") == core]
        items = [
            {
                "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
                "versions": [self._version(group, version) for version in self._catalog.versions(group)],
            }
            for group in groups
        ]
        if not core:
            items += [
                {
                    "metadata": {"name": group, "creationTimestamp": None},
                    "versions": [_backend_version(one) for one in backends],
                }
                for group, backends in self._aggregator.groups()
            ]
        body = orjson.dumps({"kind": _AGGREGATED, "apiVersion": f"{_GROUP}/v2", "metadata": {}, "items": items})
        etag = f'"{hashlib.sha256(body).hexdigest().upper()}"'
        headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": "public"}
        if call.http.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = f"application/json;g={_GROUP};v=v2;as={_AGGREGATED}"
        return web.Response(body=body, headers=headers)

    def _version(self, group: str, version: str) -> dict[str, Any]:
        resources = [_aggregated_resource(kind) for kind in self._catalog.kinds(group, version)]
        return {"version": version, "resources": resources, "freshness": "Current"}

    @staticmethod
    def _core_versions(call: Call) -> dict[str, Any]:
        address = {"clientCIDR": "0.0.0.0/0", "serverAddress": call.http.host}
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address]}

    def _groups(self) -> dict[str, Any]:
        groups = [_group_body(group, self._catalog.versions(group)) for group in self._catalog.groups() if group]
        groups += [
            _group_body(group, [one.spec["version"] for one in backends])
            for group, backends in self._aggregator.groups()
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _group(self, group: str) -> dict[str, Any]:
        versions = self._catalog.versions(group)
        if not versions:
            versions = [one.spec["version"] for one in dict(self._aggregator.groups()).get(group, ())]
        if not versions:
            raise errors.NotFound("the server could not find the requested resource")
        return {"kind": "APIGroup", "apiVersion": "v1", **_group_body(group, versions)}

    def _resources(self, group: str, version: str) -> dict[str, Any]:
        kinds = self._catalog.kinds(group, version)
        if not kinds:
            raise errors.NotFound("the server could not find the requested resource")
        group_version = f"{group}/{version}" if group else version
        listed = [entry for kind in kinds for entry in _legacy_resources(kind)]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def _backend_version(backend: Backend) -> dict[str, Any]:
    freshness = "Current" if backend.available else "Stale"
    return {"version": backend.spec["version"], "resources": backend.resources, "freshness": freshness}


def _group_body(group: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _legacy_resources(kind: Kind) -> list[dict[str, Any]]:
    resource = kind.resource
    main: dict[str, Any] = {
        "name": resource.plural, "singularName": kind.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": sorted(kind.verbs),
    }  # fmt: skip
    if kind.short_names:
        main["shortNames"] = list(kind.short_names)
    if kind.categories:
        main["categories"] = list(kind.categories)
    if kind.is_stored:
        main["storageVersionHash"] = _storage_hash(kind)
    found = [main]
    for name, sub in sorted(kind.subresources.items()):
        entry: dict[str, Any] = {
            "name": f"{resource.plural}/{name}", "singularName": "", "namespaced": resource.namespaced,
            "kind": sub.kind or resource.kind, "verbs": sorted(sub.verbs),
        }  # fmt: skip
        if sub.group:
            entry["group"], entry["version"] = sub.group, sub.version
        found.append(entry)
    return found


def _storage_hash(kind: Kind) -> str:
    """Return what changes when a kind's objects are stored in another version: migrators look at it."""
    resource = kind.resource
    stored = kind.custom.stored_version if kind.custom is not None else f"{resource.group}/{resource.version}"
    digest = hashlib.sha256(f"{stored}/{resource.kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def _aggregated_resource(kind: Kind) -> dict[str, Any]:
    resource = kind.resource
    found: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": kind.singular, "verbs": sorted(kind.verbs),
    }  # fmt: skip
    if kind.short_names:
        found["shortNames"] = list(kind.short_names)
    if kind.categories:
        found["categories"] = list(kind.categories)
    if kind.subresources:
        found["subresources"] = [
            {
                "subresource": name, "verbs": sorted(sub.verbs),
                "responseKind": {
                    "group": sub.group if sub.kind else resource.group,
                    "version": sub.version or resource.version, "kind": sub.kind or resource.kind,
                },
            }
            for name, sub in sorted(kind.subresources.items())
        ]  # fmt: skip
    return found
