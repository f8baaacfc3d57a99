"""OpenAPI schemas of custom resources, for explain, for validation by clients and for code generators."""

from collections.abc import Mapping
from typing import Any

from apiserver.customresources.structural import Structural
from machinery.api.meta import Resource

_META = "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1."
_KIND = {
    "type": "string",
    "description": "Kind is a string value representing the REST resource this object represents. Servers may infer "
    "this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
}
_API_VERSION = {
    "type": "string",
    "description": "APIVersion defines the versioned schema of this representation of an object. Servers should "
    "convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
}


def definition_name(resource: Resource) -> str:
    """Return the name of a kind's definition: "com.example.stable.v1.CronTab"."""
    group = ".".join(reversed(resource.group.split(".")))
    return f"{group}.{resource.version}.{resource.kind}"


def schemas(resource: Resource, schema: Structural, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas of a kind and of its list, references in the style of the built-in definitions."""
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    raw = dict(schema.raw)
    raw.setdefault("type", "object")
    metadata = {
        "description": "Standard object's metadata. More info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "allOf": [{"$ref": f"{_META}ObjectMeta"}],
    }
    own = {"apiVersion": _API_VERSION, "kind": _KIND, "metadata": metadata}
    raw["properties"] = {**(raw.get("properties") or {}), **own}
    raw["x-kubernetes-group-version-kind"] = [gvk]
    name = definition_name(resource)
    listed = {
        "description": f"{resource.kind}List is a list of {resource.kind}", "type": "object", "required": ["items"],
        "properties": {
            "apiVersion": _API_VERSION, "kind": _KIND,
            "items": {
                "description": f"List of {names['plural']}. More info: "
                "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                "type": "array", "items": {"$ref": f"#/$defs/{name}"},
            },
            "metadata": {**metadata, "allOf": [{"$ref": f"{_META}ListMeta"}]},
        },
        "x-kubernetes-group-version-kind": [{**gvk, "kind": names.get("listKind") or f"{resource.kind}List"}],
    }  # fmt: skip
    return {name: raw, f"{name}List": listed}
