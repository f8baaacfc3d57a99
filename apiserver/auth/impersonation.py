"""Acting as somebody else: a request's Impersonate-* headers, and whether its user may.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from apiserver.auth.tokens import ACCOUNT_PREFIX
from apiserver.auth.user import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User
from apiserver.request import RequestInfo
from machinery import errors

_USER, _GROUP, _UID, _EXTRA = "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-"
_AUTHENTICATION = "authentication.k8s.io"


def impersonated(user: User, headers: Any, authorize: Callable[[User, RequestInfo], object]) -> User:
    """Return the user a request acts as: its own unless the headers name another.

    Args: `headers` is the request's multi-dict; `authorize` raises Forbidden for what a user may not.
    Raises: Forbidden, BadRequest (headers without a user).
    """
    name = headers.get(_USER)
    groups, uid = headers.getall(_GROUP, []), headers.get(_UID, "")
    extra = _extra(headers)
    if not name:
        if groups or uid or extra:
            raise errors.BadRequest(
                f'requested {_named(groups, uid, extra)} without impersonating a user: "Impersonate-User" is missing'
            )
        return user
    for info in _questions(name, groups, uid, extra):
        authorize(user, info)
    return User(name, _groups(name, groups), uid, extra)


def _named(groups: list[str], uid: str, extra: Mapping[str, list[str]]) -> str:
    return str([*groups, *([uid] if uid else []), *extra])


def _extra(headers: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in headers.items():
        if key.lower().startswith(_EXTRA.lower()):
            found.setdefault(unquote(key[len(_EXTRA) :].lower()), []).append(value)
    return found


def _questions(name: str, groups: list[str], uid: str, extra: Mapping[str, list[str]]) -> Iterator[RequestInfo]:
    """Yield what the user must be allowed."""
    if name.startswith(ACCOUNT_PREFIX) and name.count(":") == 3:
        namespace, account = name.removeprefix(ACCOUNT_PREFIX).split(":")
        yield RequestInfo(
            "impersonate", "", is_resource=True, version="v1", namespace=namespace, resource="serviceaccounts",
            name=account,
        )  # fmt: skip
    else:
        yield RequestInfo("impersonate", "", is_resource=True, version="v1", resource="users", name=name)
    for group in groups:
        yield RequestInfo("impersonate", "", is_resource=True, version="v1", resource="groups", name=group)
    if uid:
        yield RequestInfo(
            "impersonate", "", is_resource=True, group=_AUTHENTICATION, version="v1", resource="uids", name=uid
        )
    for key, values in extra.items():
        for value in values:
            yield RequestInfo(
                "impersonate", "", is_resource=True, group=_AUTHENTICATION, version="v1", resource="userextras",
                subresource=key, name=value,
            )  # fmt: skip


def _groups(name: str, asked: list[str]) -> tuple[str, ...]:
    """Return the groups of an impersonated user: those asked for, and those every such user is in."""
    groups = list(asked)
    if name.startswith(ACCOUNT_PREFIX) and not groups and name.count(":") == 3:
        namespace = name.removeprefix(ACCOUNT_PREFIX).partition(":")[0]
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    own = UNAUTHENTICATED if name == ANONYMOUS.name else AUTHENTICATED
    return tuple(groups if own in groups else [*groups, own])
