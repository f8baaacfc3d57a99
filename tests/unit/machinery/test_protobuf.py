"""Protobuf bodies: what malformed ones get. That whole ones are read is shown with the real kubectl."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinery.api import protobuf
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


@given(st.binary(max_size=200), st.sampled_from(["Pod", "ConfigMap", "Service", "Event"]))
def test_no_bytes_do_worse_than_a_value_error(raw: bytes, kind: str) -> None:
    try:
        found = protobuf.decode(envelope("v1", kind, raw[:120]))
    except ValueError:
        return
    assert found["kind"] == kind


def test_numbers_are_unique_and_names_are_those_of_the_schemas() -> None:
    for message, fields in protobuf._messages().items():
        raw = definitions().get(f"io.k8s.api.{message}")
        if raw is None or "properties" not in raw or message.startswith("admissionregistration"):
            continue
        unknown = [one.name for one in fields.values() if not one.inline and one.name not in raw["properties"]]
        assert unknown == [], message
