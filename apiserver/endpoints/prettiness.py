"""Indented JSON for those who read answers themselves: who asks for it, and browsers, curl and wget.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ (the parameter `pretty` of every request)
"""

from collections.abc import Mapping

import orjson
from aiohttp import web

from apiserver.request import flag

_READERS = ("curl", "Wget", "Mozilla/5.0")


def indented(http: web.BaseRequest, query: Mapping[str, str], response: web.StreamResponse) -> web.StreamResponse:
    """Return the response, its JSON indented where a person is to read it."""
    if "pretty" in query:
        if not flag(query, "pretty"):
            return response
    elif not http.headers.get("User-Agent", "").startswith(_READERS):
        return response
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes) or not response.body:
        return response
    if response.content_type == "application/json":
        response.body = orjson.dumps(orjson.loads(response.body), option=orjson.OPT_INDENT_2) + b"\n"
    return response
