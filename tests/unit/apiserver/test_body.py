"""Bodies of requests: keys that are there twice are found, and told by their paths."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.endpoints.body import _decode_json, _has_each_key_once

_KEYS = st.sampled_from(["a", "b", 'q"', "s\\", '":', "é"])
_VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4) | _KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(_KEYS, inner), max_size=4).map(tuple),
    max_leaves=8,
)  # objects are tuples of pairs, so that a key may come twice


def _written(value: Any, blank: str, ascii_only: bool) -> str:
    if isinstance(value, tuple):
        pairs = (
            f"{json.dumps(key, ensure_ascii=ascii_only)}{blank}: {_written(one, blank, ascii_only)}"
            for key, one in value
        )
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(one, blank, ascii_only) for one in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def _repeats(value: Any) -> bool:
    if isinstance(value, tuple):
        keys = [key for key, _ in value]
        return len(set(keys)) != len(keys) or any(_repeats(one) for _, one in value)
    return isinstance(value, list) and any(_repeats(one) for one in value)


@given(_VALUES, st.sampled_from(["", " "]), st.booleans())
def test_no_key_that_is_there_twice_is_missed(value: Any, blank: str, ascii_only: bool) -> None:
    body = _written(value, blank, ascii_only).encode()
    found: list[str] = []
    _decode_json(body, found)
    # Objects within what a later value of the same key replaced are not looked at, nor does it matter there.
    assert bool(found) == _repeats(value)


@pytest.mark.parametrize(
    "body",
    [b'{"a":1,"b":{"a":2}}', b'{"a": "x\\":", "b": [{"c": 1}, {"c": 2}]}', b'{"a": "\xc3\xa9"}\n', b'{"a": 1e9, "b": 0.50}'],
)  # fmt: skip
def test_common_bodies_are_known_to_be_sound_without_a_second_reading(body: bytes) -> None:
    assert _has_each_key_once(body, orjson.loads(body))
