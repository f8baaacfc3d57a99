"""Schemas of custom resources: pruning, defaulting, validation, paths, names."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.customresources import formats
from apiserver.customresources.jsonpath import PathError, column_value, compile_path, field_text
from apiserver.customresources.rules import bound, escaped, undefined_field
from apiserver.customresources.schema_rules import schema_causes
from apiserver.customresources.structural import compile_schema, fill_defaults, merge_shape, prune
from apiserver.customresources.validation import Rules
from apiserver.registry.catalog import version_rank
from machinery.cel.program import compile_expression

SCHEMA = compile_schema(
    {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "default": 1},
                    "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "map": {"type": "object", "additionalProperties": {"type": "string"}},
                    "list": {
                        "type": "array",
                        "items": {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}},
                    },
                    "either": {"x-kubernetes-int-or-string": True},
                    "maybe": {"type": "string", "nullable": True, "default": "y"},
                },
            }
        },
    }
)
names = st.sampled_from(["a", "b", "c", "n", "spec", "free", "map", "list", "either", "maybe", "zz"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
objects = st.fixed_dictionaries({"spec": st.dictionaries(names, values, max_size=6)})
valid_specs = st.fixed_dictionaries(
    {},
    optional={
        "a": st.integers(-5, 5), "b": st.fixed_dictionaries({}, optional={"c": st.text(max_size=3), "zz": values}),
        "free": st.dictionaries(names, values, max_size=3), "map": st.dictionaries(names, st.text(max_size=2), max_size=3),
        "list": st.lists(st.fixed_dictionaries({}, optional={"n": st.integers(-5, 5), "zz": values}), max_size=3),
        "either": st.integers(-5, 5) | st.text(max_size=3), "maybe": st.none() | st.text(max_size=3), "zz": values,
    },
)  # fmt: skip


@given(objects)
def test_pruning_twice_is_pruning_once(obj: dict[str, Any]) -> None:
    prune(obj, SCHEMA)
    once = copy.deepcopy(obj)
    assert prune(obj, SCHEMA) == []
    assert obj == once


@given(objects)
def test_defaulting_twice_is_defaulting_once(obj: dict[str, Any]) -> None:
    fill_defaults(obj, SCHEMA)
    once = copy.deepcopy(obj)
    fill_defaults(obj, SCHEMA)
    assert obj == once


@given(valid_specs)
def test_what_was_valid_is_valid_when_pruned_and_defaulted(spec: dict[str, Any]) -> None:
    obj: dict[str, Any] = {"metadata": {}, "spec": spec}
    prune(obj, SCHEMA)
    fill_defaults(obj, SCHEMA)
    assert Rules(SCHEMA).causes(obj, None) == []
    assert (obj["spec"]["b"]["c"] is not None, "zz" in obj["spec"]) == (True, False)


def test_pruning_keeps_what_is_free_and_tells_the_paths_of_what_goes() -> None:
    obj = {"spec": {"free": {"x": {"y": 1}}, "list": [{"n": 1, "m": 2}], "odd": 1}, "top": 1, "metadata": {"name": "a"}}
    assert prune(obj, SCHEMA) == ["spec.list[0].m", "spec.odd", "top"]
    assert obj == {"spec": {"free": {"x": {"y": 1}}, "list": [{"n": 1}]}, "metadata": {"name": "a"}}


def test_null_gives_way_to_a_default_unless_null_is_allowed() -> None:
    obj = {"spec": {"a": None, "maybe": None}}
    fill_defaults(obj, SCHEMA)
    assert obj["spec"] == {"a": 1, "maybe": None, "b": {"c": "x"}}


@pytest.mark.parametrize(
    ("schema", "value", "told"),
    [
        ({"type": "string", "maxLength": 2}, "abc", "Too long: may not be more than 2 bytes"),
        ({"type": "string", "minLength": 2}, "a", 'Invalid value: "a": f in body should be at least 2 chars long'),
        ({"type": "string", "pattern": "^a$"}, "a\n", "f in body should match '^a$'"),
        ({"type": "string", "format": "date-time"}, "x", 'Invalid value: "x": f in body must be of type date-time: "x"'),
        ({"type": "integer"}, 1.5, 'Invalid value: "number": f in body must be of type integer: "number"'),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, 1, "f in body should be greater than 1"),
        ({"type": "number", "multipleOf": 2}, 3, "f in body should be a multiple of 2"),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, [1, 2], "Too many: 2: must have at most 1 items"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, [], "f in body should have at least 1 items"),
        ({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}, ["a", "a"], 'Duplicate value: "a"'),
        ({"type": "object", "required": ["x"]}, {}, "Required value"),
        ({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1, "b": 1},
         'Invalid value: "": "f" must validate one and only one schema (oneOf). Found 2 valid alternatives'),
        ({"type": "object", "not": {"required": ["a"]}}, {"a": 1}, '"f" must not validate the schema (not)'),
        ({"type": "string"}, None, 'Invalid value: "null": f in body must be of type string: "null"'),
        ({"x-kubernetes-int-or-string": True}, True, 'f in body must be of type integer,string: "boolean"'),
        ({"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
         {"kind": "A"}, "Required value: must not be empty"),
    ],
)  # fmt: skip
def test_each_rule_is_told_in_upstreams_words(schema: dict[str, Any], value: Any, told: str) -> None:
    rules = Rules(compile_schema({"type": "object", "properties": {"f": schema}}))
    assert any(told in cause.message for cause in rules.causes({"f": value, "metadata": {}}, None))
    same = {"f": value, "metadata": {}}
    assert rules.causes(same, same) == []  # what an update leaves alone is let be


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date-time", "2024-01-02T03:04:05Z", "2024-01-02"), ("date", "2024-01-02", "2024-13-01"), ("ipv4", "1.2.3.4", "1.2.3"),
        ("duration", "1h30m", "soon"), ("uuid", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "1b4"), ("byte", "YQ==", "Y"),
        ("uri", "https://a/b", "a b"), ("email", "a@b.c", "a"), ("cidr", "10.0.0.0/8", "10.0.0.0"), ("hostname", "a.b", "-a"),
    ],
)  # fmt: skip
def test_formats_tell_good_from_bad(name: str, good: str, bad: str) -> None:
    assert formats.matches(name, good)
    assert not formats.matches(name, bad)
    assert formats.matches("nobody-knows-it", bad)


def test_paths_find_fields_items_and_conditions() -> None:
    obj = {"a": {"b.c": 1}, "l": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False"}]}
    assert column_value(r".a.b\.c", "integer")(obj) == 1
    assert column_value('.l[?(@.type=="Ready")].status', "string")(obj) == "True"
    assert column_value(".l[*].type", "string")(obj) == "Ready,X"
    assert column_value(".l[1].type", "string")(obj) == "X"
    assert column_value(".none", "string")(obj) is None
    assert field_text(".a.none")(obj) == ""
    with pytest.raises(PathError):
        compile_path(".a[")


def test_versions_are_preferred_as_kubernetes_prefers_them() -> None:
    mixed = ["foo10", "v11alpha2", "v1", "v10", "v3beta1", "v12alpha1", "foo1", "v11beta2", "v2", "v10beta3"]
    expected = ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
    assert sorted(mixed, key=version_rank) == expected


def test_names_are_escaped_for_rules() -> None:
    assert [escaped(name) for name in ("a-b", "a.b", "x/y", "namespace", "a__b", "plain")] == [
        "a__dash__b", "a__dot__b", "x__slash__y", "__namespace__", "a__underscores__b", "plain",
    ]  # fmt: skip


def test_the_type_for_merging_knows_lists_by_key_and_metadata() -> None:
    raw = {"type": "object", "properties": {"ports": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
        "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}}}  # fmt: skip
    shape = merge_shape(compile_schema(raw), "Widget")
    assert (shape.fields["ports"].list_type, shape.fields["ports"].map_keys) == ("map", ("n",))
    assert "labels" in shape.fields["metadata"].fields


@given(objects)
def test_no_value_breaks_validation_itself(obj: dict[str, Any]) -> None:
    obj["metadata"] = {}
    for cause in Rules(SCHEMA).causes(obj, None):
        assert cause.field.startswith("spec.")


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        ("self.spec.a > 1", ""), ("self.spec.zz > 1", "1:10: undefined field 'zz'"), ("self.metadata.name == 'a'", ""),
        ("has(self.nope)", "1:9: undefined field 'nope'"), ("'self.nope' == 'x'", ""), ("self.spec.free.any.thing", ""),
        ("self.spec.map.key == 'a'", ""), ("self.spec.list.all(x, x.n > 1)", ""), ("self.spec.b.c.size() > 0", ""),
    ],
)  # fmt: skip
def test_rules_may_name_only_fields_of_the_schema(rule: str, missing: str) -> None:
    found = undefined_field(rule, SCHEMA, is_root=True)
    assert (missing in found, bool(found)) == (True, bool(missing))


def listed(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def ruled(rule: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "x-kubernetes-validations": [{"rule": rule}]}


WORD = {"type": "string"}
PART = {"type": "object", "required": ["name"], "properties": {"name": WORD, "words": listed(WORD)}}
SQUARE = "self.all(one, self.exists(two, one == two))"


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (ruled("self.all(s, s == 'x')", listed(WORD)), ""),  # as upstream takes it
        (listed(ruled("self.all(s, s == 'x')", listed(WORD))), "of more than 100x (try simplifying the rule, or"),
        (listed(ruled("self.all(s, s == 'x')", listed(WORD, maxItems=5)), maxItems=100), ""),
        (ruled(SQUARE, listed(WORD)), "more than 100x"),
        (ruled(SQUARE, listed(WORD, maxItems=3000)), ""),
        (ruled(SQUARE, listed(WORD, maxItems=4000)), "exceeds budget by factor of 1.6x (try adding maxItems"),
        (ruled("self.all(p, p.words.all(w, w != 'self.all(a, self.all(b, true))'))", listed(PART)), "more than 100x"),
        (ruled("self.all(s, s == 'a') && self.all(s, s != 'b')", listed(WORD)), ""),
        (listed({"type": "object", "additionalProperties": ruled("self.size() < 9", WORD)}), "more than 100x"),
    ],
)
def test_a_rule_that_may_cost_too_much_is_refused(schema: dict[str, Any], told: str) -> None:
    root = {"type": "object", "properties": {"spec": schema}}
    found = [cause for cause in schema_causes(root, "schema") if "budget" in cause.message]
    assert bool(found) == bool(told)
    assert all(told in cause.message and cause.field.endswith("x-kubernetes-validations[0].rule") for cause in found)


@pytest.mark.parametrize(
    "rule",
    [
        "size(self.list) == 1", "self.at < timestamp('2026-11-25T08:00:00Z')", "self.at.getHours() == 7",
        "self.list[0].at == self.at", "self.wait > duration('1m')", "self.list.all(one, has(one.at))",
    ],
)  # fmt: skip
def test_rules_of_an_object_that_holds_times_see_them_as_times(rule: str) -> None:
    time = {"type": "string", "format": "date-time"}
    part = {"type": "object", "properties": {"at": time}}
    properties = {"at": time, "wait": {"type": "string", "format": "duration"}, "list": listed(part)}
    schema = compile_schema({"type": "object", "properties": properties})
    value = {"at": "2026-11-25T07:40:14Z", "wait": "1m30s", "list": [{"at": "2026-11-25T07:40:14Z"}]}
    assert compile_expression(rule, {"self": "dyn"}).evaluate({"self": bound(value, schema)}) is True
