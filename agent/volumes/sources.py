"""What the files of a volume are: names and contents out of ConfigMaps, Secrets, the pod itself and tokens."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent.environment import ConfigError, Fetch, field_value, resource_value
from agent.volumes.files import File
from machinery.errors import NotFound

Pod = Mapping[str, Any]
Token = Callable[[Mapping[str, Any]], Awaitable[str]]
TrustBundles = Callable[[Mapping[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]
Files = dict[str, File]  # by their paths within the volume
DEFAULT_MODE = 0o644


class FileSources:
    """Reads the sources of one pod's volumes."""

    def __init__(
        self, pod: Pod, fetch: Fetch, token: Token, facts: Mapping[str, Any], trust_bundles: TrustBundles
    ) -> None:  # fmt: skip
        self._pod = pod
        self._fetch = fetch
        self._token = token
        self._facts = facts
        self._trust_bundles = trust_bundles

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
                name = body.get("secretName") or body.get("name", "")
                return await self._from_object("secrets", "secret", name, body, mode)
            case "downwardAPI":
                return self._from_pod(body.get("items") or (), mode)
            case "serviceAccountToken":
                return {body["path"]: self._owned((await self._token(body)).encode(), mode)}
            case "clusterTrustBundle":
                return await self._from_bundles(body, mode)
        raise ConfigError(f"unsupported volume source {source}")

    def _owned(self, content: bytes, mode: int) -> File:
        """A token is for its reader alone where the pod says who that is: the user all containers share, or fsGroup."""
        pod_spec = self._pod["spec"]
        of_pod = pod_spec.get("securityContext") or {}
        containers = [*(pod_spec.get("initContainers") or ()), *(pod_spec.get("containers") or ())]
        users = {(one.get("securityContext") or {}).get("runAsUser", of_pod.get("runAsUser")) for one in containers}
        owner = users.pop() if len(users) == 1 else None
        is_private = owner is not None or of_pod.get("fsGroup") is not None
        return File(content, 0o600 if is_private else mode, owner)

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
        if not items:
            return {key: File(value, mode) for key, value in data.items()}
        found: Files = {}
        for item in items:
            if item["key"] in data:
                found[item["path"]] = File(data[item["key"]], item.get("mode", mode))
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
            found[item["path"]] = File(text.encode(), item.get("mode", mode))
        return found

    async def _from_bundles(self, body: Mapping[str, Any], mode: int) -> Files:
        optional = body.get("optional", False)
        try:
            bundles = await self._trust_bundles(body)
        except NotFound as error:
            if optional:
                return {body["path"]: File(b"", mode)}
            raise ConfigError(f'clustertrustbundle "{body.get("name", "")}" not found') from error
        if not bundles and not optional:
            raise ConfigError("combined trustbundle is empty")
        anchors = sorted({block for one in bundles for block in _pem_blocks(one["spec"]["trustBundle"])})
        return {body["path"]: File("".join(anchors).encode(), mode)}


def _pem_blocks(text: str) -> list[str]:
    end = "-----END CERTIFICATE-----"
    parts = text.split(end)[:-1]
    return [part[part.index("-----BEGIN") :] + end + "\n" for part in parts if "-----BEGIN" in part]


def _contents(plural: str, obj: Mapping[str, Any]) -> dict[str, bytes]:
    data = obj.get("data") or {}
    if plural == "secrets":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    return {**{key: value.encode() for key, value in data.items()}, **binary}
