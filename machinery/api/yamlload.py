"""YAML as Kubernetes reads it: dates stay text, as JSON has no dates."""

from typing import Any

import yaml

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PlainLoader(_Base):  # type: ignore[misc]
    """A safe loader without the timestamp type."""


class _NotingLoader(PlainLoader):
    """Notes the keys that a mapping holds twice, as Go's reader tells of them."""

    twice: list[str]

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return the mapping of a node."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self.twice.append(f'line {key.start_mark.line + 1}: key "{key.value}" already set in map')
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load(text: bytes, twice: list[str]) -> Any:
    """Return what a document says; `twice` is told of keys that are there twice. Raises: yaml.YAMLError."""
    loader = _NotingLoader(text)
    loader.twice = twice
    try:
        return loader.get_single_data()
    except ValueError as error:  # a number of thousands of digits
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}
