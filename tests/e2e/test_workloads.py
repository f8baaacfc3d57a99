"""Workloads with real containers: volumes that outlive their pods, jobs that end, budgets that hold."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import IMAGE, Cluster

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]


def container(command: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", f"trap 'exit 0' TERM; {command}"],
        **more,
    }


def apply(cluster: Cluster, kind: str, api_version: str, name: str, spec: dict[str, Any]) -> None:
    body = {"kind": kind, "apiVersion": api_version, "metadata": {"name": name}, "spec": spec}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def test_a_stateful_set_keeps_its_data_and_the_folder_goes_with_the_claim(cluster: Cluster) -> None:
    """Written by a user without rights, over the death of its pod; then the claim is deleted."""
    write = "[ -f /data/who ] || hostname > /data/who; sleep 3600 & wait"
    mounted = container(write, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    template = {
        "metadata": {"labels": {"app": "keeper"}},
        "spec": {"containers": [mounted], "securityContext": {"runAsUser": 1001}, "terminationGracePeriodSeconds": 2},
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}},
    }
    spec = {"replicas": 2, "serviceName": "keeper", "selector": {"matchLabels": {"app": "keeper"}},
            "template": template, "volumeClaimTemplates": [claim]}  # fmt: skip
    apply(cluster, "StatefulSet", "apps/v1", "keeper", spec)
    cluster.kubectl("rollout", "status", "statefulset/keeper", "--timeout=60s")
    assert cluster.kubectl("exec", "keeper-1", "--", "cat", "/data/who") == "keeper-1\n"
    cluster.kubectl("exec", "keeper-0", "--", "sh", "-c", "echo changed > /data/who")
    cluster.kubectl("delete", "pod", "keeper-0")
    cluster.kubectl("rollout", "status", "statefulset/keeper", "--timeout=60s")
    assert cluster.kubectl("exec", "keeper-0", "--", "cat", "/data/who") == "changed\n"
    volumes = cluster.layout.root / "volumes"
    assert len(list(volumes.iterdir())) == 2
    cluster.kubectl("delete", "statefulset/keeper", "pvc/data-keeper-0", "pvc/data-keeper-1", "--timeout=60s")
    cluster.until(lambda: not list(volumes.iterdir()), "the folders to go", 30)
    cluster.until(lambda: not cluster.kubectl("get", "pv", "-o", "name"), "the volumes to go", 30)
    assert "local-path" not in cluster.kubectl("get", "pods", "-n", "kube-system", "-l", "wherry/local-path")


def test_an_indexed_job_runs_to_its_end_and_a_failing_one_to_its_limit(cluster: Cluster) -> None:
    pod = {"restartPolicy": "Never", "containers": [container("echo index $JOB_COMPLETION_INDEX")]}
    work = {"completionMode": "Indexed", "completions": 3, "parallelism": 2, "template": {"spec": pod}}
    apply(cluster, "Job", "batch/v1", "numbers", work)
    cluster.kubectl("wait", "job/numbers", "--for=condition=complete", "--timeout=60s")
    assert cluster.kubectl("get", "job", "numbers", "-o", "jsonpath={.status.completedIndexes}") == "0-2"
    logs = cluster.kubectl("logs", "-l", "job-name=numbers", "--tail=-1")
    assert sorted(logs.splitlines()) == [f"index {number}" for number in range(3)]
    fails = {"restartPolicy": "Never", "containers": [container("exit 42")]}
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
    spec = {"template": {"spec": fails}, "backoffLimit": 3, "podFailurePolicy": {"rules": [rule]}}
    apply(cluster, "Job", "batch/v1", "fails", spec)
    cluster.kubectl("wait", "job/fails", "--for=condition=failed", "--timeout=60s")
    path = '{.status.conditions[?(@.type=="Failed")].message}'
    message = cluster.kubectl("get", "job", "fails", "-o", f"jsonpath={path}")
    assert "failed with exit code 42 matching FailJob rule at index 0" in message
    cluster.kubectl("delete", "job", "numbers", "fails")
    cluster.until(lambda: "numbers" not in cluster.kubectl("get", "pods"), "the pods to go")


def test_a_daemon_set_rolls_over_and_a_budget_refuses_an_eviction(cluster: Cluster) -> None:
    template = {
        "metadata": {"labels": {"app": "watcher"}},
        "spec": {"containers": [container("sleep 3600 & wait")], "terminationGracePeriodSeconds": 1},
    }
    selector = {"matchLabels": {"app": "watcher"}}
    apply(cluster, "DaemonSet", "apps/v1", "watcher", {"selector": selector, "template": template})
    cluster.kubectl("rollout", "status", "daemonset/watcher", "--timeout=60s")
    cluster.kubectl("set", "env", "daemonset/watcher", "STEP=two")
    cluster.kubectl("rollout", "status", "daemonset/watcher", "--timeout=60s")
    assert cluster.kubectl("rollout", "history", "daemonset/watcher").count("<none>") == 2
    cluster.kubectl("rollout", "undo", "daemonset/watcher")
    cluster.kubectl("rollout", "status", "daemonset/watcher", "--timeout=60s")
    apply(cluster, "PodDisruptionBudget", "policy/v1", "watcher", {"minAvailable": 1, "selector": selector})
    path = "{.status.currentHealthy}"
    cluster.until(
        lambda: cluster.kubectl("get", "pdb", "watcher", "-o", f"jsonpath={path}") == "1", "the budget to count"
    )
    pod = cluster.kubectl("get", "pods", "-l", "app=watcher", "-o", "jsonpath={.items[0].metadata.name}")
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}}
    path = f"/api/v1/namespaces/default/pods/{pod}/eviction"
    refused = cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body), check=False)
    assert "Cannot evict pod as it would violate the pod's disruption budget" in refused
    cluster.kubectl("delete", "pdb/watcher", "daemonset/watcher")
    cluster.until(lambda: "watcher" not in cluster.kubectl("get", "pods"), "the pod to go")


def test_a_deployment_under_load_is_scaled_up(cluster: Cluster) -> None:
    resources = {"requests": {"cpu": "20m"}, "limits": {"cpu": "100m"}}
    busy = container("while true; do :; done", resources=resources)
    template = {
        "metadata": {"labels": {"app": "busy"}},
        "spec": {"containers": [busy], "terminationGracePeriodSeconds": 0},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "busy"}}, "template": template}
    apply(cluster, "Deployment", "apps/v1", "busy", spec)
    cluster.kubectl("rollout", "status", "deployment/busy", "--timeout=30s")
    cluster.kubectl("autoscale", "deployment/busy", "--min=1", "--max=2", "--cpu-percent=50")
    path = "{.spec.replicas}"
    cluster.until(
        lambda: cluster.kubectl("get", "deployment", "busy", "-o", f"jsonpath={path}") == "2", "the load to be seen", 45
    )
    assert "SuccessfulRescale" in cluster.kubectl("describe", "hpa", "busy")
    cluster.kubectl("delete", "hpa/busy", "deployment/busy")
