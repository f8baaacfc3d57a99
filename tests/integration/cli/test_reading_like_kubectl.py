"""What wherry prints about objects is what the real kubectl prints: same text, same exit code."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.integration.cli.conftest import Answer, Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

READS = [
    "get pods",
    "get pods -o wide",
    "get pods --show-labels",
    "get pods -L app,pod-template-hash",
    "get all",
    "get all -A",
    "get svc,deploy",
    "get deploy/hello svc/hello",
    "get nodes -o wide",
    "get nodes --no-headers",
    "get deploy hello -o yaml",
    "get deploy hello -o json",
    "get secret sec -o yaml",
    "get cm conf -o kyaml",
    "get pods -o name",
    "get pods -l app=hello,foo!=bar",
    "get pods --field-selector=status.phase=Running -o name",
    "get pods --sort-by=.metadata.name",
    "get pods -n nothing",
    "get cm -A --no-headers",
    "-n kube-system get cm",
    "get nosuch",
    "get pod nosuch",
    "get pods nosuch1 nosuch2",
    "get pods -o foo",
    "get pods a b -A",
    "get --raw /version",
    r"""get pods -o jsonpath='{range .items[*]}{.metadata.name}{"\t"}{.status.phase}{"\n"}{end}'""",
    """get pods -o jsonpath='{.items[?(@.status.phase=="Running")].metadata.name}'""",
    "get pods -o jsonpath='{.items[0].metadata.labels}'",
    "get pods -o jsonpath='{.items[0:2].metadata.name} {.items[-1:].kind}'",
    "get pods -o jsonpath='{..image}'",
    r"get deploy hello -o jsonpath='{.metadata.annotations.deployment\.kubernetes\.io/revision}'",
    "get pods -o jsonpath-as-json='{.items[*].metadata.name}'",
    "get pods -o custom-columns=NAME:.metadata.name,IMG:.spec.containers[*].image,L:.metadata.labels,X:.nope",
    r"""get pods -o go-template='{{range .items}}{{.metadata.name}} {{.status.phase}}{{"\n"}}{{end}}'""",
    """get pods -o go-template='{{range $i, $p := .items}}{{$i}}:{{$p.metadata.name | printf "%q"}} {{end}}{{len .items}}'""",
    """get secret sec -o go-template='{{.data.password | base64decode}}{{if eq .kind "Secret"}}!{{else}}?{{end}}'""",
    "api-resources",
    "api-resources -o name",
    "api-resources --namespaced=false --api-group=rbac.authorization.k8s.io",
    "api-versions",
    "auth can-i create pods",
    "auth can-i create pods --as=nobody",
    "auth can-i --list",
    "auth can-i --list --as=system:kube-scheduler",
    "auth can-i --list --as=system:serviceaccount:default:default --no-headers",
    "auth can-i nosuch nosuchthing",
    "auth whoami",
    "top pods --sum",
    "top pods --containers --no-headers",
    "proxy --port=99999",
    "logs pod/nosuch -c nope",
    "explain pods.spec.containers.image",
    "explain deploy",
    "explain pod.spec.containers --recursive",
    "explain hpa.spec.metrics",
    "explain pod.nope",
    "config get-contexts",
    "config view",
    "config current-context",
    "rollout status deploy/hello",
    "rollout history deploy/hello",
    "top nodes",
    "wait deploy/hello --for=condition=Available --timeout=5s",
    "wait pod/nosuch --for=condition=Ready --timeout=1s",
    "wait pods -l app=hello --for=jsonpath={.status.phase}=Running --timeout=5s",
]
DESCRIBED = [
    "deploy/hello", "pod/busy", "pods -l app=hello", "svc/hello", "svc/kubernetes", "cm/plain", "secret/sec", "pvc/claim",
    "sts/db", "ds/every", "job/once", "cj/often", "ing/way", "netpol/deny", "pdb/keep", "quota/most", "limits/lim",
    "role/reader", "rolebinding/readers", "rs", "ns/default", "sa/default", "clusterrole/edit", "endpointslices", "ep/hello",
    "sc", "pc/system-node-critical", "clusterrolebinding/cluster-admin", "node/sim-0", "lease/sim-0 -n kube-node-lease",
    "pod nosuch",
]  # fmt: skip
# Ages grow between two calls; heartbeats and resource versions of leases and nodes move.
_CHANGES = ((r"\b\d+(?:s|m|m\d+s)\b", "AGE"), (r" +", " "), (r"-{3,}", "---"), (r"\d\d:\d\d:\d\d(?:\.\d+)?", "TIME"))


def plain(answer: Answer) -> Answer:
    out, err = answer.out, answer.err.replace("kubectl", "wherry").replace("Error: ", "error: ")
    for pattern, replacement in _CHANGES:
        out = re.sub(pattern, replacement, out)
    out = re.sub(r"Resource Version: *\d+|Renew Time: .*|RenewTime: .*", "", out)
    return Answer(answer.code, out, err)


def both(busy: Lab, line: str) -> tuple[Answer, Answer]:
    """Return what both print about the same state: asked again while what they look at changes."""
    deadline = time.monotonic() + 10
    while True:
        here, there = (plain(one) for one in busy.both(line))
        if here == there or time.monotonic() > deadline:
            return here, there
        time.sleep(0.2)


@pytest.mark.parametrize("line", READS)
def test_reads_as_kubectl_does(busy: Lab, line: str) -> None:
    here, there = both(busy, line)
    assert here == there


@pytest.mark.parametrize("what", DESCRIBED)
def test_describes_as_kubectl_does(busy: Lab, what: str) -> None:
    here, there = both(busy, f"describe {what}")
    assert here == there


def test_columns_stand_where_kubectl_puts_them(busy: Lab) -> None:
    for line in ("get nodes", "get svc -A -o wide", "describe cm/plain", "describe role/reader"):
        for _ in range(3):  # an age may pass from 9 seconds to 10, and its column with it
            there, here = busy.kubectl(line).out, busy.wherry(line).out
            if _ageless(here) == _ageless(there):
                break
        assert _ageless(here) == _ageless(there)


def _ageless(text: str) -> str:
    return re.sub(r"\b(\d+[smhd])+\b", "", text)


def test_near_misses_are_named(busy: Lab) -> None:
    assert busy.wherry("get podz").err == 'error: the server doesn\'t have a resource type "podz"; did you mean pod?\n'
    unknown = busy.wherry("get pods --selectr x")
    assert (unknown.code, unknown.err.splitlines()[0]) == (
        1,
        "error: unknown flag: --selectr; did you mean --selector?",
    )
    assert busy.wherry("get pods --nope").err.splitlines()[0] == "error: unknown flag: --nope"
    assert busy.wherry("get deploymnets").err.endswith('"deploymnets"; did you mean deployments?\n')
    assert 'unknown command "aply" for "wherry"' in busy.wherry("aply").err
    assert "apply" in busy.wherry("aply").err


def test_no_cluster_is_one_line_that_says_what_to_do(lab: Lab) -> None:
    answer = lab.wherry("get pods", KUBECONFIG="/nonexistent", HOME="/nonexistent")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "wherry up" in answer.err


def test_completion_knows_verbs_flags_kinds_and_names(busy: Lab) -> None:
    def words(line: str) -> list[str]:
        return busy.wherry(f"completion --words -- {line}").out.split()

    assert {"get", "describe", "rollout"} <= set(words("''"))
    assert words("descr") == ["describe"]
    assert "--selector" in words("get --sel")
    assert "deployments.apps" in words("get deploy")
    assert words("get deploy hel") == ["hello"]
    assert words("-n kube-node-lease get lease sim-0") == ["sim-0"]
    assert words("rollout status deploy/h") == ["deploy/hello"]
    assert words("describe node/sim-1") == ["node/sim-1"]
    assert words("logs busy -c si") == ["side"]
    assert words("get cm --namespace=kube-pub") == ["kube-public"]
    assert words("--context '' ") == words("config use-context ''") != []
    assert "--match-server-version" in words("--")
    assert words("create secret t") == ["tls"]
    assert words("top node sim-2") == ["sim-2"]
    assert words("wait --for cond") == ["condition="]
    assert words("apply --dry-run s") == ["server"]
    assert "events,pods" in words("get events,po")
    assert words("get pods -l ''") == words("delete pod/x deployment ''") == []


def test_bash_completes_flags_values_and_what_has_colons(busy: Lab, tmp_path: Path) -> None:
    program = tmp_path / "wherry"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cluster.main "$@"\n')
    program.chmod(0o755)
    script = """
        source <(wherry completion bash)
        for COMP_LINE in "$@"; do COMP_POINT=${#COMP_LINE}; _wherry_complete; echo "${COMPREPLY[*]}"; done
    """
    lines = ["wherry describe pod bus", "wherry get cm --namespace=kube-pub", "wherry get cm -o json"]
    os_path = f"{tmp_path}:{os.environ['PATH']}"
    done = busy.run("bash", "-c", script, "bash", *lines, PATH=os_path)
    assert done.out.splitlines() == ["busy", "kube-public", "json jsonpath jsonpath-as-json jsonpath-file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(lab: Lab, shell: str) -> None:
    assert "wherry completion --words" in lab.wherry(f"completion {shell}").out


def test_tree_shows_what_a_deployment_owns(busy: Lab) -> None:
    lines = [line.split()[1] for line in busy.wherry("tree deployment/hello").out.splitlines()]
    assert lines[1] == "Deployment/hello"
    assert lines[2].startswith("└─ReplicaSet/hello-")
    assert sum("Pod/hello-" in line for line in lines) == 2


def test_a_manifest_is_placed_in_thought_whatever_else_is_in_it(busy: Lab) -> None:
    path = ROOT / "manifests/hello.yaml"  # a Deployment and a Service
    done = busy.wherry(f"simulate -f {path} -o json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["placed"]) == 2
    refused = busy.wherry("simulate -f -", '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}')
    assert (refused.code, "nothing in the manifests makes pods" in refused.err) == (1, True)


def test_a_timeline_tells_things_in_their_order(busy: Lab) -> None:
    told = [one["what"] for one in json.loads(busy.wherry("timeline deploy/hello -o json").out)]
    order = ["created", "scheduled", "sandbox and network ready", "container web started", "ready"]
    assert [one for one in told if one in order] == order
