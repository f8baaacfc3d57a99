"""What a pod is told of names: its hostname, /etc/hosts, and its resolver's settings.

Sources: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/,
https://kubernetes.io/docs/tasks/network/customize-hosts-file-for-pods/
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.cri import api_pb2 as cri

Pod = Mapping[str, Any]
_MARK = "# Kubernetes-managed hosts file"
_HEAD = (
    f"{_MARK}.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
)
_HOSTS, _RESOLV = Path("/etc/hosts"), Path("/etc/resolv.conf")
# Where systemd-resolved names the servers it asks itself; its own address on loopback is of no use in a pod.
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
_MAX_NAME = 63
_MAX_FQDN = 64  # what the kernel takes for a hostname
_MAX_SERVERS, _MAX_SEARCHES, _MAX_SEARCH_CHARACTERS = 3, 32, 2048


class NameTooLong(Exception):
    """A pod asks for a hostname that the kernel does not take."""


class Resolver(NamedTuple):
    """The lines of a resolv.conf."""

    servers: list[str]
    searches: list[str]
    options: list[str]


def host_and_domain(pod: Pod, domain: str) -> tuple[str, str]:
    """Return a pod's short name, and the domain it is in when it has a subdomain."""
    spec, metadata = pod["spec"], pod["metadata"]
    if override := spec.get("hostnameOverride"):
        return override, ""
    host = spec.get("hostname") or metadata["name"][:_MAX_NAME].rstrip("-.")
    subdomain = spec.get("subdomain")
    return host, f"{subdomain}.{metadata['namespace']}.svc.{domain}" if subdomain else ""


def hostname(pod: Pod, domain: str) -> str:
    """Return the hostname the kernel tells in a pod; "" for pods in the host's network. Raises: NameTooLong."""
    if pod["spec"].get("hostNetwork"):
        return ""
    host, above = host_and_domain(pod, domain)
    if not (pod["spec"].get("setHostnameAsFQDN") and above):
        return host
    full = f"{host}.{above}"
    if len(full) > _MAX_FQDN:
        raise NameTooLong(
            f"Failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long "
            f"({_MAX_FQDN} characters is the max, {len(full)} characters requested)."
        )
    return full


def hosts_text(pod: Pod, ips: Sequence[str], domain: str) -> str:
    """Return a pod's /etc/hosts; for one in the host's network the host's own, with the pod's aliases."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        lines = [f"{_MARK} (host network)."]
        with contextlib.suppress(OSError):
            lines += _HOSTS.read_text().splitlines()
    else:
        host, above = host_and_domain(pod, domain)
        names = f"{host}.{above}\t{host}" if above else host
        lines = [*_HEAD, *(f"{ip}\t{names}" for ip in ips)]
    aliases = spec.get("hostAliases") or ()
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += [f"{one['ip']}\t" + "\t".join(one.get("hostnames") or ()) for one in aliases]
    return "\n".join(lines) + "\n"


def write_hosts(folder: Path, pod: Pod, ips: Sequence[str], domain: str) -> Path:
    """Write a pod's /etc/hosts and return where."""
    path = folder / "etc-hosts"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(hosts_text(pod, ips, domain))
    path.chmod(0o644)
    return path


def resolver(pod: Pod, cluster_dns: Sequence[str], domain: str) -> Resolver:
    """Return the resolver's settings by a pod's policy, with what the pod adds."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    found = Resolver([], [], [])
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and cluster_dns:
        own = [f"{pod['metadata']['namespace']}.svc.{domain}", f"svc.{domain}", domain]
        found = Resolver(list(cluster_dns), own + _host_settings().searches, ["ndots:5"])
    elif policy != "None":
        found = _host_settings()
        if not found.servers:
            found = Resolver(["127.0.0.1"], ["."], [])  # nothing is resolved, rather than by chance
    return _limited(_merged(found, spec.get("dnsConfig") or {}))


def _merged(found: Resolver, extra: Mapping[str, Any]) -> Resolver:
    options = {text.partition(":")[0]: text for text in found.options}
    for one in extra.get("options") or ():
        options[one["name"]] = f"{one['name']}:{one['value']}" if one.get("value") else one["name"]
    return Resolver(
        list(dict.fromkeys([*found.servers, *(extra.get("nameservers") or ())])),
        list(dict.fromkeys([*found.searches, *(extra.get("searches") or ())])), list(options.values()),
    )  # fmt: skip


def _limited(found: Resolver) -> Resolver:
    """Keep to what resolvers read: of servers the first three, of search domains those that fit."""
    searches: list[str] = []
    for one in found.searches[:_MAX_SEARCHES]:
        if len(" ".join([*searches, one])) > _MAX_SEARCH_CHARACTERS:
            break
        searches.append(one)
    return Resolver(found.servers[:_MAX_SERVERS], searches, found.options)


def dns_config(pod: Pod, cluster_dns: Sequence[str], domain: str) -> Any:
    """Return a pod's resolver settings as the runtime takes them."""
    found = resolver(pod, cluster_dns, domain)
    return cri.DNSConfig(servers=found.servers, searches=found.searches, options=found.options)


def _host_settings() -> Resolver:
    found = _read(_RESOLV)
    if found.servers and all(one.startswith("127.") or one == "::1" for one in found.servers) and _RESOLVED.exists():
        return _read(_RESOLVED)
    return found


def _read(path: Path) -> Resolver:
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            word, *values = line.split() or [""]
            if word == "nameserver":
                found[word] += values[:1]
            elif word in found:
                found[word] = values
    return Resolver(found["nameserver"], found["search"], found["options"])
