"""Volumes of pods, and persistent volumes, claims and storage classes."""

from collections.abc import Sequence
from typing import Any

from cli.describing.writer import NONE, Object, Writer, annotations, head, mapping, truth

# What each kind of volume says of itself: title and field (with its default), in kubectl's order.
_KINDS: dict[str, tuple[str, tuple[tuple[str, str, Any], ...]]] = {
    "hostPath": ("HostPath (bare host directory volume)", (("Path", "path", ""), ("HostPathType", "type", ""))),
    "nfs": (
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        (("Server", "server", ""), ("Path", "path", ""), ("ReadOnly", "readOnly", False)),
    ),
    "persistentVolumeClaim": (
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        (("ClaimName", "claimName", ""), ("ReadOnly", "readOnly", False)),
    ),
    "local": ("LocalVolume (a persistent volume backed by local storage on a node)", (("Path", "path", ""),)),
}  # fmt: skip


def volumes(out: Writer, found: Sequence[Object], *, space: str) -> None:
    """Write a pod's volumes."""
    if not found:
        out.write(0, f"{space}Volumes:\t{NONE}")
        return
    out.write(0, f"{space}Volumes:")
    for one in found:
        out.write(1, f"{' ' if space else ''}{one['name']}:")
        source(out, one)


def source(out: Writer, volume: Object) -> None:
    """Write what a volume is made of."""
    kind = next((key for key in volume if key != "name"), "")
    body = volume.get(kind) or {}
    special = {
        "emptyDir": _empty_dir, "configMap": _config_map, "secret": _secret, "projected": _projected,
        "downwardAPI": _downward, "csi": _csi, "ephemeral": _ephemeral, "image": _image,
    }.get(kind)  # fmt: skip
    if special is not None:
        special(out, body)
    elif kind in _KINDS:
        text, fields = _KINDS[kind]
        out.write(2, f"Type:\t{text}")
        for title, field, default in fields:
            value = body.get(field, default)
            out.write(2, f"{title}:\t{truth(value) if isinstance(value, bool) else value}")
    else:
        out.write(2, f"Type:\t{kind or '<unknown>'}")


def _empty_dir(out: Writer, body: Object) -> None:
    out.write(2, "Type:\tEmptyDir (a temporary directory that shares a pod's lifetime)")
    out.write(2, f"Medium:\t{body.get('medium', '')}")
    out.write(2, f"SizeLimit:\t{body.get('sizeLimit', '<unset>')}")


def _config_map(out: Writer, body: Object) -> None:
    out.write(2, "Type:\tConfigMap (a volume populated by a ConfigMap)")
    out.write(2, f"Name:\t{body.get('name', '')}")
    out.write(2, f"Optional:\t{truth(body.get('optional'))}")


def _secret(out: Writer, body: Object) -> None:
    out.write(2, "Type:\tSecret (a volume populated by a Secret)")
    out.write(2, f"SecretName:\t{body.get('secretName', '')}")
    out.write(2, f"Optional:\t{truth(body.get('optional'))}")


def _projected(out: Writer, body: Object) -> None:
    out.write(2, "Type:\tProjected (a volume that contains injected data from multiple sources)")
    for one in body.get("sources") or ():
        if "secret" in one:
            out.write(2, f"SecretName:\t{one['secret'].get('name', '')}")
            out.write(2, f"Optional:\t{truth(one['secret'].get('optional'))}")
        elif "downwardAPI" in one:
            out.write(2, "DownwardAPI:\ttrue")
        elif "configMap" in one:
            out.write(2, f"ConfigMapName:\t{one['configMap'].get('name', '')}")
            out.write(2, f"Optional:\t{truth(one['configMap'].get('optional'))}")
        elif "serviceAccountToken" in one:
            out.write(2, f"TokenExpirationSeconds:\t{one['serviceAccountToken'].get('expirationSeconds', 3600)}")


def _downward(out: Writer, body: Object) -> None:
    out.write(2, "Type:\tDownwardAPI (a volume populated by information about the pod)")
    out.write(2, "Items:")
    for one in body.get("items") or ():
        if "fieldRef" in one:
            out.write(3, f"{one['fieldRef']['fieldPath']} -> {one['path']}")
        if "resourceFieldRef" in one:
            out.write(3, f"{one['resourceFieldRef']['resource']} -> {one['path']}")


def _csi(out: Writer, body: Object) -> None:
    out.write(2, "Type:\tCSI (a Container Storage Interface (CSI) volume source)")
    out.write(2, f"Driver:\t{body.get('driver', '')}")
    out.write(2, f"FSType:\t{body.get('fsType', '')}")
    out.write(2, f"ReadOnly:\t{truth(body.get('readOnly'))}")
    mapping(out, 2, "VolumeAttributes", body.get("volumeAttributes"))


def _image(out: Writer, body: Object) -> None:
    out.write(2, "Type:\tImage (a container image or OCI artifact)")
    out.write(2, f"Reference:\t{body.get('reference', '')}")
    out.write(2, f"PullPolicy:\t{body.get('pullPolicy', '')}")


def _ephemeral(out: Writer, body: Object) -> None:
    out.write(
        2, "Type:\tEphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)"
    )
    spec = (body.get("volumeClaimTemplate") or {}).get("spec") or {}
    out.write(2, f"StorageClass:\t{spec.get('storageClassName', '')}")
    out.write(2, f"Volume:\t{spec.get('volumeName', '')}")


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(found: Sequence[str]) -> str:
    return ",".join(_MODES.get(one, one) for one in found)


def persistent_volume(out: Writer, obj: Object) -> None:
    """Write a persistent volume."""
    spec, status = obj["spec"], obj.get("status") or {}
    head(out, obj, namespaced=False)
    out.write(0, f"Finalizers:\t[{' '.join(obj['metadata'].get('finalizers') or ())}]")
    out.write(0, f"StorageClass:\t{spec.get('storageClassName', '')}")
    out.write(0, f"Status:\t{status.get('phase', '')}")
    claim = spec.get("claimRef")
    out.write(0, f"Claim:\t{claim['namespace']}/{claim['name']}" if claim else "Claim:\t")
    out.write(0, f"Reclaim Policy:\t{spec.get('persistentVolumeReclaimPolicy', '')}")
    out.write(0, f"Access Modes:\t{_modes(spec.get('accessModes') or ())}")
    out.write(0, f"VolumeMode:\t{spec.get('volumeMode', 'Filesystem')}")
    out.write(0, f"Capacity:\t{(spec.get('capacity') or {}).get('storage', '')}")
    _affinity(out, spec.get("nodeAffinity"))
    out.write(0, f"Message:\t{status.get('message', '')}")
    out.write(0, "Source:")
    kind = next((key for key in spec if key in (*_KINDS, "csi")), "")
    inner = Writer()
    source(inner, {kind: spec.get(kind)} if kind else {})
    for line in inner.raw().split("\n"):
        out.write(0, line)


def _affinity(out: Writer, affinity: Object | None) -> None:
    if not affinity:
        out.write(0, f"Node Affinity:\t{NONE}")
        return
    out.write(0, "Node Affinity:\t")
    terms = ((affinity.get("required") or {}).get("nodeSelectorTerms")) or ()
    out.write(1, "Required Terms:\t")
    for at, term in enumerate(terms):
        found = [*(term.get("matchExpressions") or ()), *(term.get("matchFields") or ())]
        for number, one in enumerate(found):
            title = f"Term {at}:" if number == 0 else ""
            values = f" [{', '.join(one.get('values') or ())}]" if one.get("values") else ""
            out.write(2, f"{title}\t{one['key']} {one['operator'].lower()}{values}")


def persistent_volume_claim(out: Writer, obj: Object) -> None:
    """Write a claim; who uses it is added by the caller."""
    spec, status, metadata = obj["spec"], obj.get("status") or {}, obj["metadata"]
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    out.write(0, f"StorageClass:\t{spec.get('storageClassName', '')}")
    out.write(0, f"Status:\t{'Terminating' if metadata.get('deletionTimestamp') else status.get('phase', '')}")
    out.write(0, f"Volume:\t{spec.get('volumeName', '')}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    out.write(0, f"Finalizers:\t[{' '.join(metadata.get('finalizers') or ())}]")
    capacity = (status.get("capacity") or {}).get("storage", "") if spec.get("volumeName") else ""
    out.write(0, f"Capacity:\t{capacity}")
    out.write(0, f"Access Modes:\t{_modes(status.get('accessModes') or ())}")
    out.write(0, f"VolumeMode:\t{spec.get('volumeMode', 'Filesystem')}")


def storage_class(out: Writer, obj: Object) -> None:
    """Write a storage class."""
    metadata = obj["metadata"]
    found = metadata.get("annotations") or {}
    default = found.get("storageclass.kubernetes.io/is-default-class") == "true"
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"IsDefaultClass:\t{'Yes' if default else 'No'}")
    out.write(0, "Annotations:\t" + (",".join(f"{key}={value}" for key, value in sorted(found.items())) or NONE))
    out.write(0, f"Provisioner:\t{obj['provisioner']}")
    parameters = obj.get("parameters") or {}
    out.write(0, "Parameters:\t" + (",".join(f"{key}={value}" for key, value in sorted(parameters.items())) or NONE))
    expands = obj.get("allowVolumeExpansion")
    out.write(0, f"AllowVolumeExpansion:\t{'<unset>' if expands is None else 'True' if expands else 'False'}")
    options = obj.get("mountOptions") or ()
    if not options:
        out.write(0, f"MountOptions:\t{NONE}")
    else:
        out.write(0, "MountOptions:")
        for one in options:
            out.write(1, one)
    out.write(0, f"ReclaimPolicy:\t{obj.get('reclaimPolicy', '')}")
    out.write(0, f"VolumeBindingMode:\t{obj.get('volumeBindingMode', '')}")
