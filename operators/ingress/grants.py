"""Who lets others refer to what is in its namespace: ReferenceGrants; pure.

Source: https://gateway-api.sigs.k8s.io/api-types/referencegrant/
"""

from collections.abc import Iterable, Mapping
from typing import Any

Object = Mapping[str, Any]


class Grants:
    """The grants of all namespaces."""

    def __init__(self, grants: Iterable[Object] = ()) -> None:
        """Args: `grants` are ReferenceGrants as the API has them."""
        self._by_namespace: dict[str, list[Object]] = {}
        for one in grants:
            self._by_namespace.setdefault(one["metadata"]["namespace"], []).append(one.get("spec") or {})

    def permit(self, group: str, kind: str, namespace: str, to_kind: str, to_namespace: str, name: str) -> bool:
        """Say whether objects of a kind and namespace may refer to a core object; in their own namespace they may."""
        if namespace == to_namespace:
            return True
        return any(
            any((one.get("group"), one.get("kind"), one.get("namespace")) == (group, kind, namespace)
                for one in spec.get("from") or ())
            and any(one.get("group", "") == "" and one.get("kind") == to_kind and one.get("name", name) == name
                    for one in spec.get("to") or ())
            for spec in self._by_namespace.get(to_namespace, ())
        )  # fmt: skip
