"""The cluster network as pods see it: services by name and address, resolver files, host ports, from a real cluster.

The upstream tests that judge the same: test/e2e/network/{dns,service,hostport}.go, test/e2e/common/network.
"""

import json
import socket

import pytest

from tests.e2e.conftest import IMAGE, SERVICE_CIDR, Cluster

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]

DNS = SERVICE_CIDR.replace("0.0/16", "0.10")


def pod(name: str, extra: str = "", *, command: str = "", labels: str = "", ports: str = "") -> str:
    command = command or f"mkdir /w; echo {name} > /w/index.html; httpd -f -p 8080 -h /w"
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{net: "true"{", " + labels if labels else ""}}}}}
spec:
  terminationGracePeriodSeconds: 0
  {extra}
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: IfNotPresent
    command: [sh, -c, {json.dumps(command)}]
    {ports}
---"""


def sh(cluster: Cluster, name: str, command: str) -> str:
    return cluster.kubectl("exec", name, "--", "sh", "-c", command, check=False).partition("\n")[2].strip()


def get(cluster: Cluster, client: str, address: str) -> str:
    host, port = address.rsplit(":", 1)
    return sh(cluster, client, f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {host} {port} | tail -n 1")


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> Cluster:
    manifest = pod("one", labels="app: web") + pod("two", labels="app: web")
    manifest += pod("asker", "hostname: me\n  subdomain: family")
    manifest += pod("custom", """dnsPolicy: None
  dnsConfig: {nameservers: [1.1.1.1], searches: [resolv.conf.local], options: [{name: ndots, value: "2"}, {name: edns0}]}
  hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]""")  # fmt: skip
    manifest += pod("fqdn", "hostname: named\n  subdomain: family\n  setHostnameAsFQDN: true")
    manifest += f"""
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: family}}
spec: {{clusterIP: None, selector: {{net: "true"}}, ports: [{{name: http, port: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: outside}}
spec: {{type: ExternalName, externalName: web.default.svc.cluster.local}}
---
{pod("node", "hostNetwork: true", command="sleep 3600")}"""
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    cluster.kubectl("wait", "pod", "-l", "net=true", "--for=condition=Ready", "--timeout=40s")
    cluster.until(lambda: "Address" in sh(cluster, "asker", "nslookup web 2>/dev/null | tail -n +4"), "DNS to know")
    return cluster


def test_services_are_found_by_name(pods: Cluster) -> None:
    assert {get(pods, "asker", "web:80") for _ in range(12)} == {"one", "two"}
    assert get(pods, "asker", "web.default.svc.cluster.local:80") in ("one", "two")
    assert get(pods, "asker", "outside:80") in ("one", "two")
    assert SERVICE_CIDR.replace("0.0/16", "0.1") in sh(pods, "asker", "nslookup kubernetes.default")
    assert "NXDOMAIN" in sh(pods, "asker", "nslookup nothing.default.svc.cluster.local 2>&1")


def test_pods_are_found_by_hostname_and_subdomain(pods: Cluster) -> None:
    ip = pods.path("asker", "{.status.podIP}")
    pods.until(lambda: ip in sh(pods, "one", "nslookup me.family.default.svc.cluster.local 2>&1"), "the pod's name")
    assert get(pods, "one", "me.family:8080") == "asker"


def test_the_resolver_is_set_as_the_policy_says(pods: Cluster) -> None:
    expected = f"nameserver {DNS}\nsearch default.svc.cluster.local svc.cluster.local cluster.local"
    text = sh(pods, "asker", "cat /etc/resolv.conf")
    assert text.startswith(expected)
    assert text.endswith("options ndots:5")
    custom = sh(pods, "custom", "cat /etc/resolv.conf")
    assert custom == "nameserver 1.1.1.1\nsearch resolv.conf.local\noptions ndots:2 edns0"
    assert DNS not in sh(pods, "node", "cat /etc/resolv.conf")  # ClusterFirst on the host's network is Default


def test_hosts_and_hostname_are_the_pod_s(pods: Cluster) -> None:
    hosts = sh(pods, "asker", "cat /etc/hosts")
    ip = pods.path("asker", "{.status.podIP}")
    assert hosts.startswith("# Kubernetes-managed hosts file.")
    assert f"{ip}\tme.family.default.svc.cluster.local\tme" in hosts
    assert sh(pods, "asker", "hostname") == "me"
    assert "123.45.67.89\tfoo\tbar" in sh(pods, "custom", "cat /etc/hosts")
    assert sh(pods, "fqdn", "hostname") == "named.family.default.svc.cluster.local"
    assert "# Kubernetes-managed hosts file (host network)." in sh(pods, "node", "cat /etc/hosts")


def test_a_service_changes_its_type(pods: Cluster) -> None:
    patch = {"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster"}}
    pods.kubectl("patch", "service", "web", "-p", json.dumps(patch))
    port = pods.kubectl("get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
    node = pods.path("asker", "{.status.hostIP}")
    pods.until(lambda: get(pods, "asker", f"{node}:{port}") in ("one", "two"), "the node port to answer")
    assert get(pods, "node", f"127.0.0.1:{port}") in ("one", "two")
    patch = {"spec": {"type": "ExternalName", "externalName": "asker.invalid", "clusterIP": None, "ports": None}}
    pods.kubectl("patch", "service", "web", "-p", json.dumps(patch))
    pods.until(
        lambda: "asker.invalid" in sh(pods, "asker", "nslookup -type=cname web.default.svc.cluster.local 2>&1"),
        "the alias",
    )
    assert "refused" in get(pods, "asker", f"{node}:{port}")
    patch = {"spec": {"type": "ClusterIP", "externalName": None, "ports": [{"port": 80, "targetPort": 8080}]}}
    pods.kubectl("patch", "service", "web", "-p", json.dumps(patch))
    pods.until(
        lambda: get(pods, "asker", "web.default.svc.cluster.local:80") in ("one", "two"), "the service to answer"
    )


def test_the_node_itself_asks_cluster_dns(pods: Cluster) -> None:
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.sendto(query, (DNS, 53))
        answer = client.recv(1000)
    assert answer[-4:] == socket.inet_aton(SERVICE_CIDR.replace("0.0/16", "0.1"))


def test_pods_share_a_host_port_at_other_addresses_and_protocols(pods: Cluster) -> None:
    node = pods.path("asker", "{.status.hostIP}")
    ports = "ports: [{{containerPort: 8080, hostPort: 54323, hostIP: {}, protocol: {}}}]"
    manifest = pod("hp1", ports=ports.format("127.0.0.1", "TCP")) + pod("hp2", ports=ports.format(node, "TCP"))
    manifest += pod("hp3", ports=ports.format(node, "UDP"))
    pods.kubectl("apply", "-f", "-", stdin=manifest)
    pods.kubectl("wait", "pod/hp1", "pod/hp2", "pod/hp3", "--for=condition=Ready", "--timeout=30s")
    pods.until(lambda: get(pods, "node", "127.0.0.1:54323") == "hp1", "the host port of loopback")
    pods.until(lambda: get(pods, "node", f"{node}:54323") == "hp2", "the host port of the node")
    pods.kubectl("delete", "pod", "hp1", "hp2", "hp3", "--now")


def test_a_policy_holds_a_pod_from_its_first_packet(pods: Cluster) -> None:
    policy = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {closed: "true"}}
  policyTypes: [Ingress, Egress]
  egress:
  - {to: [{podSelector: {matchLabels: {k8s-app: kube-dns}}, namespaceSelector: {}}], ports: [{protocol: UDP, port: 53}]}
---"""
    ip = pods.path("one", "{.status.podIP}")
    asks = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {ip} 8080 2>/dev/null && echo out || echo held; nslookup web 2>&1; sleep 3600"
    pods.kubectl("apply", "-f", "-", stdin=policy + pod("closed", labels='closed: "true"', command=asks))
    pods.kubectl("wait", "pod/closed", "--for=condition=Ready", "--timeout=30s")
    pods.until(lambda: "Address" in pods.kubectl("logs", "closed"), "the pod to ask")
    assert pods.kubectl("logs", "closed").splitlines()[0] == "held"
    pods.kubectl("delete", "networkpolicy", "closed")
    pods.until(lambda: get(pods, "closed", f"{ip}:8080") == "one", "the way to be open again")
    pods.kubectl("delete", "pod", "closed", "--now")
