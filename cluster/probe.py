"""Looks at a cluster from outside, without the client kit: `wherry up` itself stays small."""

import http.client
import json
import ssl
import time
from typing import Any

from cluster.layout import Layout

_PAUSE_SECONDS = 0.02


class Probe:
    """One administrator's connection to the API server."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._connection: http.client.HTTPSConnection | None = None

    def _connect(self) -> http.client.HTTPSConnection:
        document = json.loads(self._layout.kubeconfig.read_text())
        host, port = document["clusters"][0]["cluster"]["server"].removeprefix("https://").split(":")
        context = ssl.create_default_context(cafile=str(self._layout.pki / "ca.crt"))
        context.load_cert_chain(self._layout.pki / "admin.crt", self._layout.pki / "admin.key")
        return http.client.HTTPSConnection(host, int(port), timeout=5, context=context)

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body. Raises: OSError, http.client.HTTPException."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request("GET", path)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def until_ready(self, deadline: float) -> None:
        """Wait until /readyz says ok. Raises: TimeoutError."""
        last = "no answer"
        while time.monotonic() < deadline:
            try:
                status, body = self.get("/readyz")
            except (OSError, http.client.HTTPException, ValueError) as error:
                last = str(error)
            else:
                if status == 200:
                    return
                last = body.decode(errors="replace")
            time.sleep(_PAUSE_SECONDS)  # nothing to watch yet: the server is not there
        raise TimeoutError(f"the API server is not ready: {last}")

    def until_node_ready(self, deadline: float) -> str:
        """Wait until a node is Ready and return its name. Raises: TimeoutError."""
        while time.monotonic() < deadline:
            status, body = self.get("/api/v1/nodes")
            if status == 200:
                ready = [node["metadata"]["name"] for node in json.loads(body)["items"] if _is_ready(node)]
                if ready:
                    return str(ready[0])
            time.sleep(_PAUSE_SECONDS)
        raise TimeoutError("no node became Ready")

    def until_pods_may_start(self, deadline: float) -> None:
        """Wait until the namespace default has the account and the CA its pods are given. Raises: TimeoutError."""
        for path in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
            while self.get(f"/api/v1/namespaces/default/{path}")[0] != 200:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the controllers made no {path} in the namespace default")
                time.sleep(_PAUSE_SECONDS)


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
