"""What every pod is given: its service account and token, default tolerations, a priority.

Sources: the ServiceAccount, DefaultTolerationSeconds and Priority admission controllers,
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from apiserver.registry import names
from apiserver.registry.kind import Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path, not a secret
MIRROR = "kubernetes.io/config.mirror"
_TOKEN_SECONDS = 3607
_WAIT_SECONDS = 300
_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def admit(cache: WatchCache, namespace: str, pod: Object) -> None:
    """Complete a new pod. Raises: Forbidden when its service account or priority class is not there."""
    spec = pod["spec"]
    _add_tolerations(spec)
    _set_priority(pod)
    if MIRROR not in (pod["metadata"].get("annotations") or {}):
        _add_service_account(cache, namespace, pod)


def _add_tolerations(spec: Object) -> None:
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(_tolerates(one, key) for one in tolerations):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _WAIT_SECONDS}
            )


def _tolerates(toleration: Object, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")


def _set_priority(pod: Object) -> None:
    spec = pod["spec"]
    name = spec.get("priorityClassName", "")
    if name and name not in _PRIORITIES:
        raise _forbidden(pod, f"no PriorityClass with name {name} was found")
    spec["priority"] = _PRIORITIES.get(name, 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")


def _add_service_account(cache: WatchCache, namespace: str, pod: Object) -> None:
    spec = pod["spec"]
    name = spec.setdefault("serviceAccountName", "default")
    spec["serviceAccount"] = name
    entry = cache.collection("serviceaccounts").get(f"/registry/serviceaccounts/{namespace}/{name}")
    if entry is None:
        why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise _forbidden(pod, why)
    account = entry.object()
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    wanted = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
    if wanted:
        _mount_token(spec)


def _mount_token(spec: Object) -> None:
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    bare = [
        one for one in containers
        if not any(mount.get("mountPath") == TOKEN_PATH for mount in one.get("volumeMounts") or ())
    ]  # fmt: skip
    if not bare:
        return
    volume = names.generate("kube-api-access-")
    for container in bare:
        mount = {"name": volume, "readOnly": True, "mountPath": TOKEN_PATH}
        container.setdefault("volumeMounts", []).append(mount)
    spec.setdefault("volumes", []).append({"name": volume, "projected": {"defaultMode": 0o644, "sources": _sources()}})


def _sources() -> list[Object]:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return [
        {"serviceAccountToken": {"expirationSeconds": _TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]  # fmt: skip


def _forbidden(pod: Object, why: str) -> errors.Forbidden:
    name = pod["metadata"].get("name", "")
    return errors.Forbidden(f'pods "{name}" is forbidden: {why}', kind="pods", name=name)
