"""What definitions of custom resources may say, told in upstream's words.

https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go
"""

import copy
from typing import Any

import pytest

from apiserver.customresources.definition_rules import definition_causes
from apiserver.registry.apiextensions import KIND

TEXT, AT = {"type": "string"}, "spec.validation.openAPIV3Schema"
COLUMN = {"name": "A", "type": "string", "jsonPath": ".spec.a"}
LABEL = "a DNS-1035 label must consist of lower case alphanumeric characters or '-'"
EMBEDDED = {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True}


def version(name: str = "v1", schema: Any = None, **fields: Any) -> dict[str, Any]:
    shape = {"type": "object", "properties": {"spec": {"type": "object"}}} if schema is None else schema
    return {"name": name, "served": True, "storage": name == "v1", "schema": {"openAPIV3Schema": shape}, **fields}


def told(*versions: dict[str, Any], **spec: Any) -> list[str]:
    crd: dict[str, Any] = {
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
                 "versions": copy.deepcopy(list(versions)) or [version()], **spec},
    }  # fmt: skip
    KIND.default(crd)
    return [f"{cause.field}: {cause.message}" for cause in definition_causes(crd)]


def field(**schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


def array(list_type: str, items: dict[str, Any], *keys: str) -> dict[str, Any]:
    extra = {"x-kubernetes-list-map-keys": list(keys)} if keys else {}
    return field(type="array", items=items, **{"x-kubernetes-list-type": list_type}, **extra)


def rule(*, on: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    inner = {"type": "object", "properties": {"x": TEXT}, **(on or {})}
    return field(**inner, **{"x-kubernetes-validations": [given]})


RULE = f"{AT}.properties[a].x-kubernetes-validations[0]"
ITEM = {"type": "object", "properties": {"k": TEXT}, "required": ["k"]}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        # structural
        ({"type": "array", "items": TEXT}, f'{AT}.type: Invalid value: "array": must be object at the root'),
        ({"properties": {"a": TEXT}}, f"{AT}.type: Required value: must not be empty at the root"),
        ({"type": "object", "additionalProperties": TEXT}, f"{AT}.additionalProperties: Forbidden: must not be used at the root"),
        ({"type": "object", "nullable": True}, f"{AT}.nullable: Forbidden: nullable cannot be true at the root"),
        (field(type="array", items={}), f"{AT}.properties[a].items.type: Required value: must not be empty for specified array items"),
        (field(type="array"), f"{AT}.properties[a].items: Required value: must be specified"),
        (field(type="string", **{"x-kubernetes-embedded-resource": True}),
         f'{AT}.properties[a].type: Invalid value: "string": must be object if x-kubernetes-embedded-resource is true'),
        (field(type="object", **{"x-kubernetes-embedded-resource": True}),
         f"{AT}.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without "
         "x-kubernetes-preserve-unknown-fields"),
        (field(**EMBEDDED, additionalProperties=TEXT),
         f"{AT}.properties[a].additionalProperties: Forbidden: must not be used if x-kubernetes-embedded-resource is set"),
        (field(**{"x-kubernetes-int-or-string": True, "x-kubernetes-preserve-unknown-fields": True}),
         f"{AT}.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if "
         "x-kubernetes-int-or-string is true"),
        ({"type": "object", "properties": {"kind": {"type": "integer"}}},
         f'{AT}.properties[kind].type: Invalid value: "integer": must be string'),
        ({"type": "object", "properties": {"metadata": TEXT}}, f'{AT}.properties[metadata].type: Invalid value: "string": must be object'),
        ({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}},
         f"{AT}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is "
         "implicitly specified"),
        (field(type="string", anyOf=[{"type": "string"}]), f"{AT}.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
        (field(type="string", **{"not": {"nullable": True}}), f"{AT}.properties[a].not.nullable: Forbidden: must be false to be structural"),
        (field(type="string", allOf=[{"default": "x"}]), f"{AT}.properties[a].allOf[0].default: Forbidden: must be undefined to be structural"),
        (field(type="object", oneOf=[{"additionalProperties": {"maxLength": 3}}]),
         f"{AT}.properties[a].oneOf[0].additionalProperties: Forbidden: must be undefined to be structural"),
        ({"type": "object", "oneOf": [{"properties": {"b": {"maxLength": 3}}}]},
         f"{AT}.properties[b]: Required value: because it is defined in {AT}.oneOf[0].properties[b]"),
        ({**field(type="object"), "allOf": [{"properties": {"a": {"items": {"maxLength": 3}}}}]},
         f"{AT}.properties[a].items: Required value: because it is defined in {AT}.allOf[0].properties[a].items"),
        ({"type": "object", "anyOf": [{"properties": {"metadata": {"required": ["x"]}}}], "properties": {"metadata": {"type": "object"}}},
         f"{AT}.anyOf[0].properties[metadata]: Forbidden: must not be specified in a nested context"),
        (field(type="string", pattern="("), f'{AT}.properties[a].pattern: Invalid value: "(": must be a valid regular expression'),
        # what the rest may not say
        (field(type="strange"), f'{AT}.properties[a].type: Unsupported value: "strange": supported values: "array", "boolean"'),
        (field(type="string", **{"$ref": "#/x"}), f"{AT}.properties[a].$ref: Forbidden: $ref is not supported"),
        (field(type="object", patternProperties={"a": TEXT}),
         f"{AT}.properties[a].patternProperties: Forbidden: patternProperties is not supported"),
        (field(type="array", items=TEXT, uniqueItems=True), f"{AT}.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true"),
        (field(type="object", properties={"b": TEXT}, additionalProperties=TEXT),
         f"{AT}.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"),
        (field(type="object", **{"x-kubernetes-preserve-unknown-fields": False}),
         f"{AT}.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"),
        ({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}},
         f"{AT}.properties[metadata].default: Forbidden: must not be set in top-level metadata"),
        # lists and maps
        (field(type="string", **{"x-kubernetes-map-type": "atomic"}),
         f'{AT}.properties[a].type: Invalid value: "string": must be object if x-kubernetes-map-type is specified'),
        (field(type="object", **{"x-kubernetes-map-type": "odd"}),
         f'{AT}.properties[a].x-kubernetes-map-type: Unsupported value: "odd": supported values: "atomic", "granular"'),
        (field(type="string", **{"x-kubernetes-list-type": "set"}),
         f'{AT}.properties[a].type: Invalid value: "string": must be array if x-kubernetes-list-type is specified'),
        (array("odd", TEXT), f'{AT}.properties[a].x-kubernetes-list-type: Unsupported value: "odd": supported values: "atomic", "set", "map"'),
        (array("set", {"type": "object"}), f"{AT}.properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a "
         "list with x-kubernetes-list-type=set"),
        (array("set", {**TEXT, "nullable": True}),
         f"{AT}.properties[a].items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is set"),
        (array("set", TEXT, "k"),
         f'{AT}.properties[a].x-kubernetes-list-type: Invalid value: "set": must be map if x-kubernetes-list-map-keys is non-empty'),
        (array("map", ITEM), f"{AT}.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"),
        (array("map", TEXT, "k"),
         f'{AT}.properties[a].items.type: Invalid value: "string": must be object if parent array\'s x-kubernetes-list-type is map'),
        (array("map", ITEM, "z"),
         f'{AT}.properties[a].x-kubernetes-list-map-keys: Invalid value: ["z"]: entries must all be names of item properties'),
        (array("map", ITEM, "k", "k"),
         f'{AT}.properties[a].x-kubernetes-list-map-keys: Invalid value: ["k","k"]: must not contain duplicate entries'),
        (array("map", {"type": "object", "properties": {"k": TEXT}}, "k"),
         f"{AT}.properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have "
         "a default or be a required property"),
        (array("map", {"type": "object", "properties": {"k": {**TEXT, "nullable": True}}, "required": ["k"]}, "k"),
         f"{AT}.properties[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable"),
        (array("map", {"type": "object", "properties": {"k": {"type": "object"}}, "required": ["k"]}, "k"),
         f'{AT}.properties[a].items.properties[k].type: Invalid value: "object": must be a scalar type if parent array\'s '
         "x-kubernetes-list-type is map"),
        # defaults
        (field(type="object", properties={"b": TEXT}, default={"c": 1}),
         f'{AT}.properties[a].default: Invalid value: {{"c":1}}: must not have unknown fields'),
        (field(type="integer", default="x"), f'{AT}.properties[a].default: Invalid value: "string": default in body must be of type integer'),
        # rules
        (rule(rule=" "), f"{RULE}.rule: Required value: rule is not specified"),
        (rule(rule="true", message=" "), f'{RULE}.message: Invalid value: " ": message must be non-empty if specified'),
        (rule(rule="true", message="a\nb"), f'{RULE}.message: Invalid value: "a\\nb": message must not contain line breaks'),
        (rule(rule="true &&\ntrue"), f"{RULE}.message: Required value: message must be specified if rule contains line breaks"),
        (rule(rule="true", messageExpression=" "), f"{RULE}.messageExpression: Required value: messageExpression must be non-empty if specified"),
        (rule(rule="true", reason="Odd"), f'{RULE}.reason: Unsupported value: "Odd": supported values: "FieldValueDuplicate", '
         '"FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"'),
        (rule(rule="true", fieldPath=".z"), f'{RULE}.fieldPath: Invalid value: ".z": fieldPath must be a valid path'),
        (rule(rule="true", optionalOldSelf=True), f"{RULE}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"),
        (field(type="array", items={**TEXT, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}, maxItems=2),
         f'{AT}.properties[a].items.x-kubernetes-validations[0].rule: Invalid value: "self == oldSelf": oldSelf cannot be used on the '
         f"uncorrelatable portion of the schema within {AT}.properties[a]"),
    ],
)  # fmt: skip
def test_a_schema_that_is_no_good_is_told_why(schema: dict[str, Any], why: str) -> None:
    found = told(version(schema=schema))
    assert any(one.startswith(why) for one in found), found


@pytest.mark.parametrize(
    "schema",
    [
        field(**{"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        field(**{"x-kubernetes-int-or-string": True, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "a"}]}),
        field(**EMBEDDED),
        field(type="object", additionalProperties=True),
        field(**{"x-kubernetes-preserve-unknown-fields": True}),
        array("map", ITEM, "k"),
        array("set", {"type": "object", "x-kubernetes-map-type": "atomic"}),
        field(type="object", properties={"b": TEXT}, oneOf=[{"required": ["b"]}, {"properties": {"b": {"maxLength": 3}}}]),
        {"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}}}},
        rule(rule="self.x == 'a'", fieldPath=".x", reason="FieldValueForbidden", message="no"),
        array("map", {**ITEM, "x-kubernetes-validations": [{"rule": "self.k == oldSelf.k"}]}, "k"),
    ],
)  # fmt: skip
def test_a_schema_that_is_good_is_let_be(schema: dict[str, Any]) -> None:
    assert told(version(schema=schema)) == []


OTHER = {"type": "object", "properties": {"other": TEXT}}
SCALE = {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}


def webhook(versions: tuple[str, ...] = ("v1",), **client: Any) -> dict[str, Any]:
    return {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": list(versions)}}


HOOK = "spec.conversion.webhookClientConfig"
SERVICE = {"name": "a", "namespace": "b"}


@pytest.mark.parametrize(
    ("versions", "spec", "why"),
    [
        ([version(deprecationWarning="x")], {},
         'spec.versions[0].deprecationWarning: Invalid value: "x": can only be set for deprecated versions'),
        ([version(deprecated=True, deprecationWarning="")], {},
         'spec.versions[0].deprecationWarning: Invalid value: "": must not be an empty string'),
        ([version(deprecated=True, deprecationWarning="a\tb")], {},
         'spec.versions[0].deprecationWarning: Invalid value: "a\\tb": must only contain printable UTF-8 characters; non-printable '
         "character found at index 1"),
        ([version(schema=OTHER), version("v2", schema={"type": "object", "properties": {"a": {}}})], {},
         "spec.versions[1].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields"),
        ([{**version(), "schema": {}}], {}, "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"),
        ([version(additionalPrinterColumns=[{**COLUMN, "type": "odd"}])], {},
         'spec.additionalPrinterColumns[0].type: Invalid value: "odd": must be one of boolean,date,integer,number,string'),
        ([version(additionalPrinterColumns=[{**COLUMN, "format": "odd"}])], {},
         'spec.additionalPrinterColumns[0].format: Invalid value: "odd": must be one of byte,date,date-time,double,float,int32,int64,password'),
        ([version(additionalPrinterColumns=[{**COLUMN, "jsonPath": "spec"}])], {},
         'spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with .'),
        ([version(), version("v2", additionalPrinterColumns=[{**COLUMN, "type": "odd"}])], {},
         'spec.versions[1].additionalPrinterColumns[0].type: Invalid value: "odd"'),
        ([version(subresources={"scale": {**SCALE, "specReplicasPath": ".status.n"}})], {},
         'spec.subresources.scale.specReplicasPath: Invalid value: ".status.n": should be a json path under .spec'),
        ([version(schema={**OTHER, "x-kubernetes-map-type": "atomic"}, subresources={"status": {}})], {}, f"{AT}: Invalid value: "),
        ([version(selectableFields=[{"jsonPath": ".spec.none"}])], {},
         'spec.selectableFields[0].jsonPath: Invalid value: ".spec.none": is an invalid path: does not refer to a valid field'),
        ([version(schema=OTHER, selectableFields=[{"jsonPath": ".other"}, {"jsonPath": ".other"}])], {},
         'spec.selectableFields[1].jsonPath: Duplicate value: ".other"'),
        ([], {"conversion": {"strategy": "Magic"}},
         'spec.conversion.strategy: Unsupported value: "Magic": supported values: "None", "Webhook"'),
        ([], {"conversion": {"strategy": "Webhook"}}, f"{HOOK}: Required value: required when strategy is set to Webhook"),
        ([], {"conversion": webhook()}, f"{HOOK}: Required value: exactly one of url or service is required"),
        ([], {"conversion": webhook(url="http://a/b")},
         f"{HOOK}.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"),
        ([], {"conversion": webhook(url="https://a/b?c=d")},
         f'{HOOK}.url: Invalid value: "c=d": query parameters are not permitted in the URL'),
        ([], {"conversion": webhook(service={**SERVICE, "path": "/a//b"})},
         f'{HOOK}.service.path: Invalid value: "/a//b": segment[1] may not be empty'),
        ([], {"conversion": webhook(("v1", "v1"), service=SERVICE)},
         'spec.conversion.conversionReviewVersions[1]: Invalid value: "v1": duplicate version'),
        ([], {"conversion": webhook(("v9",), service=SERVICE)},
         'spec.conversion.conversionReviewVersions: Invalid value: ["v9"]: must include at least one of v1, v1beta1'),
        ([], {"conversion": {"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}},
         "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook"),
        ([], {"names": {"plural": "things", "kind": "Thing", "listKind": "Thing"}},
         'spec.names.listKind: Invalid value: "Thing": kind and listKind may not be the same'),
        ([], {"names": {"plural": "things", "kind": "Thi_ng"}},
         f'spec.names.kind: Invalid value: "Thi_ng": may have mixed case, but should otherwise match: {LABEL}'),
        ([version(), version()], {}, "spec.versions: Invalid value: "),
    ],
)  # fmt: skip
def test_a_definition_that_is_no_good_is_told_why(
    versions: list[dict[str, Any]], spec: dict[str, Any], why: str
) -> None:
    found = told(*versions, **spec)
    assert any(one.startswith(why) for one in found), found


def test_a_definition_that_is_good_is_let_be() -> None:
    first = version(subresources={"status": {}, "scale": SCALE}, additionalPrinterColumns=[COLUMN], schema=OTHER)
    second = version(
        "v2", schema=OTHER, selectableFields=[{"jsonPath": ".other"}], deprecated=True, deprecationWarning="old"
    )
    assert told(first, second, conversion=webhook(service={**SERVICE, "path": "/convert"})) == []
