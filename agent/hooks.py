"""Container lifecycle hooks: postStart and preStop.

Source: https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from agent.cri.client import Runtime, RuntimeFailure

_SECONDS = 3600
_HTTP_SECONDS = 30


async def run_hook(
    runtime: Runtime, hook: Mapping[str, Any], container: Mapping[str, Any], container_id: str, host: str
) -> str:
    """Run a hook to its end; returns what went wrong, "" when nothing did."""
    if "exec" in hook:
        command = list(hook["exec"].get("command") or ())
        try:
            code, output = await runtime.exec_sync(container_id, command, _SECONDS)
        except RuntimeFailure as error:
            return str(error)
        return f"Exec lifecycle hook ({command}) failed with exit code {code}: {output.strip()}" if code else ""
    if "sleep" in hook:
        await asyncio.sleep(hook["sleep"].get("seconds", 0))
        return ""
    if "httpGet" in hook and not runtime.is_simulated:
        return await _http(hook["httpGet"], container, host)
    return ""


async def _http(get: Mapping[str, Any], container: Mapping[str, Any], host: str) -> str:
    port = get["port"]
    if isinstance(port, str) and not port.isdigit():
        named = {one.get("name"): one["containerPort"] for one in container.get("ports") or ()}
        port = named.get(port, 0)
    url = f"{get.get('scheme', 'HTTP').lower()}://{get.get('host') or host}:{port}/{get.get('path', '/').lstrip('/')}"
    headers = {one["name"]: one["value"] for one in get.get("httpHeaders") or ()}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_HTTP_SECONDS)) as session,
            session.get(url, headers=headers, ssl=False) as response,
        ):
            await response.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""
