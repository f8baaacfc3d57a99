"""Names a pod is told. Source: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/"""

from pathlib import Path
from typing import Any

import pytest

from agent import pod_files
from agent.pod_files import NameTooLong, hostname, hosts_text, resolver

DOMAIN = "cluster.local"


def pod(name: str = "web-0", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\nsearch example.com\noptions timeout:1\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n192.0.2.1 host\n")
    monkeypatch.setattr(pod_files, "_RESOLV", tmp_path / "resolv.conf")
    monkeypatch.setattr(pod_files, "_RESOLVED", tmp_path / "resolved.conf")
    monkeypatch.setattr(pod_files, "_HOSTS", tmp_path / "hosts")
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "servers", "searches", "options"),
    [
        (
            {},
            ["10.96.0.10"],
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"],
            ["ndots:5"],
        ),
        ({"dnsPolicy": "Default"}, ["192.0.2.53"], ["example.com"], ["timeout:1"]),
        ({"hostNetwork": True}, ["192.0.2.53"], ["example.com"], ["timeout:1"]),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}, ["1.1.1.1"], [], []),
    ],
    ids=["ClusterFirst", "Default", "ClusterFirst on the host's network", "None"],
)
def test_the_policy_says_who_is_asked(
    spec: dict[str, Any], servers: list[str], searches: list[str], options: list[str]
) -> None:
    assert resolver(pod(**spec), ["10.96.0.10"], DOMAIN) == (servers, searches, options)


def test_a_pod_s_own_settings_are_added_and_its_options_win() -> None:
    extra = {
        "nameservers": ["192.0.2.53", "1.1.1.1"],
        "searches": ["a.b"],
        "options": [{"name": "timeout", "value": "9"}, {"name": "edns0"}],
    }
    found = resolver(pod(dnsPolicy="Default", dnsConfig=extra), ["10.96.0.10"], DOMAIN)
    assert found == (["192.0.2.53", "1.1.1.1"], ["example.com", "a.b"], ["timeout:9", "edns0"])


def test_what_resolvers_do_not_read_is_left_out() -> None:
    extra = {"nameservers": [f"1.1.1.{n}" for n in range(5)], "searches": [f"d{n}" for n in range(40)]}
    found = resolver(pod(dnsPolicy="None", dnsConfig=extra), "", DOMAIN)
    assert (len(found.servers), len(found.searches)) == (3, 32)


def test_a_stub_on_loopback_is_looked_through(host: Path) -> None:
    (host / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    (host / "resolved.conf").write_text("nameserver 192.0.2.99\n")
    assert resolver(pod(dnsPolicy="Default"), "", DOMAIN).servers == ["192.0.2.99"]


def test_the_hostname_is_short_unless_asked_to_be_whole() -> None:
    assert hostname(pod(), DOMAIN) == "web-0"
    assert hostname(pod(hostname="h", subdomain="s"), DOMAIN) == "h"
    assert hostname(pod(hostname="h", subdomain="s", setHostnameAsFQDN=True), DOMAIN) == "h.s.shop.svc.cluster.local"
    assert hostname(pod(setHostnameAsFQDN=True), DOMAIN) == "web-0"
    assert hostname(pod("x" * 70), DOMAIN) == "x" * 63
    assert hostname(pod(hostNetwork=True), DOMAIN) == ""
    assert hostname(pod(hostnameOverride="any.name", subdomain="s"), DOMAIN) == "any.name"
    with pytest.raises(NameTooLong, match="is too long \\(64 characters is the max, 65 characters requested\\)"):
        hostname(pod(hostname="h" * 40, subdomain="s", setHostnameAsFQDN=True), DOMAIN)


def test_hosts_name_the_pod_at_each_address_and_its_aliases() -> None:
    aliases = [{"ip": "10.9.9.9", "hostnames": ["a", "b"]}]
    lines = hosts_text(
        pod(hostname="h", subdomain="s", hostAliases=aliases), ["10.0.0.1", "fd00::1"], DOMAIN
    ).splitlines()
    assert lines[0] == "# Kubernetes-managed hosts file."
    assert lines[7:] == [
        "10.0.0.1\th.s.shop.svc.cluster.local\th", "fd00::1\th.s.shop.svc.cluster.local\th", "",
        "# Entries added by HostAliases.", "10.9.9.9\ta\tb",
    ]  # fmt: skip
    assert "10.0.0.1\tweb-0" in hosts_text(pod(), ["10.0.0.1"], DOMAIN).splitlines()
    lines = hosts_text(pod(hostNetwork=True, hostAliases=aliases), [], DOMAIN).splitlines()
    assert lines[:3] == ["# Kubernetes-managed hosts file (host network).", "127.0.0.1 localhost", "192.0.2.1 host"]
    assert lines[-1] == "10.9.9.9\ta\tb"
