"""Who may do what to claims of devices: look at what others have, hand devices out, tell how they are.

Looking on is for namespaces whose label says so. Who writes a claim's status needs more than leave to write it: to hand
devices out, `resourceclaims/binding`; to tell of a driver's devices, `resourceclaims/driver` of its name, on the node
the writer runs on (associated-node:VERB) or on any (arbitrary-node:VERB).

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#admin-access
and https://kubernetes.io/docs/concepts/security/hardening-guide/dynamic-resource-allocation/
"""

from collections.abc import Iterator, Sequence

from apiserver.admission.attributes import Attributes
from apiserver.auth.rbac import Authorizer
from apiserver.auth.user import User
from apiserver.registry.kind import Kind, Object, forbidden
from apiserver.registry.object_rules import raise_invalid
from apiserver.request import RequestInfo
from apiserver.storage.watch_cache import WatchCache
from machinery.errors import Cause, Forbidden

LABEL = "resource.kubernetes.io/admin-access"


def check_admin_access(cache: WatchCache, kind: Kind, namespace: str, obj: Object) -> None:
    """Refuse a claim, or a template of claims, that asks for more than its namespace may. Raises: Invalid."""
    spec, path = obj.get("spec") or {}, "spec"
    if kind.built_in_kind == "ResourceClaimTemplate":
        spec, path = spec.get("spec") or {}, "spec.spec"
    causes = list(_causes(spec, path))
    if not causes:
        return
    entry = cache.collection("namespaces").get(f"/registry/namespaces/{namespace}")
    labels = (entry.object()["metadata"].get("labels") or {}) if entry is not None else {}
    if labels.get(LABEL) != "true":
        raise_invalid(kind, obj, causes)


def _causes(spec: Object, path: str) -> Iterator[Cause]:
    for index, request in enumerate((spec.get("devices") or {}).get("requests") or ()):
        if (request.get("exactly") or {}).get("adminAccess"):
            why = f"admin access to devices requires the `{LABEL}: true` label on the containing namespace"
            yield forbidden(f"{path}.devices.requests[{index}].adminAccess", why)
            return


def check_status(authorizer: Authorizer, request: Attributes) -> None:
    """Refuse a change of a claim's status that its writer has no leave for. Raises: Invalid."""
    user = request.user
    if user is None:
        return
    old, new = (((one or {}).get("status") or {}) for one in (request.old, request.obj))
    causes = []
    if any(old.get(field) != new.get(field) for field in ("allocation", "reservedFor")):
        asked = _asked(request.verb, "binding")
        if why := _refusal(authorizer, user, [asked]):
            needed = f'resource="resourceclaims/binding", verb="{request.verb}" permission'
            causes.append(
                forbidden("status", f"changing status.allocation or status.reservedFor requires {needed}: {why}")
            )
    verbs = [f"arbitrary-node:{request.verb}"]
    if _runs_on(user, _node_of(new.get("allocation") or {})):
        verbs.insert(0, f"associated-node:{request.verb}")
    for driver in _drivers_told_of(old.get("devices") or (), new.get("devices") or ()):
        asked_of_driver = [_asked(verb, "driver", namespace=request.namespace, name=driver) for verb in verbs]
        if why := _refusal(authorizer, user, asked_of_driver):
            needed = f'resource="resourceclaims/driver", verb="[{" ".join(verbs)}]" permission'
            causes.append(forbidden("status.devices", f"changing status.devices requires {needed}: {why}"))
    if causes:
        raise_invalid(request.kind, request.present, causes)


def _asked(verb: str, subresource: str, *, namespace: str = "", name: str = "") -> RequestInfo:
    return RequestInfo(
        verb, "", is_resource=True, group="resource.k8s.io", version="v1", namespace=namespace,
        resource="resourceclaims", name=name, subresource=subresource,
    )  # fmt: skip


def _refusal(authorizer: Authorizer, user: User, asked: Sequence[RequestInfo]) -> str:
    """Return why none of these is allowed; nothing when one is."""
    first = ""
    for one in asked:
        try:
            authorizer.authorize(user, one)
        except Forbidden as error:
            first = first or str(error)
        else:
            return ""
    return first


def _drivers_told_of(old: Sequence[Object], new: Sequence[Object]) -> list[str]:
    """Return the drivers of whose devices something else is told now."""
    before, after = ({_device(one): one for one in devices} for devices in (old, new))
    return sorted({key[0] for key in before.keys() | after.keys() if before.get(key) != after.get(key)})


def _device(one: Object) -> tuple[str, ...]:
    return tuple(str(one.get(field) or "") for field in ("driver", "pool", "device", "shareID"))


def _node_of(allocation: Object) -> str:
    """Return the one node whose devices these are; nothing when they are not of one node alone."""
    terms: Sequence[Object] = (allocation.get("nodeSelector") or {}).get("nodeSelectorTerms") or ()
    if len(terms) != 1 or terms[0].get("matchExpressions"):
        return ""
    rules: Sequence[Object] = terms[0].get("matchFields") or ()
    if len(rules) != 1 or (rules[0].get("key"), rules[0].get("operator")) != ("metadata.name", "In"):
        return ""
    values: Sequence[str] = rules[0].get("values") or ()
    return str(values[0]) if len(values) == 1 else ""


def _runs_on(user: User, node: str) -> bool:
    """Say whether a service account's token is one of a pod on a node."""
    names = user.extra.get("authentication.kubernetes.io/node-name") or ()
    return bool(node) and user.name.startswith("system:serviceaccount:") and list(names) == [node]
