"""What administrators set while the server runs: the ConfigMap kube-system/kube-dns.

Its form is kube-dns': `stubDomains`, a JSON object of domain to servers, and `upstreamNameservers`, a JSON list of
servers. Source: https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/
"""

import json
import logging
from collections.abc import Mapping, Sequence

from clusterdns.forward import Server

log = logging.getLogger(__name__)

PORT = 53


def parse_server(text: str) -> Server:
    """Return address and port of "10.0.0.1", "10.0.0.1:5353" or "[2001:db8::1]:5353". Raises: ValueError."""
    import ipaddress

    address, port = text.strip(), PORT
    if address.startswith("["):
        address, _, rest = address[1:].partition("]")
        port = int(rest.removeprefix(":") or PORT)
    elif address.count(":") == 1:
        address, _, rest = address.partition(":")
        port = int(rest)
    return str(ipaddress.ip_address(address)), port


def read(data: Mapping[str, str]) -> tuple[dict[str, Sequence[Server]], Sequence[Server]]:
    """Return stub domains and upstream servers; what is not well formed is left out, and told."""
    stubs: dict[str, Sequence[Server]] = {}
    servers: Sequence[Server] = ()
    try:
        for domain, texts in json.loads(data.get("stubDomains") or "{}").items():
            stubs[domain.strip(".").lower()] = [parse_server(text) for text in texts]
        servers = [parse_server(text) for text in json.loads(data.get("upstreamNameservers") or "[]")]
    except (ValueError, TypeError, AttributeError) as error:
        log.error("the ConfigMap kube-dns is not understood: %s", error)
    return stubs, servers
