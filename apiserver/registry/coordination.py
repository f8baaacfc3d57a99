"""The groups coordination.k8s.io and discovery.k8s.io: leases and endpoint slices."""

from collections.abc import Iterator

from apiserver.registry.columns import AGE, NAME
from apiserver.registry.endpoint_rules import slice_causes
from apiserver.registry.kind import Column, Kind, Object, immutable, invalid
from machinery.api import resources
from machinery.errors import Cause


def _lease_causes(lease: Object) -> Iterator[Cause]:
    spec = lease.get("spec") or {}
    for field in ("leaseDurationSeconds",):
        if spec.get(field) is not None and spec[field] <= 0:
            yield invalid(f"spec.{field}", spec[field], "must be greater than 0")
    if spec.get("leaseTransitions", 0) < 0:
        yield invalid("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0")


def _default_slice(endpoint_slice: Object) -> None:
    for port in endpoint_slice.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _ports_text(endpoint_slice: Object) -> str:
    ports = [str(port.get("port", "*")) for port in endpoint_slice.get("ports") or ()]
    return _shortened(ports) or "<unset>"


def _endpoints_text(endpoint_slice: Object) -> str:
    found = [address for one in endpoint_slice.get("endpoints") or () for address in one.get("addresses") or ()]
    return _shortened(found) or "<unset>"


def _shortened(texts: list[str]) -> str:
    return ",".join(texts[:3]) + (f" + {len(texts) - 3} more..." if len(texts) > 3 else "")


KINDS = (
    Kind(
        resources.LEASES, "io.k8s.api.coordination.v1.Lease", "lease",
        columns=(NAME, Column("Holder", lambda obj: (obj.get("spec") or {}).get("holderIdentity", "")), AGE),
        validate=lambda obj: list(_lease_causes(obj)), creates_on_update=True, unconditional_update=False,
    ),
    Kind(
        resources.ENDPOINT_SLICES, "io.k8s.api.discovery.v1.EndpointSlice", "endpointslice",
        columns=(
            NAME, Column("AddressType", lambda obj: obj.get("addressType", "")),
            Column("Ports", _ports_text), Column("Endpoints", _endpoints_text), AGE,
        ),
        default=_default_slice, validate=lambda obj: list(slice_causes(obj)),
        validate_update=lambda new, old: immutable("addressType", new.get("addressType"), old.get("addressType")),
        optional_required=frozenset({"endpoints"}), has_generation=True,
    ),
)  # fmt: skip
