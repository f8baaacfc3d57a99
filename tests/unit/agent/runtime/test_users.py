"""Who a process runs as."""

import pytest

from agent.runtime.errors import InvalidArgument
from agent.runtime.users import User, WantedUser, resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/false\n1000:x:5:6::/:\nbroken line\n#web:x:1:1::/:\n"
GROUP = "root:x:0:\nstaff:x:50:web,other\nwheel:x:10:root\nbad:x:no:web\n"


def found(image_user: str = "", **wanted: object) -> User:
    return resolve(WantedUser(**wanted), image_user, PASSWD, GROUP)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image_user", "expected"),
    [
        ("", User(0, 0, (0, 10))),
        ("web", User(33, 34, (34, 50))),
        ("33", User(33, 34, (34, 50))),
        ("web:staff", User(33, 50, (50,))),
        ("web:7", User(33, 7, (7, 50))),
        ("4242", User(4242, 0, (0,))),
        ("4242:staff", User(4242, 50, (50,))),
        ("1000", User(5, 6, (6,))),  # a name of digits is a name first
    ],
)
def test_the_image_s_user_is_looked_up(image_user: str, expected: User) -> None:
    assert found(image_user) == expected


def test_cri_s_user_displaces_the_image_s_user_and_group() -> None:
    assert found("web:staff", uid=4242) == User(4242, 0, (0,))
    assert found("root", name="web") == User(33, 34, (34, 50))
    assert found("root", uid=33, gid=9, groups=[100, 9]) == User(33, 9, (9, 50, 100))


def test_strict_groups_leave_the_image_s_out() -> None:
    assert found(name="web", groups=[7], merge_image_groups=False) == User(33, 34, (7, 34))


def test_an_image_without_files_knows_numbers_only() -> None:
    assert resolve(WantedUser(), "7:8", "", "") == User(7, 8, (8,))
    with pytest.raises(InvalidArgument, match="unable to find user web"):
        resolve(WantedUser(), "web", "", "")
    with pytest.raises(InvalidArgument, match="unable to find group staff"):
        resolve(WantedUser(), "7:staff", "", "")


def test_a_group_needs_a_user() -> None:
    with pytest.raises(InvalidArgument, match="run_as_group is specified without"):
        found(gid=5)
