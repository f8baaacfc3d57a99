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


def account_user(name: str) -> User:
    """Return a service account's user, by its full name: system:serviceaccount:NAMESPACE:NAME."""
    namespace = name.split(":")[2]
    return User(name, ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED))


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))
