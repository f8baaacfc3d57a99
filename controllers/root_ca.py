"""Each namespace has a ConfigMap `kube-root-ca.crt`, by which its pods know the API server.

Source: https://kubernetes.io/docs/concepts/configuration/configmap/ and the projected token volume of every pod
"""

import asyncio
from pathlib import Path

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import ConfigMap, Namespace
from machinery.api.meta import ObjectKey
from machinery.api.resources import CONFIG_MAPS, NAMESPACES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

NAME = "kube-root-ca.crt"
FILE = "ca.crt"
_ABOUT = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


class RootCAController(Controller):
    """Writes the CA we know the API server by into each namespace. Keys are those of namespaces."""

    name = "root-ca"

    def __init__(self, client: Client, config: ClientConfig, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._config = config
        self._namespaces = informers.informer(NAMESPACES, Namespace)
        self._maps = informers.informer(CONFIG_MAPS, ConfigMap, field_selector=f"metadata.name={NAME}")
        self._namespaces.add_handler(self._namespace_changed)
        self._maps.add_handler(self._map_changed)

    def _namespace_changed(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _map_changed(self, old: ConfigMap | None, new: ConfigMap | None) -> None:
        changed = new or old
        if changed is not None:
            self.queue.add(ObjectKey("", changed.metadata.namespace))

    async def reconcile(self, key: ObjectKey) -> Result:
        """Create the map, or put its contents right."""
        namespace = self._namespaces.get(key)
        bundle = await self._bundle()
        if namespace is None or namespace.metadata.deletionTimestamp is not None or not bundle:
            return DONE
        present = self._maps.get(ObjectKey(key.name, NAME))
        data = {FILE: bundle}
        if present is None:
            metadata = {"name": NAME, "namespace": key.name, "annotations": {"kubernetes.io/description": _ABOUT}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            await self._client.create(CONFIG_MAPS, body, key.name)
        elif present.data != data:
            others = dict.fromkeys(present.data)  # null removes them
            await self._client.patch(CONFIG_MAPS, NAME, {"data": {**others, **data}}, key.name)
        return DONE

    async def _bundle(self) -> str:
        """Return the CA certificates, read anew each time: they may be rotated under us."""
        if self._config.ca_data:
            return self._config.ca_data.decode()
        if self._config.ca_file:
            return await asyncio.to_thread(Path(self._config.ca_file).read_text)
        return ""
