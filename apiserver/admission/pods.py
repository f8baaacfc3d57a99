"""What every pod is given: its service account and token, default tolerations, a priority.

Sources: the ServiceAccount, DefaultTolerationSeconds and Priority admission controllers,
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from apiserver.registry import names
from apiserver.registry.kind import Object
from apiserver.registry.scheduling import SYSTEM_PRIORITIES
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.resources import PRIORITY_CLASSES, RUNTIME_CLASSES

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path, not a secret
MIRROR = "kubernetes.io/config.mirror"
_TOKEN_SECONDS = 3607
_WAIT_SECONDS = 300


def admit(cache: WatchCache, namespace: str, pod: Object, enabled: frozenset[str]) -> None:
    """Complete a new pod by the steps that are enabled.

    Raises: Forbidden when its service account, priority class or runtime class is not there.
    """
    if "DefaultTolerationSeconds" in enabled:
        _add_tolerations(pod["spec"])
    if "Priority" in enabled:
        _set_priority(cache, pod)
    if "RuntimeClass" in enabled:
        _apply_runtime_class(cache, pod)
    if "ServiceAccount" in enabled and MIRROR not in (pod["metadata"].get("annotations") or {}):
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


def _set_priority(cache: WatchCache, pod: Object) -> None:
    """Take the priority of the pod's class, or of the default class where it names none."""
    spec = pod["spec"]
    name = spec.get("priorityClassName", "")
    plural = PRIORITY_CLASSES.group_resource
    collection = cache.collection(plural)
    if name:
        entry = collection.get(f"/registry/{plural}/{name}")
        if entry is None and name not in SYSTEM_PRIORITIES:
            raise _forbidden(pod, f"no PriorityClass with name {name} was found")
        found: Object = entry.object() if entry is not None else {"value": SYSTEM_PRIORITIES[name]}
    else:
        defaults = [one.object() for one in collection.entries("") if _GLOBAL_DEFAULT in one.value]
        found = min(defaults, key=lambda obj: int(obj["value"]), default={"value": 0})
        if "metadata" in found:
            spec["priorityClassName"] = found["metadata"]["name"]
    value, policy = found["value"], found.get("preemptionPolicy", "PreemptLowerPriority")
    if spec.get("priority") not in (None, value):
        why = f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
        raise _forbidden(pod, why + f"priority admission controller computed {value} from the given PriorityClass name")
    if spec.get("preemptionPolicy") not in (None, policy):
        why = f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec; "
        raise _forbidden(
            pod, why + f"priority admission controller computed {policy} from the given PriorityClass name"
        )
    spec["priority"], spec["preemptionPolicy"] = value, policy


# How the PriorityClass is encoded that holds for pods which name none; every pod asks, so none is decoded for it.
_GLOBAL_DEFAULT = b'"globalDefault":true'


def _apply_runtime_class(cache: WatchCache, pod: Object) -> None:
    """Add what the pod's runtime class brings: its overhead, and where its pods may go."""
    spec, plural = pod["spec"], RUNTIME_CLASSES.group_resource
    name = spec.get("runtimeClassName")
    if not name:
        if spec.get("overhead"):
            raise _forbidden(pod, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
        return
    entry = cache.collection(plural).get(f"/registry/{plural}/{name}")
    if entry is None:
        raise _forbidden(pod, f'pod rejected: RuntimeClass "{name}" not found')
    runtime = entry.object()
    overhead = (runtime.get("overhead") or {}).get("podFixed")
    if spec.get("overhead") and spec["overhead"] != overhead:
        why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        raise _forbidden(pod, why)
    if overhead:
        spec["overhead"] = overhead
    scheduling = runtime.get("scheduling") or {}
    selector = spec.get("nodeSelector") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if selector.get(key, value) != value:
            theirs, ours = f"runtimeClass.scheduling.nodeSelector[{key}]", f"pod.spec.nodeSelector[{key}]"
            raise _forbidden(pod, f"pod rejected: conflict: {theirs} = {value}; {ours} = {selector[key]}")
        spec.setdefault("nodeSelector", {})[key] = value
    for toleration in scheduling.get("tolerations") or ():
        if toleration not in spec.setdefault("tolerations", []):
            spec["tolerations"].append(toleration)


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
