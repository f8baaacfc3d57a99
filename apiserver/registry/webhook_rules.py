"""How a webhook may be reached: admission's, and those that convert custom resources.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#contacting-the-webhook
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from apiserver.registry import names
from apiserver.registry.kind import Object, invalid, required
from machinery.errors import Cause

_FORM = "; desired format: https://host[/path]"


def client_causes(client: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a clientConfig: one of a URL and a service."""
    url, service = client.get("url"), client.get("service")
    if (url is None) == (service is None):
        yield required(path, "exactly one of url or service is required")
    elif url is not None:
        yield from _url_causes(url, f"{path}.url")
    elif service is not None:
        yield from _service_causes(service, f"{path}.service")


def _url_causes(url: str, path: str) -> Iterator[Cause]:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        yield required(path, f"url must be a valid URL: {error}{_FORM}")
        return
    if parts.scheme != "https":
        yield invalid(path, parts.scheme, f"'https' is the only allowed URL scheme{_FORM}")
    user, at, host = parts.netloc.rpartition("@")
    if not host:
        yield invalid(path, host, f"host must be specified{_FORM}")
    if at:
        yield invalid(path, user, "user information is not permitted in the URL")
    if parts.fragment:
        yield invalid(path, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        yield invalid(path, parts.query, "query parameters are not permitted in the URL")


def _service_causes(service: Object, path: str) -> Iterator[Cause]:
    for field in ("name", "namespace"):
        if not service.get(field):
            yield required(f"{path}.{field}", f"service {field} is required")
    port = service.get("port", 443)
    if not 0 < port < 65536:
        yield invalid(f"{path}.port", port, "port is not valid: must be between 1 and 65535, inclusive")
    if service.get("path") not in (None, "", "/"):
        yield from _path_causes(service["path"], f"{path}.path")


def _path_causes(whole: str, path: str) -> Iterator[Cause]:
    if not whole.startswith("/"):
        yield invalid(path, whole, "must start with a '/'")
    for index, step in enumerate(whole[1:].removesuffix("/").split("/")):
        if not step:
            yield invalid(path, whole, f"segment[{index}] may not be empty")
        elif wrong := names.dns_subdomain(step):
            yield invalid(path, whole, f"segment[{index}]: {wrong}")
