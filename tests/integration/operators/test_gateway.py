"""Gateways and HTTPRoutes served by the real HAProxy over a real API server, to real backends.

Behaviour: https://gateway-api.sigs.k8s.io/api-types/httproute/
"""

import asyncio
import base64
import shutil
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.pki import Pki
from machinery.api.resources import NAMESPACES, SECRETS
from machinery.client.rest import Client
from operators.ingress.filters import Unsupported, lines_of
from operators.ingress.gateway import CONTROLLER, GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES, REFERENCE_GRANTS
from operators.ingress.grants import Grants
from tests.integration.operators.conftest import Site
from tests.support.waiting import until_one

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")]


def condition(told: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next((one for one in told.get("conditions") or () if one["type"] == kind), None)
    return (found["status"], found["reason"]) if found else ("", "")


def backend(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": 80, **more}


async def gateway(site: Site, name: str = "gate", *more: dict[str, Any]) -> None:
    await until_one(site.client, GATEWAY_CLASSES, "wherry", lambda one: condition(one.get("status") or {}, "Accepted"))
    web = {"name": "web", "protocol": "HTTP", "port": site.listen.http_port}
    spec = {"gatewayClassName": "wherry", "listeners": [web, *more]}
    await site.client.create(GATEWAYS, {"metadata": {"name": name}, "spec": spec}, "default")


async def route(client: Client, name: str, *rules: dict[str, Any], **spec: Any) -> None:
    spec = {"parentRefs": [{"name": "gate"}], "rules": list(rules), **spec}
    await client.create(HTTP_ROUTES, {"metadata": {"name": name}, "spec": spec}, "default")


async def told(client: Client, name: str, accepted: str, refs: str = "ResolvedRefs") -> None:
    """Wait until a route's one parent says so."""

    def says_so(found: dict[str, Any]) -> bool:
        parents = (found.get("status") or {}).get("parents") or ()
        return [(condition(one, "Accepted")[1], condition(one, "ResolvedRefs")[1]) for one in parents] == [
            (accepted, refs)
        ]

    found = await until_one(client, HTTP_ROUTES, name, says_so)
    assert found["status"]["parents"][0]["controllerName"] == CONTROLLER


async def test_hosts_paths_methods_and_headers_lead_to_their_backends(site: Site) -> None:
    await gateway(site)
    await route(
        site.client, "r",
        {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [backend("a")]},
        {"matches": [{"path": {"type": "Exact", "value": "/only"}}], "backendRefs": [backend("b")]},
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "Version", "value": "2"}]}],
            "backendRefs": [backend("c")],
        },
        {"matches": [{"path": {"value": "/"}, "method": "POST"}], "backendRefs": [backend("b")]},
        hostnames=["one.example", "*.two.example"],
    )  # fmt: skip
    await told(site.client, "r", "Accepted")
    await site.until("one.example", "/", "a / http")
    assert await site.ask("x.two.example", "/only") == "b /only http"
    assert await site.ask("one.example", "/only/this") == "a /only/this http"
    assert await site.ask("one.example", "/", head="Version: 2\r\n") == "c / http"
    assert await site.ask("one.example", "/", method="POST") == "b / http"
    assert await site.ask("other.example") == "default backend - 404"
    found = await until_one(
        site.client, GATEWAYS, "gate", lambda one: condition(one.get("status") or {}, "Programmed")[0] == "True"
    )
    assert found["status"]["addresses"] == [{"type": "IPAddress", "value": "192.0.2.1"}]
    [listener] = found["status"]["listeners"]
    assert listener["attachedRoutes"] == 1
    assert [condition(listener, kind)[0] for kind in ("Accepted", "Programmed", "ResolvedRefs")] == ["True"] * 3


async def test_weights_share_the_requests(site: Site) -> None:
    await gateway(site)
    await route(site.client, "r", {"backendRefs": [backend("a", weight=3), backend("b"), backend("c", weight=0)]})
    await site.until("x.example", "/", "a / http")
    seen = Counter([(await site.ask("x.example"))[0] for _ in range(40)])
    assert set(seen) == {"a", "b"}
    assert seen["a"] == pytest.approx(30, abs=3)


async def test_an_https_listener_shows_its_secret_s_certificate(site: Site, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "site-pki")
    cert, key = (base64.b64encode(one.read_bytes()).decode() for one in pki.server("site", "site", ["one.example"]))
    secret = {"metadata": {"name": "s"}, "type": "kubernetes.io/tls", "data": {"tls.crt": cert, "tls.key": key}}
    await site.client.create(SECRETS, secret, "default")
    tls = {"mode": "Terminate", "certificateRefs": [{"name": "s"}]}
    listener = {
        "name": "tls",
        "protocol": "HTTPS",
        "port": site.listen.https_port,
        "hostname": "one.example",
        "tls": tls,
    }
    await gateway(site, "gate", listener)
    parent = {"name": "gate", "sectionName": "tls"}
    await route(site.client, "r", {"backendRefs": [backend("a")]}, parentRefs=[parent], hostnames=["one.example"])
    await told(site.client, "r", "Accepted")
    trust = ssl.create_default_context(cafile=str(pki.ca_file))
    await site.until("one.example", "/x", "a /x https", tls=trust)
    found = await until_one(
        site.client, GATEWAYS, "gate", lambda one: condition(one.get("status") or {}, "Programmed")[0] == "True"
    )
    said = {one["name"]: one for one in found["status"]["listeners"]}["tls"]
    assert [condition(said, kind)[0] for kind in ("Accepted", "Programmed", "ResolvedRefs")] == ["True"] * 3
    assert said["attachedRoutes"] == 1
    assert await site.ask("one.example", "/x") == "default backend - 404"  # the route is the other listener's alone


async def test_what_is_not_served_is_told(site: Site) -> None:
    narrow = {"name": "narrow", "protocol": "HTTP", "port": site.listen.http_port, "hostname": "*.two.example"}
    udp = {"name": "udp", "protocol": "UDP", "port": 53}
    tls = {"name": "tls", "protocol": "HTTPS", "port": site.listen.https_port, "tls": {"certificateRefs": [{"name": "no"}]}}  # fmt: skip
    await gateway(site, "gate", narrow, udp, tls)
    rule = {"backendRefs": [backend("a")]}
    filtered = {**rule, "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": backend("b")}}]}
    await route(site.client, "filtered", filtered)
    await route(site.client, "missing", {"backendRefs": [backend("none")]})
    await route(
        site.client, "elsewhere", rule, parentRefs=[{"name": "gate", "sectionName": "narrow"}], hostnames=["a.b"]
    )
    await route(site.client, "nowhere", rule, parentRefs=[{"name": "gate", "sectionName": "none"}])
    await asyncio.gather(
        told(site.client, "filtered", "UnsupportedValue"),
        told(site.client, "missing", "Accepted", "BackendNotFound"),
        told(site.client, "elsewhere", "NoMatchingListenerHostname"),
        told(site.client, "nowhere", "NoMatchingParent"),
    )
    found = await until_one(
        site.client, GATEWAYS, "gate", lambda one: len((one.get("status") or {}).get("listeners") or ()) == 4
    )
    said = {one["name"]: one for one in found["status"]["listeners"]}
    assert condition(said["udp"], "Accepted") == ("False", "UnsupportedProtocol")
    assert condition(said["tls"], "ResolvedRefs") == ("False", "InvalidCertificateRef")
    assert condition(said["narrow"], "Programmed") == ("True", "Programmed")
    assert condition(found["status"], "Accepted") == ("True", "ListenersNotValid")


async def test_other_namespaces_are_reached_where_a_grant_lets_them(site: Site) -> None:
    """A route and a gateway of other namespaces; the servers and the certificate are in default."""
    client = site.client
    for name, labels in (("team", {"may": "attach"}), ("others", {})):
        await client.create(NAMESPACES, {"metadata": {"name": name, "labels": labels}})
    chosen = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"may": "attach"}}}}
    port = site.listen.http_port
    chosen_too = {"name": "chosen", "protocol": "HTTP", "port": port, "hostname": "x.example", "allowedRoutes": chosen}
    await gateway(site, "gate", chosen_too)
    rule = {
        "matches": [{"queryParams": [{"name": "q", "value": "a b"}]}],
        "backendRefs": [{"name": "a", "namespace": "default", "port": 80}],
    }
    parents = [{"name": "gate", "namespace": "default", "sectionName": "chosen"}]
    spec = {"parentRefs": parents, "rules": [rule]}
    for namespace in ("team", "others"):
        await client.create(HTTP_ROUTES, {"metadata": {"name": "r"}, "spec": spec}, namespace)

    async def says(namespace: str, accepted: str, refs: str) -> None:
        def check(one: dict[str, Any]) -> bool:
            [said] = (one.get("status") or {}).get("parents") or [{}]
            return (condition(said, "Accepted")[1], condition(said, "ResolvedRefs")[1]) == (accepted, refs)

        await until_one(client, HTTP_ROUTES, "r", check, namespace=namespace)

    await says("team", "Accepted", "RefNotPermitted")
    await says("others", "NotAllowedByListeners", "RefNotPermitted")
    await site.until("x.example", "/?q=a%20b", "no endpoints")
    grant = {
        "from": [{"group": HTTP_ROUTES.group, "kind": "HTTPRoute", "namespace": "team"}],
        "to": [{"group": "", "kind": "Service", "name": "a"}],
    }
    made = await client.create(REFERENCE_GRANTS, {"metadata": {"name": "g"}, "spec": grant}, "default")
    await says("team", "Accepted", "ResolvedRefs")
    await site.until("x.example", "/?q=a+b", "a /?q=a+b http")
    assert await site.ask("x.example", "/?q=b") == "default backend - 404"
    await client.delete(REFERENCE_GRANTS, made["metadata"]["name"], "default")
    await says("team", "Accepted", "RefNotPermitted")


def test_a_grant_is_for_what_it_names() -> None:
    spec = {
        "from": [{"group": "g", "kind": "Gateway", "namespace": "a"}],
        "to": [{"group": "", "kind": "Secret"}, {"group": "", "kind": "Service", "name": "s"}],
    }
    grants = Grants([{"metadata": {"namespace": "b", "name": "x"}, "spec": spec}])
    assert grants.permit("g", "Gateway", "a", "Secret", "b", "any")
    assert grants.permit("g", "Gateway", "a", "Service", "b", "s")
    assert grants.permit("g", "HTTPRoute", "b", "Service", "b", "any")
    for refused in (
        ("g", "Gateway", "a", "Service", "b", "t"), ("g", "HTTPRoute", "a", "Secret", "b", "any"),
        ("g", "Gateway", "c", "Secret", "b", "any"), ("g", "Gateway", "a", "Secret", "d", "any"),
    ):  # fmt: skip
        assert not grants.permit(*refused)


def changed(prefix: str, *filters: dict[str, Any], to: str = "a") -> dict[str, Any]:
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": prefix}}], "filters": list(filters)}
    return {**rule, "backendRefs": [backend(to)]} if to else rule


def rewrite(**spec: Any) -> dict[str, Any]:
    return {"type": "URLRewrite", "urlRewrite": spec}


def redirect(**spec: Any) -> dict[str, Any]:
    return {"type": "RequestRedirect", "requestRedirect": spec}


def prefix(value: str) -> dict[str, str]:
    return {"type": "ReplacePrefixMatch", "replacePrefixMatch": value}


async def test_filters_change_headers_paths_and_hosts_and_send_elsewhere(site: Site) -> None:
    await gateway(site)
    headers = {"set": [{"name": "X-See", "value": "it's 100% %[path]"}], "remove": ["X-Seen-Not"]}
    answers = {"add": [{"name": "X-Told", "value": "yes"}]}
    await route(
        site.client, "r",
        changed(
            "/headers", {"type": "RequestHeaderModifier", "requestHeaderModifier": headers},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": answers},
        ),
        changed("/old", rewrite(path=prefix("/new"))), changed("/bare", rewrite(path=prefix("/"))),
        changed("/full", rewrite(path={"type": "ReplaceFullPath", "replaceFullPath": "/one"})),
        changed("/secure", redirect(scheme="https", statusCode=301), to=""),
        changed("/moved", redirect(hostname="other.example", port=8080, path=prefix("/there")), to=""),
        changed("/same", redirect(path={"type": "ReplaceFullPath", "replaceFullPath": "/x"}), to=""),
    )  # fmt: skip
    await told(site.client, "r", "Accepted")
    await site.until("h.example", "/old/x?q=1", "a /new/x?q=1 http")
    assert [await site.ask("h.example", path) for path in ("/old", "/bare", "/bare/x", "/full/y?q")] == [
        "a /new http", "a / http", "a /x http", "a /one?q http",
    ]  # fmt: skip
    answer = await site.answer("h.example", "/headers", head="X-See: mine\r\nX-Seen-Not: gone\r\n")
    assert answer.endswith("a /headers http it's 100% %[path]")
    assert "x-told: yes" in answer.lower()
    port = site.listen.http_port
    for path, code, location in (
        ("/secure/x?q=1", 301, "https://h.example/secure/x?q=1"),
        ("/moved/x", 302, "http://other.example:8080/there/x"), ("/same", 302, f"http://h.example:{port}/x"),
    ):  # fmt: skip
        head = await site.answer("h.example", path)
        assert head.startswith(f"HTTP/1.1 {code} ")
        assert f"\r\nlocation: {location}\r\n" in head


@pytest.mark.parametrize(
    "filters",
    [
        [rewrite(path={"type": "ReplaceFullPath", "replaceFullPath": "/a' if x"})], [rewrite(hostname="a b")],
        [redirect(scheme="https"), rewrite(hostname="a")], [redirect(statusCode=200)], [{"type": "ExtensionRef"}],
        [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "A", "value": "x\ny"}]}}],
    ],
)  # fmt: skip
def test_filters_that_make_no_sense_are_not_taken(filters: list[dict[str, Any]]) -> None:
    with pytest.raises(Unsupported):
        lines_of({"matches": [{"path": {"value": "/"}}], "filters": filters}, (80, 443))
