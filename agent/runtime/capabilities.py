"""Which capabilities a container gets: the usual set, changed as CRI asks, within what the machine grants."""

from collections.abc import Iterable

from agent.runtime.errors import InvalidArgument
from agent.runtime.host import CAPABILITY_NAMES

ALL = tuple(f"CAP_{name}" for name in CAPABILITY_NAMES)

# What Docker, containerd and CRI-O users have come to expect without asking.
_USUAL = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
DEFAULT = tuple(f"CAP_{name}" for name in _USUAL.split())


def _full_names(names: Iterable[str]) -> list[str]:
    full = []
    for name in names:
        upper = name.upper()
        if upper == "ALL":
            full.append(upper)
            continue
        upper = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if upper not in ALL:
            raise InvalidArgument(f'unknown capability "{name}"')
        full.append(upper)
    return full


def effective(add: Iterable[str], drop: Iterable[str], granted: frozenset[str], *, privileged: bool) -> list[str]:
    """The set for a container, in the kernel's order.

    "ALL" is applied before single names, so that dropping ALL and adding one leaves that one.

    Args:
        add: names with or without "CAP_", or "ALL".
        drop: likewise.
        granted: our own bounding set: what is not in it cannot be given and is left out.
        privileged: everything granted, whatever is added or dropped.

    Raises: InvalidArgument for a name the kernel doesn't know.
    """
    if privileged:
        return [name for name in ALL if name in granted]
    adding, dropping = _full_names(add), _full_names(drop)
    wanted = set(ALL) if "ALL" in adding else set(DEFAULT)
    if "ALL" in dropping:
        wanted = set()
    wanted.update(name for name in adding if name != "ALL")
    wanted.difference_update(dropping)
    return [name for name in ALL if name in wanted and name in granted]
