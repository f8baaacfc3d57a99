"""Image names by Docker's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.errors import InvalidArgument
from agent.runtime.images.reference import Reference, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/user/app:v1", "docker.io/user/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"host.io/app:v1@{DIGEST}", f"host.io/app:v1@{DIGEST}"),
        ("a__b/c-d.e--f:T_a.g-1", "docker.io/a__b/c-d.e--f:T_a.g-1"),
    ],
)
def test_names_are_completed(text: str, full: str) -> None:
    assert str(parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":v1",
        "a b",
        "-a",
        "a/",
        "/a",
        "a//b",
        "host.io/UPPER",
        "a:",
        "a:.v",
        f"a:{'x' * 129}",
        "a@",
        "a@sha256:ab",
        "a@md5:" + "a" * 32,
        "a___b",
        "host.io:port/a",
        "a" * 300,
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        parse(text)


@given(st.text(alphabet="abz019./:-_@A[]", max_size=30))
def test_a_full_name_means_the_same_again(text: str) -> None:
    try:
        found = parse(text)
    except InvalidArgument:
        return
    assert parse(str(found)) == found
    assert isinstance(found, Reference)
