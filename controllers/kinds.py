"""From the kind an object names to the resource it is served as, for owners and targets of any kind."""

import asyncio

from machinery.api.meta import Resource
from machinery.client.discovery import discover
from machinery.client.rest import Client

_DISCOVERY_SECONDS = 30.0
"""What is served is asked for again after so long; a kind that is not known is asked for at most so often."""
_ABSENT_SECONDS = 2.0


class KindFinder:
    """Asks the server what it serves, and remembers it for a while."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._at = float("-inf")
        self._served: dict[tuple[str, str], Resource] = {}

    async def find(self, api_version: str, kind: str) -> Resource | None:
        """Return the resource of a kind; None when it is not served. Raises: APIError."""
        age = asyncio.get_running_loop().time() - self._at
        known = (api_version, kind) in self._served
        if age > (_DISCOVERY_SECONDS if known else _ABSENT_SECONDS):
            found = await discover(self._client)
            self._at = asyncio.get_running_loop().time()
            self._served = {(one.resource.api_version, one.resource.kind): one.resource for one in found}
        return self._served.get((api_version, kind))
