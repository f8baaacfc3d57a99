"""What add-ons there are: their manifests, and which of them have an operator.

Kept small: `wherry up` reads it too.
"""

from collections.abc import Sequence
from importlib import resources

OPERATED = ("build", "compose", "nodepool")
"""Add-ons that are looked after by an operator, a user system:wherry-NAME."""
_PREFIX, _SUFFIX = "addon-", ".yaml"


def names() -> list[str]:
    """Return the names of all add-ons."""
    found = [entry.name for entry in resources.files("manifests").iterdir()]
    return sorted(name[len(_PREFIX) : -len(_SUFFIX)] for name in found if name.startswith(_PREFIX))


def text(name: str) -> str:
    """Return an add-on's manifests."""
    return resources.files("manifests").joinpath(f"{_PREFIX}{name}{_SUFFIX}").read_text()


def summary(name: str) -> str:
    """Return what an add-on is, as the first line of its manifests says."""
    return text(name).partition("\n")[0].lstrip("# ").partition(": ")[2].rstrip(".")


def operated(addons: Sequence[str]) -> list[str]:
    """Return those of the add-ons that have an operator."""
    return [name for name in addons if name in OPERATED]
