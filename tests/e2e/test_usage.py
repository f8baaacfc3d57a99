"""What nodes and pods use: asked by kubectl top, by metrics.k8s.io and by the agent's own pages."""

import json
import re
import urllib.request

import pytest

from cluster.processes import running_pid
from tests.e2e.conftest import IMAGE, Cluster

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]

BUSY = f"""
apiVersion: v1
kind: Pod
metadata: {{name: busy, labels: {{app: busy}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: burns, image: {IMAGE}, imagePullPolicy: IfNotPresent, command: [sh, -c, "while :; do :; done"],
     resources: {{limits: {{cpu: 300m}}}}}}
  - {{name: sleeps, image: {IMAGE}, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}}
"""


@pytest.fixture
def busy(cluster: Cluster) -> str:
    cluster.kubectl("apply", "-f", "-", stdin=BUSY)
    cluster.kubectl("wait", "pod/busy", "--for=condition=Ready", "--timeout=30s")
    cluster.until(lambda: "busy" in cluster.kubectl("top", "pods", check=False), "what the pod uses")
    return "busy"


def test_usage_is_told_to_kubectl_and_to_clients_of_the_api(cluster: Cluster, busy: str) -> None:
    assert re.search(r"^\S+\s+\d+m\s+\d+%\s+\d+Mi\s+\d+%\s*$", cluster.kubectl("top", "nodes"), re.MULTILINE)
    lines = cluster.kubectl("top", "pods", "-l", "app=busy", "--containers", "--no-headers").split("\n")[:2]
    used = {line.split()[1]: int(line.split()[2].removesuffix("m")) for line in lines}
    assert 100 <= used["burns"] <= 400  # of the 300m it may use
    assert used["sleeps"] < 20
    path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"
    (item,) = json.loads(cluster.kubectl("get", "--raw", f"{path}?labelSelector=app%3Dbusy"))["items"]
    assert (item["kind"], item["metadata"]["name"], item["metadata"]["labels"]) == ("PodMetrics", busy, {"app": "busy"})
    assert json.loads(cluster.kubectl("get", "--raw", f"{path}/{busy}"))["metadata"]["namespace"] == "default"
    assert 'pods.metrics.k8s.io "none" not found' in cluster.kubectl("get", "--raw", f"{path}/none", check=False)
    assert "podmetrics" not in cluster.kubectl("api-resources", "--verbs=delete", "-o", "name")
    assert "pods.metrics.k8s.io" in cluster.kubectl("api-resources", "-o", "name")
    assert "True" in cluster.kubectl("get", "apiservice", "v1beta1.metrics.k8s.io", "--no-headers")
    cluster.kubectl("delete", "pod", busy, "--grace-period=0", "--force")


def test_the_agent_tells_the_same_to_those_it_lets_in(cluster: Cluster, busy: str) -> None:
    (node,) = cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()
    summary = json.loads(cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/stats/summary"))
    assert summary["node"]["nodeName"] == node
    assert summary["node"]["memory"]["workingSetBytes"] > 10_000_000
    pod = next(one for one in summary["pods"] if one["podRef"]["name"] == busy)
    total = sum(one["memory"]["workingSetBytes"] for one in pod["containers"])
    assert pod["memory"]["workingSetBytes"] >= total > 0  # of the pod's own cgroup, as kubelets tell it
    text = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics/resource")
    assert re.search(
        r'^container_cpu_usage_seconds_total\{container="burns",namespace="default",pod="busy"\} [\d.]+$',
        text,
        re.MULTILINE,
    )
    assert re.search(r"^node_memory_working_set_bytes \d+$", text, re.MULTILINE)
    cluster.kubectl("delete", "pod", busy, "--grace-period=0", "--force")


def test_the_dashboard_comes_as_an_add_on_and_follows_a_log(cluster: Cluster) -> None:
    here = ["--data-dir", str(cluster.layout.root)]
    cluster.wherry("addon", "enable", "dashboard", *here)
    settings = json.loads(cluster.layout.settings.read_text())
    url = f"http://127.0.0.1:{settings['dashboard_port']}"
    try:
        script = "n=0; while true; do n=$((n+1)); echo line $n; sleep 0.2; done"
        cluster.wherry("run", "-d", "--name", "teller", IMAGE, "sh", "-c", script)
        cluster.until(lambda: "The dashboard is at" in cluster.layout.log_file("dashboard").read_text(), "the page")
        token = cluster.wherry("create", "token", "-n", "kube-system", "dashboard-viewer").strip()
        login = urllib.request.Request(f"{url}/login", json.dumps({"token": token}).encode(), {"Origin": url})
        with urllib.request.urlopen(login, timeout=10) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        container = cluster.path("teller", "{.spec.containers[0].name}")
        where = f"namespace=default&pod=teller&container={container}"
        log = urllib.request.Request(f"{url}/log?{where}", headers={"Cookie": cookie})
        with urllib.request.urlopen(log, timeout=10) as lines:
            assert [lines.readline() for _ in range(12)] == [f"line {n}\n".encode() for n in range(1, 13)]
    finally:
        cluster.wherry("rm", "-f", "teller")
        cluster.wherry("addon", "disable", "dashboard", *here)
    cluster.until(lambda: running_pid(cluster.layout, "dashboard") is None, "the dashboard's end")
