"""What admission has to say to the audit log: values that policies and webhooks give, and rules that only tell.

Source: https://kubernetes.io/docs/reference/labels-annotations-taints/audit-annotations/
"""

from collections.abc import Mapping
from typing import Any

import orjson

from apiserver.admission.attributes import Attributes

_FAILURE = "validation.policy.admission.k8s.io/validation_failure"
_MAX_VALUE = 10 * 1024


def publish(request: Attributes, owner: str, key: str, value: str) -> None:
    """Note a value under its owner's name; several of one key are told together, none twice."""
    value = value.strip()[:_MAX_VALUE]
    if request.annotations is None or not value:
        return
    name = f"{owner}/{key}"
    known = request.annotations.get(name)
    if known is None:
        request.annotations[name] = value
    elif value not in known.split(", "):
        request.annotations[name] = f"{known}, {value}"


def publish_failure(request: Attributes, policy: str, binding: Mapping[str, Any], index: int, message: str) -> None:
    """Note that a rule failed which its binding wants told."""
    if request.annotations is None:
        return
    failure = {
        "message": message, "policy": policy, "binding": binding["metadata"]["name"], "expressionIndex": index,
        "validationActions": binding["spec"].get("validationActions") or [],
    }  # fmt: skip
    known = orjson.loads(request.annotations.get(_FAILURE, "[]"))
    request.annotations[_FAILURE] = orjson.dumps([*known, failure]).decode()
