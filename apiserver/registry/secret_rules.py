"""What a Secret must hold by its type.

Source: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types
"""

import base64
from collections.abc import Iterator

from apiserver.registry.kind import Object, invalid, required
from machinery.errors import Cause

_ACCOUNT = "kubernetes.io/service-account.name"
_ONE_OF = {"kubernetes.io/basic-auth": ("username", "password")}
_ALL_OF = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def secret_causes(secret: Object) -> Iterator[Cause]:
    """Yield what a secret lacks for its type."""
    kind, data = secret["type"], secret.get("data") or {}
    if kind == "kubernetes.io/service-account-token" and not (secret["metadata"].get("annotations") or {}).get(
        _ACCOUNT
    ):
        yield required(f"metadata.annotations[{_ACCOUNT}]")
    one_of = _ONE_OF.get(kind, ())
    if one_of and not any(key in data for key in one_of):
        yield from (required(f"data[{key}]") for key in one_of)
    for key in _ALL_OF.get(kind, ()):
        if key not in data or (kind == "kubernetes.io/ssh-auth" and not data[key]):
            yield required(f"data[{key}]")
        elif key.startswith(".docker") and (wrong := _json_problem(data[key])):
            yield invalid(f"data[{key}]", "<secret contents redacted>", wrong)


def _json_problem(encoded: str) -> str:
    import json

    try:
        found = json.loads(base64.b64decode(encoded))
    except ValueError as error:
        return str(error)
    return "" if isinstance(found, dict) or found is None else "json: cannot unmarshal into Go value of type map"
