"""helm 4 with a chart that has hooks, a definition of its own and a Job: installed, changed, tested, taken back, removed.

The newer kubectl that comes with it is asked a few things too.
"""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Cluster

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]
CHART = Path(__file__).parent / "chart"
CLIENTS = ROOT / ".venv" / "clients"
if not (CLIENTS / "helm").exists():
    pytest.skip("scripts/install --dev could not fetch helm and the newer kubectl", allow_module_level=True)


def test_a_chart_is_installed_upgraded_tested_rolled_back_and_uninstalled(cluster: Cluster) -> None:
    def helm(*arguments: str) -> str:
        return cluster.run(str(CLIENTS / "helm"), *arguments, seconds=120)

    def greeting() -> str:
        (address,) = cluster.kubectl("get", "service", "tub", "-o", "jsonpath={.spec.clusterIP}").split()
        return cluster.run("curl", "--silent", "--fail", "--retry", "5", "--retry-all-errors", f"http://{address}/")

    told = helm("install", "tub", str(CHART), "--wait", "--timeout", "60s")
    assert "STATUS: deployed" in told
    assert greeting() == "ahoy"
    assert cluster.kubectl("get", "boat", "tub", "-o", "jsonpath={.spec.oars}") == "2"
    assert "revision 1" in cluster.kubectl("logs", "job/tub-before")

    helm("upgrade", "tub", str(CHART), "--set", "greeting=hello,replicas=2", "--wait", "--timeout", "60s")
    cluster.until(lambda: greeting() == "hello", "the new page")
    assert cluster.kubectl("get", "deployment", "tub", "-o", "jsonpath={.status.readyReplicas}") == "2"
    assert "revision 2" in cluster.kubectl("logs", "job/tub-before")
    assert "Phase:          Succeeded" in helm("test", "tub", "--timeout", "60s")

    helm("rollback", "tub", "1", "--wait", "--timeout", "60s")
    cluster.until(lambda: greeting() == "ahoy", "the page of before")
    revisions = json.loads(helm("history", "tub", "-o", "json"))
    assert [one["status"] for one in revisions] == ["superseded", "superseded", "deployed"]

    helm("uninstall", "tub", "--wait", "--timeout", "60s")
    assert "NotFound" in cluster.kubectl("get", "deployment", "tub", check=False)
    assert "NotFound" in cluster.kubectl("get", "boat", "tub", check=False)
    cluster.kubectl("delete", "crd", "boats.river.example")
    cluster.kubectl("delete", "pod/tub-test", "job/tub-before", "--ignore-not-found")


def test_a_newer_kubectl_explains_and_applies(cluster: Cluster) -> None:
    def kubectl(*arguments: str, stdin: str = "") -> str:
        return cluster.run(str(CLIENTS / "kubectl-1.35"), *arguments, stdin=stdin)

    assert "<[]ContainerPort>" in kubectl("explain", "pods.spec.containers", "--recursive")
    body = json.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "newer"}, "data": {"a": "1"}})
    assert kubectl("apply", "--server-side", "-f", "-", stdin=body) == "configmap/newer serverside-applied\n"
    changed = body.replace('"1"', '"2"')
    told = cluster.run(str(CLIENTS / "kubectl-1.35"), "diff", "-f", "-", stdin=changed, check=False)
    assert told.startswith("1\n")
    assert '+  a: "2"' in told
    assert "v1.35" in kubectl("version")
    kubectl("delete", "configmap", "newer")
