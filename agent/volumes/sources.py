"""What the files of a volume are: names and contents out of ConfigMaps, Secrets, the pod itself and tokens."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent.environment import ConfigError, Fetch, field_value, resource_value
from machinery.errors import NotFound

Pod = Mapping[str, Any]
# Path within the volume -> content and mode.
Files = dict[str, tuple[bytes, int]]
Token = Callable[[Mapping[str, Any]], Awaitable[str]]
DEFAULT_MODE = 0o644


class FileSources:
    """Reads the sources of one pod's volumes."""

    def __init__(self, pod: Pod, fetch: Fetch, token: Token, facts: Mapping[str, Any]) -> None:
        self._pod = pod
        self._fetch = fetch
        self._token = token
        self._facts = facts

    async def files(self, volume: Mapping[str, Any]) -> Files:
        """Return a volume's files. Raises: ConfigError when something it names is not there."""
        for source in ("configMap", "secret", "downwardAPI"):
            if source in volume:
                mode = volume[source].get("defaultMode", DEFAULT_MODE)
                return await self._source(source, volume[source], mode)
        projected = volume["projected"]
        found: Files = {}
        for part in projected.get("sources") or ():
            for source, body in part.items():
                found.update(await self._source(source, body, projected.get("defaultMode", DEFAULT_MODE)))
        return found

    async def _source(self, source: str, body: Mapping[str, Any], mode: int) -> Files:
        match source:
            case "configMap":
                return await self._from_object("configmaps", "configmap", body.get("name", ""), body, mode)
            case "secret":
                return await self._from_object(
                    "secrets", "secret", body.get("secretName") or body.get("name", ""), body, mode
                )
            case "downwardAPI":
                return self._from_pod(body.get("items") or (), mode)
            case "serviceAccountToken":
                return {body["path"]: ((await self._token(body)).encode(), 0o600 if mode == DEFAULT_MODE else mode)}
        raise ConfigError(f"unsupported volume source {source}")

    async def _from_object(self, plural: str, kind: str, name: str, body: Mapping[str, Any], mode: int) -> Files:
        optional = body.get("optional", False)
        try:
            obj = await self._fetch(plural, name)
        except NotFound as error:
            if optional:
                return {}
            raise ConfigError(f'{kind} "{name}" not found') from error
        data = _contents(plural, obj)
        items = body.get("items")
        if items is None:
            return {key: (value, mode) for key, value in data.items()}
        found: Files = {}
        for item in items:
            if item["key"] in data:
                found[item["path"]] = (data[item["key"]], item.get("mode", mode))
            elif not optional:
                raise ConfigError(f"references non-existent {kind} key: {item['key']}")
        return found

    def _from_pod(self, items: Sequence[Mapping[str, Any]], mode: int) -> Files:
        found: Files = {}
        for item in items:
            if "fieldRef" in item:
                text = field_value(self._pod, item["fieldRef"]["fieldPath"], self._facts)
            else:
                text = resource_value(self._pod, {}, item["resourceFieldRef"], self._facts)
            found[item["path"]] = (text.encode(), item.get("mode", mode))
        return found


def _contents(plural: str, obj: Mapping[str, Any]) -> dict[str, bytes]:
    data = obj.get("data") or {}
    if plural == "secrets":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    return {**{key: value.encode() for key, value in data.items()}, **binary}
