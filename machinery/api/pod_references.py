"""The objects a pod names: secrets, config maps, claims, its service account.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from collections.abc import Iterator, Mapping
from typing import Any

_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
# Volume sources that name a secret directly: field of the source -> where the name is.
_SECRET_REFERENCES = ("cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos")


def references(pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield plural and name of what a pod of the same namespace names; the same one may come twice."""
    spec, metadata = pod["spec"], pod["metadata"]
    if account := spec.get("serviceAccountName"):
        yield "serviceaccounts", account
    for secret in spec.get("imagePullSecrets") or ():
        if secret.get("name"):
            yield "secrets", secret["name"]
    for group in _CONTAINERS:
        for container in spec.get(group) or ():
            yield from _of_container(container)
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume, metadata.get("name", ""))
    statuses = (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    made = {one["name"]: one.get("resourceClaimName") for one in statuses}
    for claim in spec.get("resourceClaims") or ():
        if name := claim.get("resourceClaimName") or made.get(claim["name"]):
            yield "resourceclaims", name
    told = (pod.get("status") or {}).get("extendedResourceClaimStatus") or {}
    if told.get("resourceClaimName"):
        yield "resourceclaims", told["resourceClaimName"]


def _of_container(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom") or ():
        yield from _named(source.get("configMapRef"), "configmaps")
        yield from _named(source.get("secretRef"), "secrets")
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        yield from _named(source.get("configMapKeyRef"), "configmaps")
        yield from _named(source.get("secretKeyRef"), "secrets")


def _named(reference: Any, plural: str) -> Iterator[tuple[str, str]]:
    if reference and reference.get("name"):
        yield plural, reference["name"]


def _of_volume(volume: Mapping[str, Any], pod: str) -> Iterator[tuple[str, str]]:
    yield from _named(volume.get("configMap"), "configmaps")
    if name := (volume.get("secret") or {}).get("secretName"):
        yield "secrets", name
    if name := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
        yield "persistentvolumeclaims", name
    if "ephemeral" in volume:
        yield "persistentvolumeclaims", f"{pod}-{volume['name']}"
    yield from _named((volume.get("csi") or {}).get("nodePublishSecretRef"), "secrets")
    if name := (volume.get("azureFile") or {}).get("secretName"):
        yield "secrets", name
    for field in _SECRET_REFERENCES:
        yield from _named((volume.get(field) or {}).get("secretRef"), "secrets")
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield from _named(source.get("configMap"), "configmaps")
        yield from _named(source.get("secret"), "secrets")
