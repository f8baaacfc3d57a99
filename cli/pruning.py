"""What --prune of apply and diff means: what was applied before, has our labels, and is no longer said."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from cli.applying import LAST
from cli.selection import Selected
from cli.session import Session

_PRUNED = (
    ("", "configmaps"), ("", "endpoints"), ("", "namespaces"), ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"), ("", "pods"), ("", "replicationcontrollers"), ("", "secrets"), ("", "services"),
    ("batch", "jobs"), ("batch", "cronjobs"), ("networking.k8s.io", "ingresses"), ("apps", "daemonsets"),
    ("apps", "deployments"), ("apps", "replicasets"), ("apps", "statefulsets"),
)  # fmt: skip
"""What --prune looks through unless --prune-allowlist says otherwise; kubectl's list."""


def prunable(session: Session, said: Collection[str], selector: str, allowlist: Sequence[str]) -> Iterator[Selected]:
    """Yield what is there and no longer said.

    Args:
        session: the call.
        said: the uids of what manifests say.
        selector: labels of what may go.
        allowlist: group/version/Kind of what may go; empty for kubectl's own list.

    Raises: APIError.
    """
    asked = {tuple(text.rsplit("/", 2)) for text in allowlist}
    for known in session.discovery.preferred():
        resource = known.resource
        group = resource.group or "core"
        if (group, resource.version, resource.kind) not in asked if asked else (
            (resource.group, resource.plural) not in _PRUNED
        ):  # fmt: skip
            continue
        namespace = session.namespace if resource.namespaced else ""
        params = {"labelSelector": selector}
        for obj in session.connection.json("GET", resource.path(namespace), params=params)["items"]:
            metadata = obj["metadata"]
            if metadata["uid"] not in said and LAST in (metadata.get("annotations") or {}):
                yield Selected(known, metadata.get("namespace", ""), metadata["name"], live=obj)


def matches(manifest: dict[str, Any], selector: str) -> bool:
    """Whether a manifest has the labels that --selector asks for."""
    from machinery.api.selectors import parse_label_selector

    labels = (manifest.get("metadata") or {}).get("labels") or {}
    return not selector or parse_label_selector(selector).matches(labels)
