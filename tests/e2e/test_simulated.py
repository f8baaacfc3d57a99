"""A cluster without root and containers: the embedded store and nodes that only say they run what they are given."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.processes import running_pid
from tests.e2e.conftest import ROOT, Cluster
from tests.support.server import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(Layout(tmp_path / "data"))
    options = [
        "--no-agent",
        "--simulated-nodes",
        "3",
        "--store",
        "embedded",
        "--detach",
        "--api-port",
        str(free_port()),
    ]
    try:
        found.wherry("up", "--data-dir", str(found.layout.root), *options)
        yield found
    finally:
        found.wherry("reset", "--yes", "--data-dir", str(found.layout.root))


def test_a_deployment_comes_up_scales_and_goes(simulated: Cluster) -> None:
    simulated.wherry("apply", "-f", str(ROOT / "manifests/hello.yaml"))
    assert "successfully rolled out" in simulated.wherry("rollout", "status", "deployment/hello", "--timeout=30s")
    assert simulated.kubectl("get", "nodes", "-o", "name").split() == ["node/sim-0", "node/sim-1", "node/sim-2"]
    assert simulated.wherry("scale", "deployment/hello", "--replicas=9") == "deployment.apps/hello scaled\n"
    simulated.wherry("rollout", "status", "deployment/hello", "--timeout=30s")
    nodes = simulated.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    assert {name: nodes.count(name) for name in set(nodes)} == {"sim-0": 3, "sim-1": 3, "sim-2": 3}
    assert simulated.wherry("delete", "-f", str(ROOT / "manifests/hello.yaml")).splitlines() == [
        'deployment.apps "hello" deleted from default namespace', 'service "hello" deleted from default namespace'
    ]  # fmt: skip
    simulated.until(lambda: simulated.kubectl("get", "pods,rs", "-o", "name") == "", "everything it owned to go")


def test_cordon_and_drain_empty_a_node(simulated: Cluster) -> None:
    simulated.kubectl("apply", "-f", str(ROOT / "manifests/hello.yaml"))
    simulated.kubectl("scale", "deployment/hello", "--replicas=6")
    simulated.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")
    simulated.kubectl("drain", "sim-1", "--timeout=30s")
    simulated.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")
    nodes = simulated.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    assert len(nodes) == 6
    assert "sim-1" not in nodes


def test_data_outlives_down_and_up(simulated: Cluster) -> None:
    simulated.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    folder = str(simulated.layout.root)
    assert "stopped" in simulated.wherry("down", "--data-dir", folder)
    assert "No cluster runs" in simulated.wherry("down", "--data-dir", folder)
    port = str(free_port())
    simulated.wherry("up", "--data-dir", folder, "--no-agent", "--store", "embedded", "--detach", "--api-port", port)
    assert simulated.kubectl("get", "cm", "kept", "-o", "jsonpath={.data.a}") == "b"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_without_root_it_says_what_is_missing_and_starts_simulated_nodes(tmp_path: Path) -> None:
    folder = Path("/var/tmp") / f"wherry-nobody-{os.getpid()}"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import cluster.main, cluster.up, bench.clusters  # imported before the rights are gone: the sources may lie in root's home
from cluster.settings import Settings, settle
os.setgid(65534); os.setuid(65534)
settings, notes = settle(Settings())
print(settings.agent, settings.simulated_nodes, *notes, sep="|")
"""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
        agent, nodes, *notes = done.stdout.strip().split("|")
        assert (agent, nodes) == ("False", "1")
        assert "no containers on this machine, it lacks: root rights" in notes
        assert "starting 1 simulated node(s) instead" in notes
    finally:
        os.rmdir(folder)


OPERATOR = """
import kopf

@kopf.on.create("configmaps", labels={"watch": "me"})
def made(patch, **_):
    patch.setdefault("data", {})["seen"] = "yes"

@kopf.on.delete("configmaps", labels={"watch": "me"})
def gone(name, **_):
    print("gone", name, flush=True)
"""


def test_an_operator_written_with_kopf_works(simulated: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "operator_under_test.py"
    script.write_text(OPERATOR)
    log = tmp_path / "kopf.log"
    argv = [sys.executable, "-m", "kopf", "run", "--standalone", "-n", "default", str(script)]
    with log.open("wb") as output:
        operator = subprocess.Popen(argv, stdout=output, stderr=output, env=simulated.environment())
    try:
        simulated.kubectl("create", "configmap", "asked", "--from-literal=a=b")
        simulated.kubectl("label", "configmap", "asked", "watch=me")
        seen = ("get", "configmap", "asked", "-o", "jsonpath={.data.seen}")
        simulated.until(lambda: simulated.kubectl(*seen) == "yes", "the operator to answer", 25)
        simulated.kubectl("delete", "configmap", "asked", "--timeout=20s")
        assert "gone asked" in log.read_text()
    finally:
        operator.terminate()
        operator.wait(timeout=20)


def test_a_simulated_pod_ends_as_its_annotations_say(simulated: Cluster) -> None:
    manifest = """
apiVersion: batch/v1
kind: Job
metadata: {name: done}
spec:
  completions: 3
  parallelism: 3
  template:
    metadata: {annotations: {simulated.wherry/run-seconds: "0.2"}}
    spec: {restartPolicy: Never, containers: [{name: c, image: none}]}
"""
    simulated.kubectl("apply", "-f", "-", stdin=manifest)
    simulated.kubectl("wait", "job/done", "--for=condition=Complete", "--timeout=30s")
    failing = manifest.replace("name: done", "name: fails").replace(
        "run-seconds: ", 'exit-code: "4", simulated.wherry/run-seconds: '
    )
    simulated.kubectl("apply", "-f", "-", stdin=failing.replace("completions: 3", "backoffLimit: 0"))
    simulated.kubectl("wait", "job/fails", "--for=condition=Failed", "--timeout=30s")
    codes = "{.items[*].status.containerStatuses[0].state.terminated.exitCode}"
    assert "4" in simulated.kubectl("get", "pods", "-l", "job-name=fails", "-o", f"jsonpath={codes}")


def test_why_tells_what_would_help_and_simulate_how_many_nodes_are_missing(simulated: Cluster) -> None:
    manifest = """
apiVersion: v1
kind: Pod
metadata: {name: picky}
spec:
  nodeSelector: {disk: ssd}
  containers: [{name: c, image: none}]
"""
    simulated.kubectl("apply", "-f", "-", stdin=manifest)
    simulated.until(lambda: "FailedScheduling" in simulated.kubectl("get", "events"), "the scheduler to say no")
    told = simulated.wherry("why", "pod/picky")
    assert told.startswith("default/picky is on no node; 0 of 3 nodes would take it")
    assert "drop nodeSelector disk=ssd, or label a node with it (3 nodes)" in told
    simulated.kubectl("label", "node", "sim-1", "disk=ssd")
    simulated.kubectl("wait", "pod/picky", "--for=condition=Ready", "--timeout=20s")
    assert "default/picky is on sim-1; 1 of 3 nodes would take it" in simulated.wherry("why", "picky")
    large = simulated.layout.root / "large.yaml"
    room = simulated.kubectl("get", "node", "sim-0", "-o", "jsonpath={.status.allocatable.cpu}")
    large.write_text(f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: large}}
spec:
  replicas: 5
  selector: {{matchLabels: {{app: large}}}}
  template:
    metadata: {{labels: {{app: large}}}}
    spec: {{containers: [{{name: c, image: none, resources: {{limits: {{cpu: {room}}}}}}}]}}
""")
    told = simulated.wherry("simulate", "-f", str(large), "--like", "sim-0")
    assert told.startswith("5 of 5 pods would be placed")
    assert "2 more nodes like sim-0 would be needed" in told
    assert "large" not in simulated.kubectl("get", "deployments,pods")


def test_an_add_on_comes_with_its_operator_and_leaves_what_users_made(simulated: Cluster) -> None:
    here = ["--data-dir", str(simulated.layout.root)]
    assert "compose      disabled " in simulated.wherry("addon", "list")
    assert simulated.wherry("addon", "enable", "compose", *here).endswith("addon compose enabled\n")
    assert "compose      enabled " in simulated.wherry("addon", "list")
    simulated.until(lambda: running_pid(simulated.layout, "operators") is not None, "the operators' process")
    project = {
        "apiVersion": "wherry.dev/v1alpha1", "kind": "Compose", "metadata": {"name": "shop"},
        "spec": {"project": "services: {web: {image: x}}"},
    }  # fmt: skip
    simulated.kubectl("apply", "-f", "-", stdin=json.dumps(project))
    simulated.until(
        lambda: "deployment.apps/web" in simulated.kubectl("get", "deploy", "-o", "name"), "the service", 30
    )
    assert "composes.wherry.dev kept" in simulated.wherry("addon", "disable", "compose", *here)
    simulated.until(lambda: running_pid(simulated.layout, "operators") is None, "the operators' end")
    assert simulated.kubectl("get", "composes", "-o", "name") == "compose.wherry.dev/shop\n"
    assert 'there is no add-on "other"' in simulated.wherry("addon", "enable", "other", check=False)
