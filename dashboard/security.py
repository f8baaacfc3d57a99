"""What holds other people's pages off: headers for the browser, and checks of where a request comes from.

The page needs nothing from elsewhere and runs no script that is not a file of ours, so its policy allows nothing else.
Source: https://owasp.org/www-project-secure-headers/
"""

import ipaddress

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Tell the browser what the page may do; called for every answer, streams too."""
    response.headers.update(HEADERS)


def guard(names: frozenset[str]) -> Middleware:
    """Return the middleware that refuses requests which other pages made, or which came by a name not ours.

    A name not ours is how a page elsewhere makes a browser take us for itself (DNS rebinding). Args: `names` are those
    the server goes by, beside addresses and localhost.
    """

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_ours(request.host, names):
            raise web.HTTPMisdirectedRequest(text="this server does not go by that name\n")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        is_visit = request.method == "GET" and request.path == "/"
        if not is_visit and site not in ("same-origin", "none"):
            raise web.HTTPForbidden(text="asked by another page\n")
        if request.method != "GET" and request.headers.get("Origin") != f"{request.scheme}://{request.host}":
            raise web.HTTPForbidden(text="asked by another page\n")
        return await handler(request)

    return checked


def _is_ours(host: str, names: frozenset[str]) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
