"""Parts that several kinds' tables have: age, images, selectors."""

from collections.abc import Callable, Mapping
from typing import Any

from apiserver.registry.kind import Column, Object, Since

NONE = "<none>"
UNKNOWN = "<unknown>"


def name_of(obj: Object) -> str:
    """The object's name."""
    return str(obj["metadata"]["name"])


def age_of(obj: Object) -> Since | str:
    """How long ago the object was created."""
    created = obj["metadata"].get("creationTimestamp")
    return Since(created) if created else UNKNOWN


NAME = Column(
    "Name", name_of, format="name",
    description="Name must be unique within a namespace. Is required when creating resources.",
)  # fmt: skip
AGE = Column("Age", age_of, description="CreationTimestamp is the server time when this object was created.")


def value_at(obj: Object, *path: str) -> Any:
    """Return what lies at a path, None where there is nothing."""
    value: Any = obj
    for part in path:
        value = (value or {}).get(part)
    return value


def text_at(*path: str, absent: str = "") -> Callable[[Object], str]:
    """Return a cell's function: the text at a path; booleans as "true" and "false"."""

    def read(obj: Object) -> str:
        value = value_at(obj, *path)
        if isinstance(value, bool):
            return str(value).lower()
        return absent if value in (None, "") else str(value)

    return read


def number_at(*path: str) -> Callable[[Object], int]:
    """Return a cell's function: the number at a path, 0 where there is none."""
    return lambda obj: count(obj, *path)


def since(*path: str, absent: str = UNKNOWN) -> Callable[[Object], Since | str]:
    """Return a cell's function: how long ago the time at a path was."""

    def read(obj: Object) -> Since | str:
        value = value_at(obj, *path)
        return Since(value) if value else absent

    return read


def count(obj: Object, *path: str) -> int:
    """Return the number at a path, 0 where there is none."""
    return int(value_at(obj, *path) or 0)


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """Return a LabelSelector as kubectl prints it: "app=web,tier in (a,b)"."""
    if not selector:
        return NONE
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for rule in selector.get("matchExpressions") or ():
        values = ",".join(sorted(rule.get("values") or ()))
        parts.append(
            {
                "In": f"{rule['key']} in ({values})",
                "NotIn": f"{rule['key']} notin ({values})",
                "Exists": rule["key"],
                "DoesNotExist": f"!{rule['key']}",
            }[rule["operator"]]
        )
    return ",".join(parts) or NONE


def labels_text(labels: Mapping[str, str] | None) -> str:
    """Return labels as kubectl prints them: "a=b,c=d"."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def _containers(obj: Object) -> list[Any]:
    return list(obj["spec"].get("template", {}).get("spec", {}).get("containers") or ())


def container_names(obj: Object) -> str:
    """Names of the template's containers."""
    return ",".join(one["name"] for one in _containers(obj))


def container_images(obj: Object) -> str:
    """Images of the template's containers."""
    return ",".join(one.get("image", "") for one in _containers(obj))


WORKLOAD_WIDE = (
    Column("Containers", container_names, priority=1, description="Names of each container in the template."),
    Column("Images", container_images, priority=1, description="Images referenced by each container in the template."),
    Column("Selector", lambda obj: selector_text(obj["spec"].get("selector")), priority=1),
)
