"""The dashboard in real headless Chromium, over a real API server: what people see, and what they must not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dashboard.app import Options, run
from machinery.api.meta import Resource, now
from machinery.api.resources import NODES, PODS
from machinery.client.rest import Client
from tests.support.chromium import MISSING, Browser, chromium
from tests.support.server import ADMIN_TOKEN, running_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
EVENTS = Resource("", "v1", "events", "Event")
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
EVIL = "<img src=x onerror='document.title=1'><script>document.title=2</script>"


@dataclass(frozen=True)
class Lab:
    url: str
    admin: Client

    async def token(self, name: str, *readable: str) -> str:
        """Return a token of an account that may read some kinds of the namespace default."""
        await self.admin.create(ACCOUNTS, {"metadata": {"name": name}}, "default")
        if readable:
            rule = {"apiGroups": [""], "resources": list(readable), "verbs": ["get", "list", "watch"]}
            await self.admin.create(ROLES, {"metadata": {"name": name}, "rules": [rule]}, "default")
            body = {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": BINDINGS.group, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
            }
            await self.admin.create(BINDINGS, body, "default")
        path = ACCOUNTS.path("default", name, "token")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = await self.admin._json("POST", path, body=body)
        return str(answer["status"]["token"])

    async def pod(self, name: str, node: str, ready: bool) -> None:
        container = {"name": "main", "image": "x", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
        spec = {"nodeName": node, "containers": [container], "automountServiceAccountToken": False}
        await self.admin.create(PODS, {"metadata": {"name": name}, "spec": spec}, "default")
        await self.state(name, ready=ready)

    async def state(self, name: str, *, ready: bool) -> None:
        state = {"running": {"startedAt": now()}} if ready else {"waiting": {"reason": "CrashLoopBackOff"}}
        one = {"name": "main", "image": "x", "imageID": "", "ready": ready, "restartCount": 3, "state": state}
        status = {"phase": "Running", "containerStatuses": [one]}
        await self.admin.patch(PODS, name, {"status": status}, "default", subresource="status")

    async def event(self, about: dict[str, Any], message: str) -> None:
        body = {
            "metadata": {"name": "warned", "namespace": "default"}, "type": "Warning", "reason": "BackOff",
            "message": message, "lastTimestamp": now(), "firstTimestamp": now(), "count": 1,
            "involvedObject": {
                "kind": "Pod", "namespace": "default", "name": about["metadata"]["name"], "uid": about["metadata"]["uid"],
            },
        }  # fmt: skip
        await self.admin.create(EVENTS, body, "default")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running_server(tmp_path) as (_, config), Client(config) as admin:
        ready: asyncio.Queue[int] = asyncio.Queue()
        serving = asyncio.create_task(run(config, Options(port=0), ready=ready.put_nowait))
        try:
            await admin.create(ACCOUNTS, {"metadata": {"name": "default"}}, "default")
            port = asyncio.create_task(ready.get())
            await asyncio.wait({port, serving}, return_when=asyncio.FIRST_COMPLETED)
            yield Lab(f"http://127.0.0.1:{port.result()}", admin)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def log_in(browser: Browser, lab: Lab, token: str) -> None:
    await browser.open(lab.url)
    await browser.type("#token", token)
    await browser.press("Enter")


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_the_page_shows_the_cluster_live_and_takes_nothing_it_is_told_for_markup(
    lab: Lab, tmp_path: Path
) -> None:
    capacity = {"cpu": "2", "memory": "4Gi", "pods": "110"}
    ready, address = [{"type": "Ready", "status": "True"}], [{"type": "InternalIP", "address": "127.0.0.1"}]
    for name in ("node-a", "node-b"):
        await lab.admin.create(NODES, {"metadata": {"name": name}})
        status = {"capacity": capacity, "allocatable": capacity, "conditions": ready, "addresses": address}
        await lab.admin.patch(NODES, name, {"status": status}, subresource="status")
    await lab.pod("web", "node-a", ready=True)
    await lab.pod("db", "node-a", ready=False)
    async with chromium(tmp_path / "profile") as browser:
        await log_in(browser, lab, "not-a-token")
        await browser.until_shown("the cluster does not know this token")
        await log_in(browser, lab, ADMIN_TOKEN)
        await browser.until_shown("1.00 of 2")
        squares = "[...document.querySelectorAll('[data-node=node-a] .square')].map((one) => one.title).join()"
        assert await browser.run(squares) == "default/db: CrashLoopBackOff,default/web: Running"
        await lab.state("db", ready=True)
        await browser.until(f"({squares}).includes('db: Running')")

        await lab.event(await lab.admin.get(PODS, "db", "default"), EVIL)
        await browser.until_shown(EVIL)
        await browser.click(".square[title^='default/db']")
        await browser.until_shown("Timeline")
        await browser.until(
            f"[...document.querySelectorAll('.what')].some((one) => one.textContent.includes({EVIL!r}))"
        )
        assert await browser.run("document.querySelectorAll('main img, main script').length") == 0
        assert not (await browser.run("document.title")).isdigit()

        await browser.click("nav a[href='#/pods']")
        await browser.type("#filter", "db")
        await browser.until("document.querySelectorAll('tbody tr').length === 1")
        assert "1 of 2" in await browser.run("document.querySelector('main').innerText")
        await lab.admin.delete(PODS, "db", "default", options={"gracePeriodSeconds": 0})
        await browser.until("document.querySelectorAll('tbody tr').length === 0")
        # What a blind or a keyboard's user needs: names for all that can be used, and focus in order.
        unnamed = "[...document.querySelectorAll('a, button, input, select')].filter((one) => !(one.innerText || one.ariaLabel || one.labels?.length))"
        assert await browser.run(f"{unnamed}.length") == 0
        assert await browser.run("document.cookie") == ""
        await browser.click("#logout")
        await browser.until("document.querySelector('#token')")
        assert await browser.run("fetch('/live?kinds=pods').then((answer) => answer.status)") == 401
        # Refused logins and logs of a node that is not there are among what the browser tells; scripts have no errors,
        # and nothing was held back by the policy.
        assert [one for one in browser.problems if "Failed to load resource" not in one] == []


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_who_logs_in_sees_what_their_token_may_see(lab: Lab, tmp_path: Path) -> None:
    await lab.pod("web", "", ready=False)
    async with chromium(tmp_path / "profile") as browser:
        await log_in(browser, lab, await lab.token("reader", "pods"))
        await browser.until_shown('cannot list resource "nodes"')
        await browser.until_shown('cannot list resource "pods"')
        await browser.click("nav a[href='#/pods']")
        await browser.type("#namespace", "default")
        await browser.press("Enter")
        await browser.until_shown("web")
        assert "cannot list" not in await browser.run("document.body.innerText")


async def test_a_login_has_the_rights_of_its_token_and_not_ours(lab: Lab) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        token = await lab.token("nobody")
        async with http.post(f"{lab.url}/login", json={"token": token}, headers={"Origin": lab.url}) as answer:
            assert await answer.json() == {"user": "system:serviceaccount:default:nobody"}
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert token not in cookie
        async with http.get(f"{lab.url}/live", params={"kinds": "pods", "namespace": "default"}) as answer:
            line = await answer.content.readline()
            assert b'"code":403' in line
        for path in (
            "/live?kinds=secrets",
            "/live?kinds=pods&namespace=../x",
            "/log?namespace=a&pod=b%2Fproxy&container=c",
        ):
            async with http.get(lab.url + path) as answer:
                assert answer.status == 400


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/", {"Host": "evil.example"}, 421),
        ("GET", "/", {"Host": "evil.example:80", "Sec-Fetch-Site": "cross-site"}, 421),
        ("GET", "/pages/main.js", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", "/pages/..%2Fapp.py", {}, 404),
        ("POST", "/login", {"Origin": "http://evil.example"}, 403),
        ("POST", "/login", {}, 403),
        ("GET", "/live?kinds=pods", {}, 401),
        ("GET", "/log?namespace=a&pod=b&container=c", {}, 401),
    ],
)
async def test_other_pages_and_the_unknown_are_refused(
    lab: Lab, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    async with aiohttp.ClientSession() as http, http.request(method, lab.url + path, headers=headers) as answer:
        assert answer.status == status
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        with contextlib.suppress(UnicodeDecodeError):
            assert "//" not in (await answer.text()).replace("http://www.w3.org/2000/svg", "") or path != "/"
