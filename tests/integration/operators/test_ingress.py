"""Ingresses served by the real HAProxy over a real API server, to real backends.

Behaviour: https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

import asyncio
import base64
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from cluster.pki import Pki
from machinery.api.resources import INGRESSES, SECRETS
from tests.integration.operators.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")]


def to(name: str, port: int | str = 80) -> dict[str, Any]:
    return {"service": {"name": name, "port": {"name": port} if isinstance(port, str) else {"number": port}}}


def path(text: str, name: str, kind: str = "Prefix") -> dict[str, Any]:
    return {"path": text, "pathType": kind, "backend": to(name)}


async def test_hosts_and_paths_lead_to_their_services(site: Site) -> None:
    rules = [
        {
            "host": "one.example",
            "http": {
                "paths": [
                    {**path("/", "a"), "backend": to("a", "http")},
                    path("/foo", "b"),
                    path("/foo/bar", "c", "Exact"),
                ]
            },
        },
        {"host": "*.two.example", "http": {"paths": [path("/", "c")]}},
    ]
    await site.ingress("i", rules=rules)
    await site.until("one.example", "/", "a / http")
    expected = {
        ("one.example", "/foo"): "b", ("one.example", "/foo/x"): "b", ("one.example", "/food"): "a",
        ("one.example", "/foo/bar"): "c", ("one.example", "/foo/bar/"): "b", ("x.two.example", "/"): "c",
    }  # fmt: skip
    for (host, where), name in expected.items():
        assert await site.ask(host, where) == f"{name} {where} http", (host, where)
    for host in ("two.example", "x.y.two.example", "other.example"):
        assert await site.ask(host) == "default backend - 404"
    status = (await site.client.get(INGRESSES, "i", "default"))["status"]
    assert status["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1"}]


async def test_changes_are_taken_while_connections_go_on(site: Site) -> None:
    await site.ingress("i", defaultBackend=to("a"))
    await site.until("any.example", "/", "a / http")
    # The worker before, which knew no Ingress, still answers what it had accepted.
    in_a_row = 0
    async with asyncio.timeout(10):
        while in_a_row < 20:
            in_a_row = in_a_row + 1 if await site.ask("any.example") == "a / http" else 0
    failures: list[str] = []
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            try:
                answer = await site.ask("any.example")
            except OSError as error:
                failures.append(str(error))
            else:
                if answer not in ("a / http", "b / http"):
                    failures.append(answer)

    task = asyncio.create_task(keep_asking())
    for name in ("b", "a", "b"):
        await site.client.patch(INGRESSES, "i", {"spec": {"defaultBackend": to(name)}}, "default")
        await site.until("any.example", "/", f"{name} / http")
    done.set()
    await task
    assert failures == []


async def test_a_secret_s_certificate_is_shown_to_its_hosts(site: Site, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "site-pki")
    cert, key = pki.server("site", "site", ["one.example"])
    data = {
        "tls.crt": base64.b64encode(cert.read_bytes()).decode(),
        "tls.key": base64.b64encode(key.read_bytes()).decode(),
    }
    await site.client.create(SECRETS, {"metadata": {"name": "s"}, "type": "kubernetes.io/tls", "data": data}, "default")
    rule = {"host": "one.example", "http": {"paths": [path("/", "a")]}}
    await site.ingress("i", tls=[{"hosts": ["one.example"], "secretName": "s"}], rules=[rule])
    await site.until("one.example", "/", "a / http")
    trust = ssl.create_default_context(cafile=str(pki.ca_file))
    async with asyncio.timeout(5):
        while True:
            try:
                answer = await site.ask("one.example", "/x", tls=trust)
                break
            except OSError:
                await asyncio.sleep(0.05)
    assert answer == "a /x https"


async def test_ingresses_of_other_classes_and_what_no_one_stands_behind(site: Site) -> None:
    await site.ingress("other", ingressClassName="nginx", defaultBackend=to("a"))
    rule = {"host": "gone.example", "http": {"paths": [path("/", "nothing")]}}
    await site.ingress("ours", ingressClassName="wherry", rules=[rule])
    await site.until("gone.example", "/", "no endpoints")
    assert await site.ask("any.example") == "default backend - 404"
    assert "loadBalancer" not in ((await site.client.get(INGRESSES, "other", "default")).get("status") or {}) or not (
        await site.client.get(INGRESSES, "other", "default")
    )["status"]["loadBalancer"].get("ingress")
