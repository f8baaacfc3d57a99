"""What add-ons there are: their manifests, which of them have an operator, and how a cluster here is told of them.

Kept small: `wherry up` reads it too.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Sequence
from importlib import resources

from cluster.layout import Layout

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


def set_here(layout: Layout, name: str, *, wanted: bool) -> bool:
    """Remember an add-on for the cluster on this machine and have its supervisor act on it; False if none runs."""
    from cluster import up

    settings, supervisor = up.load(layout), up.running_pid(layout, up.SUPERVISOR)
    if settings is None or settings.join or supervisor is None:
        return False
    others = [one for one in settings.addons if one != name]
    settings = dataclasses.replace(settings, addons=sorted([*others, name] if wanted else others))
    up.save(layout, settings)
    up.write_operator_credentials(layout, settings)
    with contextlib.suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGHUP)
    return True
