"""Where the API server is and who we are there: kubeconfig files and the pod's own service account.

Kept apart from rest.py so that the command line can read its configuration without loading an HTTP client.
Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

import base64
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ConfigError(Exception):
    """The kubeconfig can't be read, or does not say what is needed."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """One API server and one identity. Inline data wins over the file of the same purpose, as in kubectl."""

    server: str
    ca_data: bytes = b""
    ca_file: str = ""
    cert_data: bytes = b""
    cert_file: str = ""
    key_data: bytes = b""
    key_file: str = ""
    token: str = ""
    token_file: str = ""
    namespace: str = "default"
    insecure: bool = False
    tls_server_name: str = ""


def load_config(
    path: str | None = None, *, context: str | None = None, cluster: str | None = None, user: str | None = None
) -> ClientConfig:
    """Find the configuration: `path`, else $KUBECONFIG, else ~/.kube/config, else the pod's service account.

    Several files in $KUBECONFIG are merged; the first to name a cluster, user or context wins. `cluster` and `user`
    take the place of the context's own.

    Raises: ConfigError when there is none, or it lacks the context.
    """
    if path is not None:
        found = read_kubeconfig([Path(path)], must_exist=True)
        return config_from(found, context=context, cluster=cluster, user=user)
    listed = [Path(entry) for entry in os.environ.get("KUBECONFIG", "").split(os.pathsep) if entry]
    merged = read_kubeconfig(listed or [Path.home() / ".kube" / "config"])
    if merged.get("clusters") or not in_cluster():
        return config_from(merged, context=context, cluster=cluster, user=user)
    return service_account_config()


def read_kubeconfig(paths: list[Path], *, must_exist: bool = False) -> dict[str, Any]:
    """Read and merge kubeconfig files; file names inside are made absolute against the file that has them.

    Raises: ConfigError when a file is not a kubeconfig, or is absent though it `must_exist`.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            document = _load(path.read_text()) or {}
        except FileNotFoundError as error:
            if must_exist:
                raise ConfigError(f"stat {path}: no such file or directory") from error
            continue
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ConfigError(f'error loading config file "{path}": {error}') from error
        if not isinstance(document, dict):
            raise ConfigError(f'error loading config file "{path}": not a mapping')
        _merge(merged, document, path.absolute().parent)
    return merged


def _load(text: str) -> Any:
    """Read YAML. The files of our own components are JSON: those do without yaml's 15 ms and 1 MB."""
    if text.startswith("{"):
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(text)
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe, in C if it is there
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _merge(merged: dict[str, Any], document: Mapping[str, Any], folder: Path) -> None:
    for kind, inner in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
        known = merged.setdefault(kind, {})
        for entry in document.get(kind) or ():
            body = dict(entry.get(inner) or {})
            for field in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
                if body.get(field):
                    body[field] = str(folder / body[field])
            known.setdefault(entry["name"], body)
    if document.get("current-context"):
        merged.setdefault("current-context", document["current-context"])


def config_from(
    merged: Mapping[str, Any], *, context: str | None = None, cluster: str | None = None, user: str | None = None
) -> ClientConfig:
    """Pick the cluster, user and namespace of a context out of merged kubeconfigs.

    Raises: ConfigError when a name leads nowhere.
    """
    name = context or merged.get("current-context") or ""
    contexts, clusters, users = (merged.get(kind) or {} for kind in ("contexts", "clusters", "users"))
    if name and name not in contexts:
        raise ConfigError(f'context "{name}" does not exist')
    chosen = contexts.get(name) or {}
    found = clusters.get(cluster or chosen.get("cluster", ""))
    if found is None or not found.get("server"):
        raise ConfigError("no configuration has been provided: there is no cluster in the kubeconfig")
    who = users.get(user or chosen.get("user", "")) or {}
    return ClientConfig(
        server=str(found["server"]).rstrip("/"),
        ca_data=_decoded(found, "certificate-authority-data"),
        ca_file=found.get("certificate-authority", ""),
        cert_data=_decoded(who, "client-certificate-data"),
        cert_file=who.get("client-certificate", ""),
        key_data=_decoded(who, "client-key-data"),
        key_file=who.get("client-key", ""),
        token=who.get("token", ""),
        token_file=who.get("tokenFile", ""),
        namespace=chosen.get("namespace") or "default",
        insecure=bool(found.get("insecure-skip-tls-verify")),
        tls_server_name=found.get("tls-server-name", ""),
    )


def _decoded(body: Mapping[str, Any], field: str) -> bytes:
    try:
        return base64.b64decode(body.get(field) or "", validate=True)
    except ValueError as error:
        raise ConfigError(f"{field} is not base64") from error


def in_cluster() -> bool:
    """Say whether this process runs in a pod with a service account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT_DIR / "token").exists()


def service_account_config() -> ClientConfig:
    """Return the configuration of the pod this process runs in."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    namespace = SERVICE_ACCOUNT_DIR / "namespace"
    return ClientConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_file=str(SERVICE_ACCOUNT_DIR / "ca.crt"),
        token_file=str(SERVICE_ACCOUNT_DIR / "token"),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )
