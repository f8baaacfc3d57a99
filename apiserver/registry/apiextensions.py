"""The group apiextensions.k8s.io: definitions of custom resources."""

from apiserver.customresources.definition_rules import definition_causes, update_causes
from apiserver.registry.columns import NAME
from apiserver.registry.kind import STATUS, Column, Kind, Object, default_text
from machinery.api import meta
from machinery.api.meta import Resource

DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


def _default(crd: Object) -> None:
    spec = crd.setdefault("spec", {})
    names = spec.get("names") or {}
    if kind := names.get("kind"):
        default_text(names, "singular", kind.lower())
        default_text(names, "listKind", f"{kind}List")
    conversion = spec.setdefault("conversion", {"strategy": "None"})
    default_text(conversion, "strategy", "None")
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service:
        service.setdefault("port", 443)


def _stored_versions(crd: Object) -> None:
    stored = crd["status"].setdefault("storedVersions", [])
    stored += [v["name"] for v in crd["spec"].get("versions") or () if v.get("storage") and v["name"] not in stored]


def _prepare_create(crd: Object) -> None:
    crd["status"] = {"acceptedNames": {"plural": "", "kind": ""}, "conditions": [], "storedVersions": []}
    _stored_versions(crd)


def _prepare_update(crd: Object, _: Object) -> None:
    if crd.get("status"):
        _stored_versions(crd)


def _prepare_delete(crd: Object) -> None:
    """Hold an established definition until its instances are gone."""
    if crd["metadata"].get("deletionTimestamp"):
        return
    conditions = (crd.get("status") or {}).get("conditions") or []
    if not any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
        return
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    conditions[:] = [one for one in conditions if one["type"] != "Terminating"]
    conditions.append(
        {
            "type": "Terminating", "status": "True", "lastTransitionTime": meta.now(),
            "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        }
    )  # fmt: skip


KIND = Kind(
    DEFINITIONS, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    "customresourcedefinition", ("crd", "crds"), ("api-extensions",), subresources={"status": STATUS},
    columns=(NAME, Column("Created At", lambda crd: crd["metadata"]["creationTimestamp"], type="date")),
    default=_default, validate=lambda crd: list(definition_causes(crd)),
    validate_update=lambda new, old: list(update_causes(new, old)),
    prepare_create=_prepare_create, prepare_update=_prepare_update, prepare_delete=_prepare_delete,
    has_generation=True, unconditional_update=False,
)  # fmt: skip
KINDS = (KIND,)
