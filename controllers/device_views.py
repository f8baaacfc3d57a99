"""Claims and slices of devices, as far as controllers read them."""

from controllers.views import JSON, ObjectMeta, View


class ResourceClaimStatus(View, frozen=True):
    """What a claim has, and for whom."""

    allocation: JSON | None = None
    reservedFor: tuple[JSON, ...] = ()


class ResourceClaim(View, frozen=True):
    """A ResourceClaim."""

    metadata: ObjectMeta
    status: ResourceClaimStatus = ResourceClaimStatus()


class ResourceSlice(View, frozen=True):
    """A ResourceSlice."""

    metadata: ObjectMeta
    spec: JSON
