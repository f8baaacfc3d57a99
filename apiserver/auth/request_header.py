"""Users that a trusted proxy names in headers: this server behind one, or behind another API server.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy
"""

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from apiserver.auth.user import AUTHENTICATED, User

USER, GROUP, UID, EXTRA = "X-Remote-User", "X-Remote-Group", "X-Remote-Uid", "X-Remote-Extra-"


class RequestHeader:
    """Takes users from the headers of clients whose certificate a CA of its own signed."""

    def __init__(self, ca_file: Path, allowed_names: Sequence[str]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(ca_file)
        self._issuers = {_flat(one["subject"]) for one in context.get_ca_certs()}
        self._allowed = frozenset(allowed_names)

    def is_proxy(self, certificate: Mapping[str, Any]) -> bool:
        """Whether the proxies' CA signed a certificate: it says nothing of a user then."""
        return _flat(certificate.get("issuer", ())) in self._issuers

    def user_of(self, certificate: Mapping[str, Any], headers: Any) -> User | None:
        """Return the user that a proxy names; None when it may not, or names none."""
        names = [value for key, value in _flat(certificate["subject"]) if key == "commonName"]
        name = headers.get(USER, "")
        if not name or (self._allowed and not self._allowed & set(names)):
            return None
        extra: dict[str, list[str]] = {}
        for key, value in headers.items():
            if key.lower().startswith(EXTRA.lower()):
                extra.setdefault(unquote(key[len(EXTRA) :].lower()), []).append(value)
        groups = list(dict.fromkeys([*headers.getall(GROUP, []), AUTHENTICATED]))
        return User(name, tuple(groups), headers.get(UID, ""), extra)


def headers_of(user: User) -> list[tuple[str, str]]:
    """Return the headers that tell another server who asks."""
    found = [(USER, user.name), *((GROUP, group) for group in user.groups)]
    if user.uid:
        found.append((UID, user.uid))
    for key, values in user.extra.items():
        found += [(EXTRA + _escaped(key), value) for value in values]
    return found


def _escaped(key: str) -> str:
    """Return a key as a header's name may hold it."""
    from urllib.parse import quote

    return quote(key, safe="!#$&'*+-.^_`|~")


def _flat(name: Any) -> tuple[tuple[str, str], ...]:
    return tuple(pair for part in name for pair in part)
