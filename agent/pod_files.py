"""The files a pod is given beside its volumes: /etc/hosts, and its resolver's settings.

Source: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.cri import api_pb2 as cri

Pod = Mapping[str, Any]
_HEAD = (
    "# Kubernetes-managed hosts file.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
)
_RESOLV = Path("/etc/resolv.conf")


def write_hosts(folder: Path, pod: Pod, ip: str, domain: str) -> Path | None:
    """Write a pod's /etc/hosts and return where; None for pods in the host's network, which see the host's."""
    if pod["spec"].get("hostNetwork"):
        return None
    spec, metadata = pod["spec"], pod["metadata"]
    name = spec.get("hostname") or metadata["name"]
    names = [name]
    if spec.get("subdomain"):
        names.insert(0, f"{name}.{spec['subdomain']}.{metadata['namespace']}.svc.{domain}")
    lines = [*_HEAD, f"{ip}\t{' '.join(names)}"] if ip else list(_HEAD)
    aliases = spec.get("hostAliases") or ()
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += [f"{one['ip']}\t" + "\t".join(one.get("hostnames") or ()) for one in aliases]
    path = folder / "etc-hosts"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)
    return path


def dns_config(pod: Pod, cluster_dns: str, domain: str) -> Any:
    """Return the resolver settings of a pod's policy."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, searches, options = [], [], []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and cluster_dns:
        namespace = pod["metadata"]["namespace"]
        servers, options = [cluster_dns], ["ndots:5"]
        searches = [f"{namespace}.svc.{domain}", f"svc.{domain}", domain]
    elif policy != "None":
        servers, searches, options = _host_settings()
    extra = spec.get("dnsConfig") or {}
    servers += [one for one in extra.get("nameservers") or () if one not in servers]
    searches += [one for one in extra.get("searches") or () if one not in searches]
    for option in extra.get("options") or ():
        text = f"{option['name']}:{option['value']}" if option.get("value") else option["name"]
        options = [one for one in options if one.partition(":")[0] != option["name"]] + [text]
    return cri.DNSConfig(servers=servers, searches=searches, options=options)


def _host_settings() -> tuple[list[str], list[str], list[str]]:
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    try:
        text = _RESOLV.read_text()
    except OSError:
        return [], [], []
    for line in text.splitlines():
        word, *values = line.split() or [""]
        if word == "nameserver":
            found[word] += values[:1]
        elif word in found:
            found[word] = values
    return found["nameserver"], found["search"], found["options"]
