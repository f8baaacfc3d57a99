"""Who is asking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class User:
    """A user's name and groups, as authentication found them."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False, compare=False)


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))
