"""Protobuf bodies: what malformed ones get. That whole ones are read is shown with the real kubectl."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from machinery.api import protobuf
from machinery.api.protobuf_encode import encode, watch_frame
from machinery.api.schema import definitions


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def envelope(version: str, kind: str, raw: bytes) -> bytes:
    return protobuf.MAGIC + field(1, field(1, version.encode()) + field(2, kind.encode())) + field(2, raw)


def test_a_config_map_is_read() -> None:
    raw = (
        field(1, field(1, b"name"))
        + field(2, field(1, b"k") + field(2, b"v"))
        + field(3, field(1, b"b") + field(2, b"\x00"))
    )
    assert protobuf.decode(envelope("v1", "ConfigMap", raw)) == {
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "name"}, "data": {"k": "v"}, "binaryData": {"b": "AA=="},
    }  # fmt: skip


def test_a_zero_is_kept_where_it_was_said() -> None:
    replicas = field(2, bytes([1 << 3, 0, 5 << 3, 0]))  # spec: replicas 0, minReadySeconds 0
    assert protobuf.decode(envelope("apps/v1", "Deployment", replicas))["spec"] == {"replicas": 0}


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", envelope("v1", "Nonsense", b""), envelope("v1", "ConfigMap", b"\x0a\x7f"), envelope("v1", "ConfigMap", b"\xff" * 12)],
    ids=["empty", "json", "kind", "cut", "number"],
)  # fmt: skip
def test_what_is_malformed_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"protobuf|registered"):
        protobuf.decode(body)


@settings(deadline=None)  # the first one loads the numbers of all fields
@given(st.binary(max_size=200), st.sampled_from(["Pod", "ConfigMap", "Service", "Event"]))
def test_no_bytes_do_worse_than_a_value_error(raw: bytes, kind: str) -> None:
    try:
        found = protobuf.decode(envelope("v1", kind, raw[:120]))
    except ValueError:
        return
    assert found["kind"] == kind


def test_numbers_are_unique_and_names_are_those_of_the_schemas() -> None:
    for message, fields in protobuf.messages().items():
        raw = definitions().get(f"io.k8s.api.{message}")
        if raw is None or "properties" not in raw or message.startswith("admissionregistration"):
            continue
        unknown = [one.name for one in fields.values() if not one.inline and one.name not in raw["properties"]]
        assert unknown == [], message


# A small object of each kind.
SAMPLES = list(yaml.safe_load_all((Path(__file__).parents[2] / "integration/apiserver/samples.yaml").read_text()))


@pytest.mark.parametrize("given", SAMPLES, ids=[one["kind"] for one in SAMPLES])
def test_what_is_written_is_read_again(given: dict[str, Any]) -> None:
    obj = orjson.loads(orjson.dumps(given, default=str))

    def without_empty_lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_empty_lists(one) for name, one in value.items() if one != []}
        return [without_empty_lists(one) for one in value] if isinstance(value, list) else value

    assert protobuf.decode(encode(obj)) == without_empty_lists(obj)  # an empty list has no form of its own


def test_what_v1_36_added_to_statuses_is_written_and_read_again() -> None:
    mapping = {"containerName": "c", "resourceName": "example.com/gpu", "requestName": "r"}
    status = {
        "extendedResourceClaimStatus": {"resourceClaimName": "claim", "requestMappings": [mapping]},
        "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}},
    }  # fmt: skip
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "status": status}
    assert protobuf.decode(encode(pod))["status"] == status
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "a"}, "status": {"declaredFeatures": ["F"]}}
    assert protobuf.decode(encode(node))["status"] == {"declaredFeatures": ["F"]}


def test_schemas_of_definitions_keep_what_a_json_value_says() -> None:
    schema = {
        "type": "object", "$ref": "x", "default": False, "minimum": 0.0, "x-kubernetes-preserve-unknown-fields": True,
        "properties": {"a": {"items": {"type": "string"}, "enum": ["x", 1, None]}}, "additionalProperties": False,
        "dependencies": {"b": ["c"]}, "x-kubernetes-validations": [{"rule": "self.a == 1", "optionalOldSelf": False}],
    }  # fmt: skip
    version = {"name": "v1", "served": False, "storage": True, "schema": {"openAPIV3Schema": schema}}
    obj = {
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "n"},
        "spec": {"group": "g", "versions": [version]},
    }  # fmt: skip
    assert protobuf.decode(encode(obj)) == obj


def test_a_watch_frame_tells_its_length() -> None:
    frame = watch_frame("ADDED", {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}})
    assert int.from_bytes(frame[:4]) == len(frame) - 4
    assert frame[4:11] == b"\x0a\x05ADDED"


def test_kinds_of_users_have_no_form() -> None:
    with pytest.raises(ValueError, match="no protobuf form"):
        encode({"kind": "Deployment", "apiVersion": "apps.example.com/v1"})
