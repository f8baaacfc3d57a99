"""How upstream shows a patch whose result can't be read: as the value of a field `patch`.

The result is shown of patches in JSON, the patch itself of strategic merge patches, that in Go's words for maps.
"""

import json
from typing import Any

import orjson

from machinery import errors
from machinery.errors import Cause


def unreadable(value: str, why: str) -> errors.Invalid:
    """Return the error for a patch shown as `value`."""
    message = f"Invalid value: {json.dumps(value, ensure_ascii=False)}: {why}"
    return errors.Invalid(f' "" is invalid: patch: {message}', causes=[Cause("FieldValueInvalid", message, "patch")])


def result_text(result: Any) -> str:
    """Return a patch's result as it is shown."""
    return orjson.dumps(result, option=orjson.OPT_SORT_KEYS).decode()


def go_text(value: Any) -> str:
    """Return a value as Go's %+v prints it."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_text(one)}" for key, one in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(go_text, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "<nil>" if value is None else str(value)
