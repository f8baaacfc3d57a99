"""Headless Chromium, driven over the DevTools protocol: what a person would see and do.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

MISSING = "" if shutil.which("chromium") else "needs chromium"
_DEADLINE_SECONDS = 15.0
# Debian's command of that name is a script that looks the machine over first; that takes half a second.
_BINARY = next((one for one in ("/usr/lib/chromium/chromium",) if Path(one).exists()), "chromium")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-port=0", "--force-color-profile=srgb",
)  # fmt: skip


class Browser:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []  # errors and warnings of the console, refusals by the policy among them

    async def listen(self) -> None:
        async for message in self._socket:
            body = message.json()
            if body.get("method") == "Runtime.exceptionThrown":
                self.problems.append(str(body["params"]["exceptionDetails"]))
            elif body.get("method") == "Log.entryAdded" and body["params"]["entry"]["level"] in ("error", "warning"):
                self.problems.append(body["params"]["entry"]["text"])
            elif (future := self._waiting.pop(body.get("id", 0), None)) is not None:
                future.set_result(body)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(_DEADLINE_SECONDS):
            answer = await self._waiting[number]
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page; a promise is waited for."""
        found = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def until(self, condition: str) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        script = (
            f"new Promise((done) => {{ const look = () => {{ let found; try {{ found = ({condition}); }} catch {{}}"
            " if (found) done(found); else setTimeout(look, 20); }; look(); })"
        )
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                return await self.run(script)
        except TimeoutError:
            seen = await self.run("document.body.innerText")
            raise AssertionError(f"not within {_DEADLINE_SECONDS} s: {condition}\n{seen}\n{self.problems}") from None

    async def until_shown(self, text: str) -> None:
        await self.until(f"document.body.innerText.includes({text!r})")

    async def click(self, selector: str) -> None:
        await self.until(f"document.querySelector({selector!r})")
        await self.run(f"document.querySelector({selector!r}).click()")

    async def type(self, selector: str, text: str) -> None:
        """Put text into a field as a person would: by the keyboard."""
        await self.until(f"document.querySelector({selector!r})")
        await self.run(f"document.querySelector({selector!r}).focus()")
        await self.run(f"document.querySelector({selector!r}).select()")
        await self.send("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        code = {"Enter": 13, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def dark(self, *, wanted: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        found = await self.send("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(found["data"]))


@contextlib.asynccontextmanager
async def chromium(folder: Path, *, width: int = 1280, height: int = 860) -> AsyncIterator[Browser]:
    """Run a browser with its profile in `folder`."""
    argv = [_BINARY, *_FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
    with (folder.parent / f"{folder.name}.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output)
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                url = next(tab["webSocketDebuggerUrl"] for tab in await answer.json() if tab["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                browser = Browser(socket)
                listening = asyncio.create_task(browser.listen())
                for domain in ("Page", "Runtime", "Log"):
                    await browser.send(f"{domain}.enable")
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                await browser.send("Emulation.setDeviceMetricsOverride", **size)
                yield browser
                listening.cancel()
    finally:
        process.terminate()
        await process.wait()


async def _port(path: Path) -> int:
    deadline = asyncio.get_running_loop().time() + _DEADLINE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int((await asyncio.to_thread(path.read_text)).split()[0])
        await asyncio.sleep(0.02)  # it tells in no other way
    raise AssertionError("chromium did not start")
