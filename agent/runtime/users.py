"""Who a container's process is: CRI's and the image's user, resolved in the image's own passwd and group files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.runtime.errors import InvalidArgument


@dataclass(frozen=True)
class User:
    """Ids of the first process; `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class WantedUser:
    """What CRI asks for: at most one of uid and name; without both the image's own user is meant."""

    uid: int | None = None
    name: str = ""
    gid: int | None = None
    groups: Sequence[int] = ()
    merge_image_groups: bool = True


def _entries(text: str, least: int) -> Iterable[list[str]]:
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= least and not line.startswith("#"):
            yield fields


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def resolve(wanted: WantedUser, image_user: str, passwd: str, group: str) -> User:
    """Find the ids to run as.

    Args:
        wanted: what CRI asks for.
        image_user: `User` of the image's config: "", "name", "uid", "name:group", "uid:gid" and mixes of them.
        passwd: text of the image's /etc/passwd, "" if it has none.
        group: text of its /etc/group.

    Raises: InvalidArgument if a name isn't in the image; numbers need not be.
    """
    if wanted.gid is not None and wanted.uid is None and not wanted.name:
        raise InvalidArgument("run_as_group is specified without run_as_user or run_as_username")
    image_name, _, image_group = image_user.partition(":")
    if wanted.uid is not None:
        user_text, group_text = str(wanted.uid), ""
    elif wanted.name:
        user_text, group_text = wanted.name, ""
    else:
        user_text, group_text = image_name or "0", image_group
    entry = _find_user(user_text, passwd)
    uid = int(entry[2]) if entry else _number(user_text)
    if uid is None:
        raise InvalidArgument(f"unable to find user {user_text}: no matching entries in passwd file")
    gid = int(entry[3]) if entry else 0
    if wanted.gid is not None:
        gid = wanted.gid
    elif group_text:
        gid = _find_group(group_text, group)
    groups = {gid, *wanted.groups}
    if wanted.merge_image_groups and entry:
        groups.update(
            int(fields[2]) for fields in _entries(group, 4) if fields[2].isdigit() and entry[0] in fields[3].split(",")
        )
    return User(uid, gid, tuple(sorted(groups)))


def _find_user(text: str, passwd: str) -> list[str] | None:
    """The passwd entry of a name or uid; names go first, as in Docker."""
    entries = [fields for fields in _entries(passwd, 4) if fields[2].isdigit() and fields[3].isdigit()]
    for fields in entries:
        if fields[0] == text:
            return fields
    return next((fields for fields in entries if fields[2] == text), None)


def _find_group(text: str, group: str) -> int:
    for fields in _entries(group, 3):
        if fields[0] == text and fields[2].isdigit():
            return int(fields[2])
    number = _number(text)
    if number is None:
        raise InvalidArgument(f"unable to find group {text}: no matching entries in group file")
    return number
