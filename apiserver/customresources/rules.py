"""The rules in CEL that schemas hold (x-kubernetes-validations)."""

from collections.abc import Iterator

from apiserver.customresources.structural import Structural
from apiserver.registry.kind import Object
from machinery.errors import Cause


class Programs:
    """The compiled rules of one schema."""

    def __init__(self, schema: Structural) -> None:
        self._schema = schema

    def causes(self, new: Object, old: Object | None) -> list[Cause]:
        """Return the rules an object breaks."""
        return []


def rule_causes(schema: Structural, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the rules of a schema."""
    yield from ()
