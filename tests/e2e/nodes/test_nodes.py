"""Several machines: joining, pods that reach each other and services from everywhere, node loss, agent restarts."""

import json
import socket
import subprocess
from typing import Any

import pytest

from tests.e2e.nodes.conftest import ADDRESSES, Nodes, pod
from tests.support.netlab import exchange

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def pods(nodes: Nodes) -> Nodes:
    populate(nodes)
    return nodes


def populate(nodes: Nodes) -> None:
    """A pod on each node, and services before them."""
    manifest = "".join(pod(f"on-{name}", name, labels="app: everywhere") for name in ADDRESSES)
    manifest += """
apiVersion: v1
kind: Service
metadata: {name: everywhere}
spec: {type: NodePort, selector: {app: everywhere}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  selector: {app: near}
  externalTrafficPolicy: Local
  healthCheckNodePort: 30999
  ports: [{port: 80, targetPort: 8080, nodePort: 30081}]
---""" + pod("near-only", "near", labels="app: near")
    nodes.kubectl("apply", "-f", "-", given=manifest)
    nodes.kubectl("wait", "pod", "-l", "test=nodes", "--for=condition=Ready", "--timeout=60s")


def test_each_node_has_a_range_of_its_own(nodes: Nodes) -> None:
    found = json.loads(nodes.kubectl("get", "nodes", "-o", "json"))["items"]
    assert {one["metadata"]["name"] for one in found} == set(ADDRESSES)
    assert len({one["spec"]["podCIDR"] for one in found}) == 3
    addresses = {one["metadata"]["name"]: one["status"]["addresses"][0]["address"] for one in found}
    assert addresses == ADDRESSES


def test_a_machine_does_not_join_a_cluster_of_another_ca_or_with_a_wrong_token(nodes: Nodes) -> None:
    words = nodes.wherry("control", "token", "create", "--ttl", "5m").split()
    url, token, ca_hash = words[2], words[4], words[6]
    out = nodes.wherry("near", "join", url, "--token", token, "--ca-hash", "sha256:00", "--node-name", "x", check=False)
    assert "runs in" in out  # a node does not join twice
    nodes.machines["outsider"] = nodes.outside
    try:
        out = nodes.wherry("outsider", "join", url, "--token", token, "--ca-hash", "sha256:00", check=False)
        assert f"shows a CA of the hash {ca_hash}, not sha256:00" in out
        out = nodes.wherry(
            "outsider", "join", url, "--token", "aaaaaa.bbbbbbbbbbbbbbbb", "--ca-hash", ca_hash, check=False
        )
        assert "Unauthorized" in out
        nodes.wherry("control", "token", "delete", token)
        assert token.partition(".")[0] not in nodes.wherry("control", "token", "list")
    finally:
        del nodes.machines["outsider"]


def test_every_pod_reaches_every_pod_and_the_service(pods: Nodes) -> None:
    for client in ADDRESSES:
        for server in ADDRESSES:
            pods.until(
                lambda c=client, s=server: pods.get(f"on-{c}", pods.ip(f"on-{s}")) == f"on-{s}", f"{client} to {server}"
            )
        met: set[str] = set()  # each answer is drawn by chance; one that is none would stay in it
        pods.until(lambda c=client, m=met: _meets_all(pods, c, m), f"all endpoints by the service, from {client}")


def test_pods_send_no_packet_too_long_for_the_tunnel(pods: Nodes) -> None:
    assert {pods.sh(f"on-{name}", "cat /sys/class/net/eth0/mtu") for name in ADDRESSES} == {"1450"}


def _meets_all(nodes: Nodes, client: str, met: set[str]) -> bool:
    met.add(nodes.get(f"on-{client}", "everywhere", 80))
    return met == {f"on-{name}" for name in ADDRESSES}


def test_node_ports_answer_on_every_node(pods: Nodes) -> None:
    for address in ("192.0.2.1", "192.0.2.2", "198.51.100.3"):
        assert _http(pods, address, 30080).startswith("on-")


def _http(nodes: Nodes, address: str, port: int, path: str = "/") -> str:
    with nodes.outside.open(socket.SOCK_STREAM) as client:
        client.settimeout(3)
        client.connect((address, port))
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        received = b""
        while data := client.recv(4096):
            received += data
    return received.decode().partition("\r\n\r\n")[2].strip()


def test_policy_local_answers_only_where_an_endpoint_is(pods: Nodes) -> None:
    assert _http(pods, "192.0.2.2", 30081) == "near-only"
    ingress = "jsonpath={.status.loadBalancer.ingress[*].ip}"
    assert set(pods.kubectl("get", "service", "local", "-o", ingress).split()) == set(ADDRESSES.values())
    assert _http(pods, "192.0.2.2", 80) == "near-only"
    with pytest.raises(OSError, match="timed out"):
        _http(pods, "192.0.2.1", 30081)
    expected = {"service": {"namespace": "default", "name": "local"}, "localEndpoints": 1, "serviceProxyHealthy": True}
    assert json.loads(_http(pods, "192.0.2.2", 30999)) == expected
    assert json.loads(_http(pods, "192.0.2.1", 30999))["localEndpoints"] == 0


def test_the_network_is_checked_and_a_way_is_told(pods: Nodes) -> None:
    out = pods.wherry("control", "net", "check")
    assert out.endswith("All is well.\n")
    for expected in (
        "from pod default/on-control: pod default/on-far",
        "cluster DNS at 10.96.0.10",
        "the pods of near",
    ):
        assert expected in out
    assert pods.wherry("near", "net", "check").endswith("All is well.\n")
    pods.machines["control"].ip("route delete 10.244.1.0/24")
    told = pods.wherry("control", "net", "trace", "on-control", "everywhere")
    assert "tcp/80 -> chain services-3" in told
    assert "every address of the node tcp/30080 -> chain nodeports-3" in told


def test_logs_and_exec_reach_agents_that_joined(pods: Nodes) -> None:
    assert pods.sh("on-far", "hostname") == "on-far"
    assert pods.sh("on-near", "hostname") == "on-near"


def test_agents_that_joined_look_after_their_certificates(pods: Nodes) -> None:
    metrics = pods.kubectl("get", "--raw", "/api/v1/nodes/far/proxy/metrics").splitlines()
    for kind in ("client", "server"):
        name = f"kubelet_certificate_manager_{kind}_ttl_seconds "
        (left,) = [float(line.removeprefix(name)) for line in metrics if line.startswith(name)]
        assert left > 24 * 3600


def test_an_agent_s_restart_drops_no_connection(pods: Nodes) -> None:
    server = pod("echo", "far", "while true; do nc -l -p 9000 -e cat; done", labels="app: echo")
    service = """
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {type: NodePort, selector: {app: echo}, ports: [{port: 9000, nodePort: 30090}]}
"""
    pods.kubectl("apply", "-f", "-", given=server + service)
    pods.kubectl("wait", "pod/echo", "--for=condition=Ready", "--timeout=30s")
    client = pods.outside.open(socket.SOCK_STREAM)
    client.settimeout(5)
    pods.until(lambda: client.connect_ex(("192.0.2.1", 30090)) == 0, "the echo server")
    assert exchange(client) == "hello"
    for name in ("control", "far"):
        for component in ("agent", "runtime"):
            killed = pods.pid(name, component)
            subprocess.run(["kill", "-KILL", str(killed)], check=True)
            pods.until(lambda n=name, c=component, k=killed: _is_back(pods, n, c, k), f"{component} on {name}")
            assert exchange(client) == "hello"
    client.close()
    pods.kubectl("delete", "pod/echo", "service/echo", "--now")


def _is_back(nodes: Nodes, name: str, component: str, killed: int) -> bool:
    try:
        return nodes.pid(name, component) != killed
    except AssertionError:
        return False


def test_pods_end_in_order_before_their_machine_stops(pods: Nodes) -> None:
    words = "trap 'echo {} $(date +%s); exit 0' TERM; while true; do sleep 0.1; done"
    stubborn = pod("stubborn", "near", "trap '' TERM; while true; do sleep 0.1; done", extra="priority: 0")
    usual = pod("usual", "near", words.format("usual"))
    critical = pod("critical", "near", words.format("critical"), extra="priorityClassName: system-node-critical")
    three = [one.replace("GracePeriodSeconds: 0", "GracePeriodSeconds: 2") for one in (stubborn, usual, critical)]
    pods.kubectl("apply", "-f", "-", given="".join(three))
    pods.kubectl("wait", "pod", "stubborn", "usual", "critical", "--for=condition=Ready", "--timeout=30s")
    stopped = pods.pid("near", "agent")
    subprocess.run(["kill", "-USR1", str(stopped)], check=True)
    pods.kubectl("wait", "node", "near", "--for=condition=Ready=False", "--timeout=5s")
    assert "node is shutting down" in pods.kubectl("get", "node", "near", "-o", "jsonpath={.status.conditions}")
    pods.kubectl("apply", "-f", "-", given=pod("late", "near"))
    late = _ended(pods, "late")
    assert late["status"]["reason"] == "NodeShutdown"
    assert late["status"]["message"] == "Pod was rejected: Pod was rejected as the node is shutting down."
    found = {name: _ended(pods, name) for name in ("usual", "critical", "on-near", "stubborn")}
    for one in found.values():
        assert one["status"]["reason"] == "Terminated"
        assert one["status"]["message"] == "Pod was terminated in response to imminent node shutdown."
        why = next(c for c in one["status"]["conditions"] if c["type"] == "DisruptionTarget")
        assert (why["status"], why["reason"]) == ("True", "TerminationByKubelet")
    first, last = (int(pods.kubectl("logs", name).split()[1]) for name in ("usual", "critical"))
    assert first < last, "the critical pod ends last"
    exits = {
        name: one["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for name, one in found.items()
    }
    assert (exits["usual"], exits["critical"], exits["stubborn"]) == (0, 0, 137)
    state = pods.layout("near").root / "agent" / "graceful_node_shutdown_state"
    pods.until(lambda: "endTime" in json.loads(state.read_text()), "the end to be told")
    assert "NodeShutdown" in pods.kubectl("get", "events", "-A", "--field-selector", "involvedObject.name=near")
    subprocess.run(["kill", "-KILL", str(stopped)], check=True)  # as after the machine's next start
    pods.until(lambda: _is_back(pods, "near", "agent", stopped), "the agent")
    pods.kubectl("wait", "node", "near", "--for=condition=Ready", "--timeout=30s")
    pods.kubectl("delete", "pod", "late", *found, "near-only", "--now")
    populate(pods)


def test_a_node_s_folder_is_where_drivers_look_for_it(pods: Nodes) -> None:
    root = pods.folder / "kubelet"
    listed = pods.kubectl(
        "get", "pods", "-A", "--field-selector", "spec.nodeName=far", "-o", "jsonpath={.items[*].metadata.uid}"
    )
    assert {*listed.split()} <= {path.name for path in (root / "pods").iterdir()} != set()
    assert (root / "plugins_registry").is_dir()
    refused = pods.wherry("near", "agent", "--root-dir", str(root), check=False)
    assert f"Error: {root} is in use by the node of {pods.folder / 'far'}" in refused


def _ended(nodes: Nodes, name: str) -> dict[str, Any]:
    nodes.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Failed", "--timeout=40s")
    found: dict[str, Any] = json.loads(nodes.kubectl("get", "pod", name, "-o", "json"))
    return found


def test_a_lost_node_s_endpoints_and_routes_go(pods: Nodes) -> None:
    pods.wherry("near", "down")
    pods.kubectl("delete", "node", "near")
    pods.until(lambda: "192.0.2.2" not in pods.machines["control"].ip("route show proto 87"), "the route to go")
    # Left alone, they would go after the time that a node may take to come back.
    pods.kubectl("delete", "pod", "on-near", "near-only", "--force", "--grace-period=0")
    expected = {"on-control", "on-far"}
    pods.until(lambda: {pods.get("on-far", "everywhere", 80) for _ in range(8)} == expected, "endpoints to go")
    left = pods.machines["near"].run("nft", "list", "tables")
    assert left == ""
    assert "wherry" not in pods.machines["near"].ip("-o link")
    # It comes back as any machine joins.
    pods.wherry("near", "reset", "--yes")
    words = pods.wherry("control", "token", "create").split()
    pods.wherry("near", *words[1:], "--node-name", "near", "--detach")
    pods.until(lambda: "near" in pods.kubectl("get", "nodes", "-o", "name"), "the node to be back")
    pods.kubectl("wait", "node", "near", "--for=condition=Ready", "--timeout=30s")
    populate(pods)
