"""Names of Services and pods, asked with dig over a real API server.

Specification: https://github.com/kubernetes/dns/blob/master/docs/specification.md; the upstream tests that ask the same
are test/e2e/network/dns.go.
"""

import asyncio
from ipaddress import ip_address
from typing import Any

from machinery.api.resources import ENDPOINT_SLICES, SERVICES
from machinery.client.rest import PatchType
from tests.integration.clusterdns.conftest import ADDRESS, Dns
from tests.support.waiting import until, until_one

DOMAIN = "default.svc.cluster.local"


def endpoint(ip: str, hostname: str = "", *, ready: bool = True) -> dict[str, Any]:
    return {"addresses": [ip], "conditions": {"ready": ready}, **({"hostname": hostname} if hostname else {})}


async def test_a_service_has_its_address_its_ports_and_its_name_back(dns: Dns) -> None:
    address = (await dns.service("web"))["spec"]["clusterIP"]
    await dns.until(f"web.{DOMAIN}", "A", {address})
    assert await dns.dig(f"WEB.{DOMAIN}") == address
    assert await dns.dig(f"_http._tcp.web.{DOMAIN}", "SRV") == f"0 100 80 web.{DOMAIN}."
    assert await dns.dig(f"web.{DOMAIN}", "SRV") == f"0 100 80 web.{DOMAIN}."
    assert await dns.dig(ip_address(address).reverse_pointer, "PTR") == f"web.{DOMAIN}."
    assert await dns.dig(f"web.{DOMAIN}", "AAAA") == ""
    assert await dns.status_of(f"web.{DOMAIN}", "AAAA") == "NOERROR"
    assert await dns.status_of(f"none.{DOMAIN}") == "NXDOMAIN"
    assert await dns.status_of(f"_none._tcp.web.{DOMAIN}", "SRV") == "NXDOMAIN"
    assert await dns.dig("dns-version.cluster.local", "TXT") == '"1.1.0"'


async def test_answers_are_authoritative_and_negative_ones_say_how_long(dns: Dns) -> None:
    text = await dns.dig(f"none.{DOMAIN}", "A", "+noall", "+comments", "+authority")
    assert "flags: qr aa rd ra" in text
    assert "SOA\tns.dns.cluster.local. hostmaster.cluster.local." in text
    text = await dns.dig(f"_dns._udp.kube-dns.kube-system.{DOMAIN[8:]}", "SRV", "+noall", "+additional")
    assert text.split() == ["kube-dns.kube-system.svc.cluster.local.", "5", "IN", "A", "10.96.0.10"]


async def test_a_headless_service_has_its_ready_pods_and_their_hostnames(dns: Dns) -> None:
    await dns.service("db", clusterIP="None")
    await dns.endpoints("db", endpoint("10.0.0.1", "db-0"), endpoint("10.0.0.2"), endpoint("10.0.0.3", ready=False))
    await dns.until(f"db.{DOMAIN}", "A", {"10.0.0.1", "10.0.0.2"})
    assert await dns.dig(f"db-0.db.{DOMAIN}") == "10.0.0.1"
    assert await dns.dig(f"10-0-0-2.db.{DOMAIN}") == "10.0.0.2"
    assert await dns.status_of(f"10-0-0-3.db.{DOMAIN}") == "NXDOMAIN"
    ports = set((await dns.dig(f"_http._tcp.db.{DOMAIN}", "SRV")).splitlines())
    assert ports == {f"0 100 8080 db-0.db.{DOMAIN}.", f"0 100 8080 10-0-0-2.db.{DOMAIN}."}
    assert await dns.dig("1.0.0.10.in-addr.arpa", "PTR") == f"db-0.db.{DOMAIN}."
    assert await dns.dig("10-1-2-3.default.pod.cluster.local") == "10.1.2.3"
    assert await dns.status_of("nonsense.default.pod.cluster.local") == "NXDOMAIN"


async def test_clients_that_take_the_first_address_are_spread(dns: Dns) -> None:
    await dns.service("db", clusterIP="None")
    await dns.endpoints("db", *(endpoint(f"10.0.0.{n}") for n in range(3)))
    await dns.until(f"db.{DOMAIN}", "A", {"10.0.0.0", "10.0.0.1", "10.0.0.2"})
    firsts = {(await dns.dig(f"db.{DOMAIN}")).splitlines()[0] for _ in range(6)}
    assert firsts == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}


async def test_answers_follow_endpoints_and_the_type_of_a_service(dns: Dns) -> None:
    await dns.service("db", clusterIP="None")
    await dns.endpoints("db", endpoint("10.0.0.1"))
    await dns.until(f"db.{DOMAIN}", "A", {"10.0.0.1"})
    await dns.client.patch(ENDPOINT_SLICES, "db-1", {"endpoints": [endpoint("10.0.0.9")]}, "default")
    await dns.until(f"db.{DOMAIN}", "A", {"10.0.0.9"})
    await dns.service("out", type="ExternalName", externalName="foo.example.com", ports=None)
    await dns.until(f"out.{DOMAIN}", "CNAME", {"foo.example.com."})
    await dns.client.patch(SERVICES, "out", {"spec": {"externalName": "bar.example.com"}}, "default")
    await dns.until(f"out.{DOMAIN}", "CNAME", {"bar.example.com."})
    spec = {"type": "ClusterIP", "externalName": None, "ports": [{"port": 80, "protocol": "TCP"}]}
    changed = await dns.client.patch(SERVICES, "out", {"spec": spec}, "default", type=PatchType.MERGE)
    await dns.until(f"out.{DOMAIN}", "A", {changed["spec"]["clusterIP"]})


async def test_an_alias_comes_with_the_addresses_it_leads_to(dns: Dns) -> None:
    address = (await dns.service("web"))["spec"]["clusterIP"]
    await dns.service("alias", type="ExternalName", externalName=f"web.{DOMAIN}", ports=None)
    await dns.until(f"alias.{DOMAIN}", "A", {f"web.{DOMAIN}.", address})


async def test_long_answers_are_cut_over_udp_and_whole_over_tcp(dns: Dns) -> None:
    await dns.service("db", clusterIP="None")
    await dns.endpoints("db", *(endpoint(f"10.0.0.{n}") for n in range(90)))
    await dns.until(f"db.{DOMAIN}", "A", {f"10.0.0.{n}" for n in range(90)})  # dig goes on over TCP by itself
    cut = await dns.dig(f"db.{DOMAIN}", "A", "+ignore", "+noedns")
    assert "flags: qr aa tc rd ra" in cut
    assert int(cut.partition("MSG SIZE  rcvd: ")[2]) <= 512
    assert "EDNS: version: 0" in await dns.dig(f"db.{DOMAIN}", "A", "+ignore")


async def test_its_service_and_slice_are_made_anew(dns: Dns) -> None:
    await dns.client.delete(SERVICES, "kube-dns", "kube-system")
    found = await until_one(
        dns.client,
        SERVICES,
        "kube-dns",
        lambda one: "deletionTimestamp" not in one["metadata"],
        namespace="kube-system",
    )
    assert found["spec"]["clusterIP"] == "10.96.0.10"
    (slice_,) = await until(dns.client, ENDPOINT_SLICES, bool, namespace="kube-system")
    assert slice_["endpoints"][0]["addresses"] == [ADDRESS]
    assert {port["port"] for port in slice_["ports"]} == {dns.port}


async def test_another_server_may_take_its_place(dns: Dns) -> None:
    await dns.client.patch(SERVICES, "kube-dns", {"spec": {"selector": {"k8s-app": "coredns"}}}, "kube-system")
    await until(dns.client, ENDPOINT_SLICES, lambda found: not found, namespace="kube-system")


async def test_health_readiness_and_metrics_are_told(dns: Dns) -> None:
    for path, expected in (
        ("/health", "OK"),
        ("/ready", "OK"),
        ("/metrics", 'coredns_dns_requests_total{proto="udp"} '),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", dns.status_port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith("HTTP/1.1 200 OK")
        assert expected in answer
