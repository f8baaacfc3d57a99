"""The declarations of kinds, ages, names and patches: pure parts of the server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.registry import names
from apiserver.registry.catalog import built_in
from apiserver.registry.durations import human_duration
from apiserver.registry.pods import status_text
from machinery.api.patch import PatchError, apply_json_patch, apply_merge_patch, apply_strategic_merge_patch
from machinery.api.schema import SchemaMismatch, conform, shape_of

POD_SPEC = shape_of("io.k8s.api.core.v1.PodSpec")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (600, "10m"), (3 * 3600 - 1, "179m"), (3 * 3600, "3h"),
        (3 * 3600 + 600, "3h10m"), (8 * 3600 + 600, "8h"), (47 * 3600, "47h"), (49 * 3600, "2d1h"), (9 * 86400, "9d"),
        (800 * 86400, "2y70d"), (9 * 365 * 86400, "9y"), (-5, "<invalid>"),
    ],
)  # fmt: skip
def test_ages_are_told_as_kubectl_tells_them(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def test_every_kind_has_a_type_of_its_name() -> None:
    for kind in built_in():
        assert shape_of(kind.definition).form == "object"
        assert kind.definition.endswith(f".{kind.resource.kind}")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (names.dns_label, ["a", "a-1", "0"], ["", "A", "-a", "a.b", "a" * 64]),
        (names.dns_subdomain, ["a.b", "a-1.b"], ["", ".a", "a..b", "a_b"]),
        (names.dns_1035_label, ["a1"], ["1a", ""]),
        (names.qualified_name, ["a", "x.y/Z_1"], ["", "/a", "a/", "a b", "A/b"]),
        (names.label_value, ["", "A.b_c"], ["-a", "a b", "x" * 64]),
        (names.path_segment, ["system:node"], [".", "..", "a/b", "a%b"]),
    ],
    ids=["label", "subdomain", "1035", "qualified", "value", "segment"],
)
def test_names_are_held_to_their_rules(rule: object, good: list[str], bad: list[str]) -> None:
    assert callable(rule)
    assert [name for name in good if rule(name)] == []
    assert [name for name in bad if not rule(name)] == []


def test_generated_names_are_cut_to_fit() -> None:
    made = names.generate("x" * 100)
    assert len(made) == 63
    assert names.dns_label(made) is None


def test_nulls_go_and_unknown_fields_are_told_with_their_paths() -> None:
    obj = {"containers": [{"name": "a", "image": None, "imag": "x"}], "nodeSelector": {"a": None}, "bogus": 1}
    findings = conform(obj, POD_SPEC)
    assert findings.unknown == ["containers[0].imag", "bogus"]
    assert obj == {"containers": [{"name": "a"}], "nodeSelector": {"a": ""}}


def test_a_wrong_type_is_told_as_go_tells_it() -> None:
    with pytest.raises(
        SchemaMismatch, match="cannot unmarshal string into Go struct field PodSpec.priority of type int32"
    ):
        conform({"priority": "high"}, POD_SPEC)


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({"containers": [{"name": "a", "image": "2"}]}, [("a", "2"), ("b", "1")]),
        ({"containers": [{"name": "c", "image": "3"}]}, [("c", "3"), ("a", "1"), ("b", "1")]),
        ({"containers": [{"name": "c", "image": "3"}, {"name": "b"}]}, [("c", "3"), ("a", "1"), ("b", "1")]),
        ({"containers": [{"name": "a", "$patch": "delete"}]}, [("b", "1")]),
        ({"containers": [{"$patch": "replace"}, {"name": "z", "image": "9"}]}, [("z", "9")]),
        ({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}, [("b", "1"), ("a", "1")]),
        ({"$setElementOrder/containers": [{"name": "b"}]}, [("a", "1"), ("b", "1")]),
    ],
    ids=["change", "add", "add-between", "delete", "replace", "order", "order-of-some"],
)
def test_strategic_patches_merge_lists_by_their_key(patch: dict[str, object], result: list[tuple[str, str]]) -> None:
    spec = {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}
    changed = apply_strategic_merge_patch(spec, patch, POD_SPEC)
    assert [(one["name"], one["image"]) for one in changed["containers"]] == result
    assert len(spec["containers"]) == 2  # what was given is not changed


def test_retain_keys_drops_what_it_does_not_name() -> None:
    spec = {"volumes": [{"name": "v", "emptyDir": {}}]}
    patch = {"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}
    changed = apply_strategic_merge_patch(spec, patch, POD_SPEC)
    assert changed["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def without_nulls(value: object) -> object:
    return {k: without_nulls(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_a_merge_patch_on_nothing_gives_the_patch_without_nulls(patch: dict[str, object]) -> None:
    assert apply_merge_patch({}, patch) == without_nulls(patch)
    once = apply_merge_patch({"x": 1}, patch)
    assert apply_merge_patch(once, patch) == once


@given(JSON, JSON)
def test_a_json_patch_that_fails_changes_nothing(value: object, other: object) -> None:
    document = {"a": value}
    with pytest.raises(PatchError):
        apply_json_patch(document, [{"op": "add", "path": "/b", "value": other}, {"op": "remove", "path": "/none"}])
    assert document == {"a": value}
    assert apply_json_patch(document, [{"op": "move", "from": "/a", "path": "/c~1d"}]) == {"c/d": value}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, "CrashLoopBackOff"),
        ({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}, "ExitCode:3"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
    ],
    ids=["phase", "waiting", "exit", "reason"],
)  # fmt: skip
def test_the_status_column_tells_the_reason_that_says_most(status: dict[str, object], text: str) -> None:
    assert status_text({"metadata": {}, "spec": {"containers": [{"name": "c"}]}, "status": status}) == text
