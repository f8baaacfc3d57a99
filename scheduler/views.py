"""The few fields the scheduler reads of what is neither node nor pod."""

from typing import Any

import msgspec


class Labelled(msgspec.Struct):
    """Metadata with labels."""

    name: str = ""
    labels: dict[str, str] | None = None


class NamespaceOnly(msgspec.Struct):
    """A namespace: its name and labels."""

    metadata: Labelled


class _Selector(msgspec.Struct):
    selector: dict[str, Any] | None = None


class ServiceOnly(msgspec.Struct):
    """A Service: what it selects."""

    spec: _Selector = msgspec.field(default_factory=_Selector)


class SelectorOnly(msgspec.Struct):
    """A workload: what it selects."""

    spec: _Selector = msgspec.field(default_factory=_Selector)
