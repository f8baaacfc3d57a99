"""What a CustomResourceDefinition must hold to, in the words users know.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from collections.abc import Iterator, Sequence
from typing import Any

from apiserver.customresources.jsonpath import PathError, compile_path
from apiserver.customresources.schema_rules import schema_causes
from apiserver.registry import names
from apiserver.registry.kind import Object, duplicate, forbidden, immutable, invalid, required, too_many, unsupported
from apiserver.registry.webhook_rules import client_causes
from machinery.errors import Cause

_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_SCOPES, _STRATEGIES = ("Cluster", "Namespaced"), ("None", "Webhook")
_MAX_WARNING, _MAX_SELECTABLE = 256, 8


def definition_causes(crd: Object) -> Iterator[Cause]:
    """Yield what is wrong with a definition by itself."""
    spec = crd["spec"]
    group, given = spec.get("group", ""), spec.get("names") or {}
    full = f"{given.get('plural', '')}.{group}"
    if crd["metadata"].get("name") != full:
        yield invalid("metadata.name", crd["metadata"].get("name", ""), 'must be spec.names.plural+"."+spec.group')
    if group and (wrong := names.dns_subdomain(group)):
        yield invalid("spec.group", group, wrong)
    elif group and "." not in group:
        yield invalid("spec.group", group, "should be a domain with at least one dot")
    if spec.get("scope") and spec["scope"] not in _SCOPES:
        yield unsupported("spec.scope", spec["scope"], _SCOPES)
    if spec.get("preserveUnknownFields"):
        yield invalid(
            "spec.preserveUnknownFields", True, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true "
            "in spec.versions[*].schema instead",
        )  # fmt: skip
    yield from _version_list_causes(spec.get("versions") or [])
    yield from _name_causes(given)
    yield from _all_versions_causes(spec.get("versions") or [])
    yield from _conversion_causes(spec.get("conversion") or {}, "spec.conversion")
    if group.endswith((".k8s.io", ".kubernetes.io")) or group in ("k8s.io", "kubernetes.io"):
        yield from _approval_causes(crd)


def _approval_causes(crd: Object) -> Iterator[Cause]:
    annotation = "api-approved.kubernetes.io"
    path = f"metadata.annotations[{annotation}]"
    value = (crd["metadata"].get("annotations") or {}).get(annotation, "")
    if not value:
        yield required(
            path, "protected groups must have approval annotation \"api-approved.kubernetes.io\", see "
            "https://github.com/kubernetes/enhancements/pull/1111",
        )  # fmt: skip
    elif not value.startswith(("unapproved", "https://")):
        yield invalid(
            path, value, "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a "
            "URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
        )  # fmt: skip


def _version_list_causes(versions: Sequence[Object]) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, version in enumerate(versions):
        name = version.get("name", "")
        if wrong := names.dns_1035_label(name):
            yield invalid(f"spec.versions[{index}].name", name, wrong)
        if name in seen:
            yield invalid("spec.versions", versions, "must contain unique version names")
        seen.add(name)
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield invalid("spec.versions", versions, "must have exactly one version marked as storage version")


def _name_causes(given: Object) -> Iterator[Cause]:
    path = "spec.names"
    for name in ("plural", "singular", "kind", "listKind"):
        value = given.get(name, "")
        lowered = value.lower() if name in ("kind", "listKind") else value
        if value and (wrong := names.dns_1035_label(lowered)):
            note = "may have mixed case, but should otherwise match: " if lowered is not value else ""
            yield invalid(f"{path}.{name}", value, note + wrong)
    for name in ("shortNames", "categories"):
        for index, value in enumerate(given.get(name) or ()):
            if wrong := names.dns_1035_label(value):
                yield invalid(f"{path}.{name}[{index}]", value, wrong)
    if given.get("kind") and given.get("kind") == given.get("listKind"):
        yield invalid(f"{path}.listKind", given["listKind"], "kind and listKind may not be the same")


def _all_versions_causes(versions: Sequence[Object]) -> Iterator[Cause]:
    """Yield what is wrong with what versions say each.

    What all of them say alike is told of as if it were said once, for that is how upstream looks at it.
    """
    for index, version in enumerate(versions):
        for wrong in _deprecation_problems(version):
            yield invalid(f"spec.versions[{index}].deprecationWarning", version.get("deprecationWarning"), wrong)
    for field, (name, judge) in _PARTS.items():
        if versions and all(_part(version, field) == _part(versions[0], field) for version in versions):
            places = [(versions[0], f"spec.{name}", "spec.versions[0]")]
        else:
            places = [(one, f"spec.versions[{at}].{field}", f"spec.versions[{at}]") for at, one in enumerate(versions)]
        for version, path, whole in places:
            if _part(version, field):
                yield from judge(version, path)
            elif field == "schema":
                yield required(f"{whole}.schema.openAPIV3Schema", "schemas are required")


def _part(version: Object, field: str) -> Any:
    """Return what a version says of something, None where that is nothing."""
    if field == "schema":
        return (version.get("schema") or {}).get("openAPIV3Schema")
    return version.get(field) or None


def _deprecation_problems(version: Object) -> Iterator[str]:
    text = version.get("deprecationWarning")
    if text is None:
        return
    if not version.get("deprecated"):
        yield "can only be set for deprecated versions"
        return
    if len(text.encode()) > _MAX_WARNING:
        yield f"must be <= {_MAX_WARNING} characters long"
    if not text:
        yield "must not be an empty string"
    bad = next((index for index, letter in enumerate(text) if not letter.isprintable()), None)
    if bad is not None:
        at = len(text[:bad].encode())
        yield f"must only contain printable UTF-8 characters; non-printable character found at index {at}"


def _schema_causes(version: Object, path: str) -> Iterator[Cause]:
    schema = version["schema"]["openAPIV3Schema"]
    if isinstance(schema, dict):
        has_status = (version.get("subresources") or {}).get("status") is not None
        yield from schema_causes(schema, f"{path}.openAPIV3Schema", has_status=has_status)


def _subresource_causes(version: Object, path: str) -> Iterator[Cause]:
    if (scale := version["subresources"].get("scale")) is not None:
        yield from _scale_causes(scale, f"{path}.scale")


def _columns_causes(version: Object, path: str) -> Iterator[Cause]:
    for index, column in enumerate(version["additionalPrinterColumns"]):
        yield from _column_causes(column, f"{path}[{index}]")


def _column_causes(column: Object, path: str) -> Iterator[Cause]:
    known = f"must be one of {','.join(_COLUMN_TYPES)}"
    if not column.get("type"):
        yield required(f"{path}.type", known)
    elif column["type"] not in _COLUMN_TYPES:
        yield invalid(f"{path}.type", column["type"], known)
    if (form := column.get("format")) and form not in _COLUMN_FORMATS:
        yield invalid(f"{path}.format", form, f"must be one of {','.join(_COLUMN_FORMATS)}")
    if not column.get("name"):
        yield required(f"{path}.name")
    if not column.get("jsonPath"):
        yield required(f"{path}.JSONPath")
    else:
        yield from _path_causes(column["jsonPath"], f"{path}.JSONPath", "")


def _path_causes(json_path: str, path: str, beginning: str) -> Iterator[Cause]:
    if not json_path.startswith("."):
        yield invalid(path, json_path, "must be a simple json path starting with .")
        return
    try:
        compile_path(json_path)
    except PathError as error:
        yield invalid(path, json_path, str(error))
        return
    if beginning and not json_path.startswith(f"{beginning}."):
        yield invalid(path, json_path, f"should be a json path under {beginning}")


def _scale_causes(scale: Object, path: str) -> Iterator[Cause]:
    for name, beginning in (("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")):
        if scale.get(name):
            yield from _path_causes(scale[name], f"{path}.{name}", beginning)
        else:
            yield required(f"{path}.{name}")
    selector = scale.get("labelSelectorPath")
    if selector and not selector.startswith((".spec.", ".status.")):
        yield invalid(f"{path}.labelSelectorPath", selector, "should be a json path under either .spec or .status")


def _selectable_causes(version: Object, path: str) -> Iterator[Cause]:
    fields = version["selectableFields"]
    if len({one.get("jsonPath") for one in fields}) > _MAX_SELECTABLE:
        yield too_many(path, len(fields), _MAX_SELECTABLE)
    seen: set[str] = set()
    for index, one in enumerate(fields):
        at, json_path = f"{path}[{index}].jsonPath", one.get("jsonPath", "")
        if not json_path:
            yield required(at)
            continue
        if json_path in seen:
            yield duplicate(at, json_path)
        seen.add(json_path)
        schema: Any = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        for name in json_path.removeprefix(".").split("."):
            schema = (schema.get("properties") or {}).get(name) if isinstance(schema, dict) else None
        if json_path.startswith(".metadata"):
            yield invalid(at, json_path, "must not point to fields in metadata")
        elif schema is None:
            yield invalid(at, json_path, "is an invalid path: does not refer to a valid field")
        elif schema.get("type") not in ("string", "boolean", "integer"):
            yield invalid(at, json_path, "must point to a field of type string, boolean or integer. Enum string fields "
                          "and strings with formats are allowed.")  # fmt: skip


def _conversion_causes(conversion: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with how versions are converted; what a webhook is told of by is spelled as upstream does."""
    strategy, webhook = conversion.get("strategy") or "", conversion.get("webhook") or {}
    config, known = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or []
    at, at_versions = f"{path}.webhookClientConfig", f"{path}.conversionReviewVersions"
    if strategy not in _STRATEGIES:
        yield unsupported(f"{path}.strategy", strategy, _STRATEGIES)
    if strategy != "Webhook":
        for given, place in ((config, at), (known, at_versions)):
            if given:
                yield forbidden(place, "should not be set when strategy is not set to Webhook")
        return
    if config is None:
        yield required(at, "required when strategy is set to Webhook")
    else:
        yield from client_causes(config, at)
    yield from _review_version_causes(known, at_versions)


def _review_version_causes(known: Sequence[str], path: str) -> Iterator[Cause]:
    if not known:
        yield required(path)
        return
    for index, version in enumerate(known):
        if version in known[:index]:
            yield invalid(f"{path}[{index}]", version, "duplicate version")
        elif wrong := names.dns_1035_label(version):
            yield invalid(f"{path}[{index}]", version, wrong)
    if not {"v1", "v1beta1"} & set(known):
        yield invalid(path, list(known), "must include at least one of v1, v1beta1")


# What versions say -> what upstream calls it where all say the same, and who judges it.
_PARTS = {
    "schema": ("validation", _schema_causes), "subresources": ("subresources", _subresource_causes),
    "additionalPrinterColumns": ("additionalPrinterColumns", _columns_causes),
    "selectableFields": ("selectableFields", _selectable_causes),
}  # fmt: skip


def update_causes(new: Object, old: Object) -> Iterator[Cause]:
    """Yield what a change of a definition may not do."""
    yield from immutable("spec.group", new["spec"]["group"], old["spec"]["group"])
    yield from immutable("spec.names.plural", new["spec"]["names"]["plural"], old["spec"]["names"]["plural"])
    conditions = (old.get("status") or {}).get("conditions") or ()
    if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
        yield from immutable("spec.scope", new["spec"]["scope"], old["spec"]["scope"])
        yield from immutable("spec.names.kind", new["spec"]["names"]["kind"], old["spec"]["names"]["kind"])
    present = {version["name"] for version in new["spec"]["versions"]}
    for index, stored in enumerate((new.get("status") or {}).get("storedVersions") or ()):
        if stored not in present:
            yield invalid(
                f"status.storedVersions[{index}]", stored, "missing from spec.versions; "
                f"{stored} was previously a storage version, and must remain in spec.versions until a storage "
                f"migration ensures no data remains persisted in {stored} and removes {stored} from "
                "status.storedVersions",
            )  # fmt: skip
