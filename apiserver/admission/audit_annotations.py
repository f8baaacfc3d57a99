"""What admission has to say to the audit log: values that policies and webhooks give, and rules that only tell.

Source: https://kubernetes.io/docs/reference/labels-annotations-taints/audit-annotations/
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from apiserver.admission.attributes import Attributes

_FAILURE = "validation.policy.admission.k8s.io/validation_failure"
_MAX_VALUE = 10 * 1024
_MUTATION, _PATCH, _VALIDATING = (f"{one}.webhook.admission.k8s.io/" for one in ("mutation", "patch", "validating"))
ONLY_WITH_BODIES = _PATCH
"""What such keys begin with is told only where the bodies of requests are, too."""


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


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a webhook: among those of its sort it has a place, and it may be asked a second time."""

    configuration: str
    webhook: str
    index: int
    again: bool = False
    mutates: bool = True

    @property
    def _place(self) -> str:
        return f"round_{int(self.again)}_index_{self.index}"

    def note_change(self, request: Attributes, *, changed: bool) -> None:
        """Note that the webhook was asked, and whether it changed the object."""
        self._note(request, _MUTATION, {"mutated": changed})

    def note_patch(self, request: Attributes, operations: Any) -> None:
        """Note what the webhook asked to be changed."""
        self._note(request, _PATCH, {"patch": operations, "patchType": "JSONPatch"})

    def note_failed_open(self, request: Attributes) -> None:
        """Note that the webhook failed and the request went on without it."""
        if request.annotations is not None:
            prefix = _MUTATION if self.mutates else _VALIDATING
            request.annotations[f"failed-open.{prefix}{self._place}"] = self.webhook

    def _note(self, request: Attributes, prefix: str, told: Mapping[str, Any]) -> None:
        if request.annotations is not None:
            value = {"configuration": self.configuration, "webhook": self.webhook, **told}
            request.annotations[prefix + self._place] = orjson.dumps(value).decode()
