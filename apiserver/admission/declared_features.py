"""NodeDeclaredFeatureValidator: changes of running pods that their node does not say it can follow are refused.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
"""

from apiserver.admission.attributes import Attributes
from apiserver.registry.kind import Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.quantity import parse_quantity
from machinery.api.resources import NODES

_GUARANTEED_CPU = "GuaranteedQoSPodCPUResize"


def check(cache: WatchCache, request: Attributes) -> None:
    """Refuse a change of a bound pod that needs features its node does not declare. Raises: Forbidden."""
    new, old = request.present, request.old
    if old is None or not (name := new["spec"].get("nodeName")) or not _resizes_guaranteed_cpu(new, old):
        return
    entry = cache.collection(NODES.group_resource).get(f"/registry/nodes/{name}")
    if entry is None:
        why = f'node "{name}" not found'
    elif _GUARANTEED_CPU not in ((entry.object().get("status") or {}).get("declaredFeatures") or ()):
        why = f'pod update requires features {_GUARANTEED_CPU} which are not available on node "{name}"'
    else:
        return
    pod = new["metadata"]["name"]
    raise errors.Forbidden(f'pods "{pod}" is forbidden: {why}', kind="pods", name=pod)


def _resizes_guaranteed_cpu(new: Object, old: Object) -> bool:
    if (old.get("status") or {}).get("qosClass") != "Guaranteed":
        return False
    pairs = zip(old["spec"]["containers"], new["spec"]["containers"], strict=False)
    return any(_cpu(before) != _cpu(after) for before, after in pairs)


def _cpu(container: Object) -> object:
    return parse_quantity(((container.get("resources") or {}).get("requests") or {}).get("cpu", "0"))
