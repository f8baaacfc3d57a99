"""The same changes made by wherry and by the real kubectl, each in a namespace of its own: same words, codes and objects.

Each table is one story: its lines depend on those before.
"""

import json
import re
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.integration.cli.conftest import Answer, Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
HELLO = (ROOT / "manifests/hello.yaml").read_text()
CHANGED = HELLO.replace("replicas: 2", "replicas: 3")
EDITOR = """#!/bin/sh
sed -i 's/^  replicas: .*/  replicas: 4/; s/^  a: b/  a: c/' "$1"
"""

DEPLOYMENT = """
apply -f - < hello
apply -f - < hello
apply -f - --dry-run=server < changed
apply -f - --dry-run=client < changed
apply -f - < changed
apply view-last-applied deploy/hello
apply --server-side -f - < changed
apply --server-side --force-conflicts -f - < changed
label deploy hello a=b
label deploy hello a=c
label deploy hello a=c --overwrite
label deploy hello a=c
label deploy hello a-
label deploy hello nope-
annotate deploy hello x=y
annotate deploy hello x=z
annotate deploy/hello x-
scale deploy hello --replicas=2
scale deploy hello --replicas=5 --current-replicas=9
expose deploy hello --port=80 --target-port=8080 --name=ex
expose deploy hello --name=ex2 --dry-run=client -o yaml
patch deploy hello -p '{"spec":{"replicas":1}}'
patch deploy hello -p '{"spec":{"replicas":1}}'
patch deploy hello --type=json -p '[{"op":"replace","path":"/spec/replicas","value":3}]'
patch deploy hello --type=merge -p 'spec: {replicas: 2}'
patch deploy hello -p '{"spec":{"replicas":"x"}}'
edit deploy hello
get deploy hello -o jsonpath={.spec.replicas}
set image deploy/hello web=wherry.local/busybox:2
set image deploy/hello nope=x
set image deploy/hello *=wherry.local/busybox:latest
set env deploy/hello A=b C=d
set env deploy/hello --list
set env deploy/hello A-
set resources deploy/hello --limits=cpu=200m,memory=64Mi --requests=cpu=100m
set serviceaccount deploy/hello default
get deploy hello -o jsonpath='{.spec.template.spec}'
rollout history deploy/hello
rollout status deploy/hello --timeout=30s
rollout undo deploy/hello
rollout pause deploy/hello
rollout pause deploy/hello
rollout resume deploy/hello
rollout restart deploy/hello -o name --allow-missing-template-keys=true
rollout status deploy/hello --timeout=30s
rollout undo deploy/hello --to-revision=99
rollout status svc/hello
replace -f - < hello
replace --force -f - < hello
delete deploy hello --dry-run=server
delete -f - < hello
"""
CREATED = """
create cm one --from-literal=a=b --from-literal=c=d
create cm one --from-literal=a=b
create cm two --from-literal=a=b --dry-run=client -o yaml
create cm three --from-literal=a=b --append-hash --dry-run=client -o name
create secret generic s --from-literal=p=q
create secret generic s2 --from-literal=p=q --append-hash --dry-run=client -o name
create secret docker-registry reg --docker-username=u --docker-password=p --docker-server=r.io -o yaml --dry-run=client
create deployment web --image=nginx:1 --replicas=2 --port=80 --dry-run=client -o yaml
create deployment web --image=nginx:1 -- sleep 5
create job j --image=busybox -- echo hi
create job j2 --image=busybox --dry-run=client -o yaml
create cronjob cj --image=busybox --schedule='*/5 * * * *' --dry-run=client -o yaml
create job j3 --from=cronjob/nope
create ns tmpns --dry-run=client -o yaml
create sa bot
create role r --verb=get,list --resource=pods,deployments
create role r2 --verb=get --resource=pods --resource-name=x --dry-run=client -o yaml
create clusterrole cr9 --verb=get --non-resource-url=/metrics --dry-run=client -o yaml
create rolebinding rb --role=r --user=jane --serviceaccount=default:bot
create clusterrolebinding crb9 --clusterrole=view --group=devs --dry-run=client -o yaml
create quota q --hard=pods=50
create pdb p --selector=app=hello --min-available=1
create priorityclass pc9 --value=10 --description=d --dry-run=client -o yaml
create service clusterip ci --tcp=80:8080
create service nodeport np --tcp=80 --dry-run=client -o yaml
create service externalname en --external-name=a.b --dry-run=client -o yaml
create service loadbalancer lb --tcp=80 --dry-run=client -o yaml
create ingress ing --rule=a.b/*=hello:80,tls=sec --rule=c.d/x=hello:http --dry-run=client -o yaml
create ingress ing2 --default-backend=hello:80 --class=x --dry-run=client -o yaml
create token bot --duration=1h -o jsonpath={.kind}
create token bot --duration=1s
create -f - < hello
run pod1 --image=wherry.local/busybox:latest
run pod2 --image=busybox --dry-run=client -o yaml --env=A=b --labels=x=y --port=80 -- sleep 5
run pod3 --image=busybox --restart=Never --command --dry-run=client -o yaml -- sleep 5
wait pod/pod1 --for=condition=Ready --timeout=10s
wait pod/pod1 --for=condition=Never --timeout=1s
wait pod/pod1 --for=jsonpath={.status.phase}=Running --timeout=10s
delete pod pod1 --wait=false
wait pod/pod1 --for=delete --timeout=20s
get pod pod1
delete pod pod1
delete pod pod1 --ignore-not-found
delete cm one two
delete cm -l x=y
get nosuchkind
logs nosuch
exec nosuch -- ls
apply -f /nosuch/file
auth can-i create nodes
"""
FLAGS = """
apply -f - < hello
apply edit-last-applied deploy/hello
apply view-last-applied deploy/hello -o json
apply view-last-applied -f - -o name < hello
apply --server-side --subresource=scale -f - < scale
apply --subresource=status -f - < hello
apply --server-side --subresource=status -f - < status
create -f - --edit < edited
get cm -o name
get cm edited -o jsonpath={.data}
create --dry-run=client -o name deployment web --image=x
set image deploy/hello web=wherry.local/busybox:2
rollout undo deploy/hello --dry-run=client -o name
rollout undo deploy/hello --dry-run=server
set serviceaccount deploy/hello bot --dry-run=server
set serviceaccount deploy/hello bot --dry-run=client -o jsonpath={.spec.template.spec.serviceAccountName}
get deploy hello -o jsonpath={.spec.template.spec.serviceAccountName}
set selector svc/hello x=y --dry-run=server
set selector svc/hello x=y --resource-version=1
get svc hello -o jsonpath={.spec.selector}
create rolebinding rb --clusterrole=view --user=x
set subject rolebinding/rb --user=jane --user=joe --group=g --dry-run=server
set subject rolebinding/rb --user=jane --user=joe --group=g
get rolebinding rb -o jsonpath={.subjects}
set env deploy/hello A=b
set env deploy/hello A=c --overwrite=false
create secret generic s --from-literal=p=q
set env deploy/hello --from=secret/s
set env deploy/hello --list --resolve
expose deploy hello --name=ov --port=80 --override-type=json --overrides='[{"op":"replace","path":"/spec/ports/0/port","value":81}]' --dry-run=client -o jsonpath={.spec.ports[0].port}
run ov --image=x --override-type=strategic --overrides='{"spec":{"containers":[{"name":"ov","tty":true}]}}' --dry-run=client -o jsonpath={.spec.containers[*]}
auth whoami --as=jane --as-group=a --as-group=b --as-user-extra=k=v --as-user-extra=k=w
get pods --request-timeout=nope
get pods --disable-compression --match-server-version=false --vmodule=x=1 --log-flush-frequency=1s -l nope
config view --merge=false
events -o name --for deploy/nope
rollout --namespace=default status deploy/nope
"""
STDIN = {
    "hello": HELLO,
    "changed": CHANGED,
    "edited": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: edited}\ndata: {a: b}\n",
    "scale": "apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {name: hello}\nspec: {replicas: 3}\n",
    "status": "apiVersion: v1\nkind: Service\nmetadata: {name: hello}\nstatus: {loadBalancer: {ingress: [{ip: 10.1.1.1}]}}\n",
}


def plain(answer: Answer, namespace: str) -> Answer:
    def words(text: str) -> str:
        text = text.replace(f" from {namespace} namespace", "").replace(namespace, "NS").replace("kubectl", "wherry")
        text = re.sub(r"Waiting for .*\n", "", text)  # how far a rollout is when it is looked at is chance
        text = re.sub(r'last-applied-configuration":"[^\n]*', "", text)
        text = re.sub(r"\n +creationTimestamp: null(?=\n)", "", text)
        text = re.sub(r"metadata: \{\}\n", "metadata:\n", text)
        return re.sub(r"Error: |hello-[a-z0-9]+-[a-z0-9]{5}", "", text)

    return Answer(answer.code, words(answer.out), words(answer.err))


@pytest.mark.parametrize("story", [DEPLOYMENT, CREATED, FLAGS], ids=["deployment", "created", "flags"])
def test_a_story_goes_as_with_kubectl(lab: Lab, story: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    editor = tmp_path / "editor"
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    name = request.node.callspec.id
    here, there = f"here-{name}", f"there-{name}"
    for namespace in (here, there):
        lab.kubectl(f"create ns {namespace}")
        lab.kubectl(f"-n {namespace} wait sa/default --for=create --timeout=10s")
    different = []
    for line in story.strip().splitlines():
        command, _, source = line.partition(" < ")
        stdin = STDIN.get(source, "")
        expected = plain(lab.kubectl(f"-n {there} {command}", stdin, KUBE_EDITOR=str(editor)), there)
        found = plain(lab.wherry(f"-n {here} {command}", stdin, KUBE_EDITOR=str(editor)), here)
        if found != expected:
            different.append(f"{line}\n  kubectl: {expected}\n  wherry:  {found}")
    assert not different, "\n".join(different)
    lab.kubectl(f"delete ns {here} {there} --wait=false")


def test_nodes_are_tainted_cordoned_and_drained(lab: Lab) -> None:
    assert lab.wherry("taint node sim-2 k=v:NoSchedule").out == "node/sim-2 tainted\n"
    refused = lab.wherry("taint node sim-2 k=v:NoSchedule")
    assert refused == lab.kubectl("taint node sim-2 k=v:NoSchedule")
    assert lab.wherry("taint node sim-2 k:NoSchedule-").out == "node/sim-2 untainted\n"
    assert lab.wherry("cordon sim-2").out == "node/sim-2 cordoned\n"
    assert lab.wherry("cordon sim-2") == lab.kubectl("cordon sim-2")
    lab.wherry("uncordon node/sim-2")
    lab.kubectl("create ns drained")
    lab.kubectl("-n drained wait sa/default --for=create --timeout=10s")
    pod = {"spec": {"nodeName": "sim-2"}}
    lab.kubectl(f"-n drained run alone --image=web:1 --overrides='{json.dumps(pod)}'")
    lab.kubectl("-n drained wait pod/alone --for=condition=Ready --timeout=10s")
    stopped = lab.wherry("drain sim-2 --ignore-daemonsets")
    assert stopped.code == 1
    assert "Pods that declare no controller (use --force to override): drained/alone" in stopped.err
    done = lab.wherry("drain sim-2 --ignore-daemonsets --force")
    assert done.code == 0, done.err
    assert "evicting pod drained/alone\n" in done.out
    assert done.out.endswith("node/sim-2 drained\n")
    lab.wherry("uncordon sim-2")


def test_apply_prunes_what_is_no_longer_said(lab: Lab) -> None:
    maps = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"p{n}", "labels": {"set": "pruned"}}}
        for n in (1, 2)
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": maps})
    lab.wherry("apply -f -", text)
    again = lab.wherry("apply --prune -l set=pruned -f -", json.dumps(maps[0]))
    assert again.out == "configmap/p1 unchanged\nconfigmap/p2 pruned\n"
    assert lab.kubectl("get cm -l set=pruned -o name").out == "configmap/p1\n"


def test_diff_shows_what_prune_would_delete(lab: Lab) -> None:
    maps = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"d{n}", "labels": {"set": "diffed"}}}
        for n in (1, 2)
    ]
    lab.kubectl("apply -f -", json.dumps({"apiVersion": "v1", "kind": "List", "items": maps}))
    line = "diff --prune -l set=diffed -f - --prune-allowlist=core/v1/ConfigMap"
    there, here = lab.kubectl(line, json.dumps(maps[0])), lab.wherry(line, json.dumps(maps[0]))
    assert here.code == there.code == 1
    assert "-  name: d2" in here.out
    assert "d1" not in here.out


def test_missing_keys_and_warnings_are_errors_where_that_is_asked(lab: Lab) -> None:
    line = "-n default get svc kubernetes --allow-missing-template-keys=false -o"
    for form in ("jsonpath={.nope}", "go-template={{.nope}}"):
        assert lab.wherry(f"{line} {form}").code == lab.kubectl(f"{line} {form}").code == 1
    old = json.dumps({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "warned"}})
    for ask in (lab.kubectl, lab.wherry):
        done = ask("-n default apply --warnings-as-errors -f -", old)
        assert done.code == 1
        assert done.err.endswith("error: 1 warning received\n")
        lab.kubectl("-n default delete endpoints warned")


def test_a_kustomization_reads_no_files_outside_its_folder_unless_told(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.txt").write_text("x")
    text = "configMapGenerator: [{name: c, files: [../out.txt]}]\n"
    (tmp_path / "in" / "kustomization.yaml").write_text(text)
    refused = lab.wherry(f"kustomize {tmp_path / 'in'}")
    assert refused.code == lab.kubectl(f"kustomize {tmp_path / 'in'}").code == 1
    assert "is not in or below" in refused.err
    line = f"kustomize {tmp_path / 'in'} --load-restrictor=LoadRestrictionsNone"
    assert lab.wherry(line) == lab.kubectl(line)


def test_debug_keeps_of_a_pod_what_it_is_told_to(lab: Lab, tmp_path: Path) -> None:
    probe = {"exec": {"command": ["true"]}}
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "sick", "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {
            "initContainers": [{"name": "first", "image": "i"}],
            "containers": [{"name": "web", "image": "i", "livenessProbe": probe, "startupProbe": probe}],
        },
    }  # fmt: skip
    (tmp_path / "pod.yaml").write_text(json.dumps(pod))
    (tmp_path / "custom.yaml").write_text("env: [{name: A, value: b}]\nresources: {limits: {cpu: 100m}}\n")
    lab.kubectl("create ns debugged")
    lab.kubectl("-n debugged wait sa/default --for=create --timeout=10s")
    lab.kubectl(f"-n debugged apply -f {tmp_path / 'pod.yaml'}")
    flags = f"-n debugged debug --profile=general --image=x -c dbg --custom={tmp_path / 'custom.yaml'}"
    for at, more in enumerate((
        "sick", "sick --keep-liveness --keep-annotations --keep-labels", "sick --keep-init-containers=false",
    )):  # fmt: skip
        seen = []
        for ask, name in ((lab.kubectl, f"there-{at}"), (lab.wherry, f"here-{at}")):
            done = ask(f"{flags} --copy-to={name} {more}")
            assert done.code == 0, done.err
            copy = json.loads(lab.kubectl(f"-n debugged get pod {name} -o json").out)
            spec = copy["spec"]
            seen.append([
                copy["metadata"].get("labels"), "c" in copy["metadata"].get("annotations", {}),
                [one["name"] for one in spec.get("initContainers", ())], spec.get("shareProcessNamespace"),
                [(one["name"], one.get("env"), one["resources"], one.get("securityContext"), sorted(one))
                 for one in spec["containers"]],
            ])  # fmt: skip
        assert seen[0] == seen[1], more
    filed = lab.wherry(f"{flags} --copy-to=filed -f {tmp_path / 'pod.yaml'}")  # kubectl 1.35 itself panics at -f
    assert filed.code == 0, filed.err
    (tmp_path / "custom.yaml").write_text("image: y\n")
    refused = lab.wherry(f"{flags} sick")
    assert refused.code == 1
    assert "not modifiable" in refused.err
    lab.kubectl("delete ns debugged --wait=false")


def test_diff_shows_what_apply_would_change(lab: Lab) -> None:
    lab.kubectl("create ns diffed")
    lab.wherry("-n diffed apply -f -", HELLO)
    assert lab.wherry("-n diffed diff -f -", HELLO) == Answer(0, "", "")
    shown = lab.wherry("-n diffed diff -f -", CHANGED)
    assert shown.code == 1
    assert "-  replicas: 2\n+  replicas: 3\n" in shown.out
    assert lab.wherry("-n diffed diff -f /nosuch").code > 1


KUSTOMIZED = {
    "base/kustomization.yaml": "resources: [app.yaml]\nconfigMapGenerator: [{name: conf, literals: [a=b]}]\n",
    "base/app.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers: [{name: c, image: "web:1", envFrom: [{configMapRef: {name: conf}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{port: 80}]}
""",
    "over/kustomization.yaml": """
resources: [../base]
namespace: kustomized
namePrefix: my-
labels: [{pairs: {team: a}, includeSelectors: true}]
commonAnnotations: {note: text}
images: [{name: web, newName: r.io/web, newTag: "2"}]
replicas: [{name: app, count: 3}]
secretGenerator: [{name: sec, literals: [p=q]}]
patches:
- patch: |-
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: app}
    spec: {template: {spec: {containers: [{name: c, env: [{name: X, value: "1"}]}]}}}
- target: {kind: Service}
  patch: '[{"op": "add", "path": "/spec/type", "value": "NodePort"}]'
""",
}


def test_kustomize_makes_what_kubectl_makes(lab: Lab, tmp_path: Path) -> None:
    for name, text in KUSTOMIZED.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    expected = lab.kubectl(f"kustomize {tmp_path / 'over'}")
    assert expected.code == 0, expected.err
    found = lab.wherry(f"kustomize {tmp_path / 'over'}")
    assert found.out == expected.out


def test_config_changes_a_kubeconfig_as_kubectl_does(lab: Lab, tmp_path: Path) -> None:
    lines = [
        "config set-cluster c --server=https://x:6443 --insecure-skip-tls-verify=true",
        "config set-credentials u --token=secret",
        "config set-credentials e --exec-command=login --exec-api-version=client.authentication.k8s.io/v1 --exec-arg=a,b --exec-env=X=1",
        "config set-credentials e --exec-env=X- --exec-env=Y=2 --exec-interactive-mode=Never",
        "config set-context k --cluster=c --user=u --namespace=n",
        "config use-context k",
        "config use-context nope",
        "config set-context --current --namespace=m",
        "config rename-context k l",
        "config current-context",
        "config get-contexts",
        "config get-clusters",
        "config get-users",
        "config set clusters.c.server https://y",
        "config unset users.u.token",
        "config view --raw",
        "config delete-user u",
        "config delete-cluster c",
        "config delete-context l",
        "config view",
    ]
    for line in lines:
        there, here = (
            Answer(one.code, one.out.replace(str(tmp_path / name), "F"), one.err.replace(str(tmp_path / name), "F"))
            for name, one in (
                ("there", lab.kubectl(line, KUBECONFIG=str(tmp_path / "there"))),
                ("here", lab.wherry(line, KUBECONFIG=str(tmp_path / "here"))),
            )
        )
        assert here == Answer(there.code, there.out, there.err.replace("kubectl", "wherry")), line


def test_cluster_wide_options_may_stand_before_the_verb(lab: Lab) -> None:
    assert lab.wherry("-n kube-system get cm -o name").out == lab.wherry("get cm -o name -n=kube-system").out
    assert lab.wherry("--namespace=kube-system get cm --watch=false -o name").out.startswith("configmap/")


def test_a_program_on_path_is_a_command(lab: Lab, tmp_path: Path) -> None:
    plugin = tmp_path / "wherry-say-hello"
    plugin.write_text("#!/bin/sh\necho hello $1\n")
    plugin.chmod(0o755)
    import os

    path = f"{tmp_path}:{os.environ['PATH']}"
    assert lab.wherry("say hello you", PATH=path).out == "hello you\n"
    assert str(plugin) in lab.wherry("plugin list", PATH=path).out
