"""gzip for long answers, where the client takes it.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#response-compression
"""

import asyncio

from aiohttp import web

# Shorter ones are not worth it; upstream's figure.
MIN_BYTES = 128 * 1024
_LEVEL = 0  # lists of objects repeat themselves so much that more work saves little
# Longer ones are compressed beside the loop.
_LONG_BYTES = 1024 * 1024


async def compressed(http: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Return the response, compressed if it is long and the client says that it takes gzip."""
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    body = response.body
    if len(body) < MIN_BYTES or "gzip" not in http.headers.get("Accept-Encoding", "") or response.status != 200:
        return response
    from isal import igzip  # most clients of an idle cluster never need it

    if len(body) < _LONG_BYTES:
        response.body = igzip.compress(body, _LEVEL)
    else:
        response.body = await asyncio.to_thread(igzip.compress, body, _LEVEL)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept, Accept-Encoding"
    return response
