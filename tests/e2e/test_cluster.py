"""What a person does with a cluster, with the real kubectl and real containers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.processes import identity, running_pid
from tests.e2e.conftest import IMAGE, ROOT, SERVICE_CIDR, Cluster
from tests.support.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]


def pod(name: str, command: str, extra: str = "", container: str = "", policy: str = "Never") -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 2
  {extra}
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: IfNotPresent
    command: [sh, -c, {json.dumps(command)}]
    {container}
"""


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()


def reachable(address: str) -> bool:
    try:
        return bool(fetch(f"http://{address}/"))
    except OSError:
        return False


def test_hello_answers_through_its_service(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(ROOT / "manifests/hello.yaml"))
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")
    address = cluster.kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}")
    assert address.startswith(SERVICE_CIDR.removesuffix("0.0/16"))
    cluster.until(lambda: reachable(address), "the service to answer", 5)
    answers = {fetch(f"http://{address}/") for _ in range(30)}
    assert len(answers) == 2  # both pods answer
    assert all(answer.startswith("Hello from hello-") for answer in answers)
    wide = cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide")
    assert re.search(r"node/\S+\s+Ready", wide)
    assert len(re.findall(r"pod/hello-\S+\s+1/1\s+Running\s+0", wide)) == 2


def test_a_pod_reaches_the_service_and_the_api(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(ROOT / "manifests/hello.yaml"))
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")
    address = cluster.kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}")
    command = f"nc {address} 80 </dev/null; printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {address} 80; echo $KUBERNETES_SERVICE_HOST; ls {'/var/run/secrets/kubernetes.io/serviceaccount'}"
    cluster.kubectl("apply", "-f", "-", stdin=pod("asks-api", command))
    cluster.kubectl("wait", "pod/asks-api", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")
    out = cluster.kubectl("logs", "asks-api")
    assert "Hello from hello-" in out
    assert SERVICE_CIDR.replace("0.0/16", "0.1") in out
    assert {"ca.crt", "namespace", "token"} <= set(out.split())


def test_scale_restart_and_undo(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(ROOT / "manifests/hello.yaml"))
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")
    cluster.kubectl("scale", "deployment/hello", "--replicas=4")
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")
    assert cluster.kubectl("get", "deploy", "hello", "-o", "jsonpath={.status.readyReplicas}") == "4"
    before = set(cluster.kubectl("get", "pods", "-l", "app=hello", "-o", "name").split())
    cluster.kubectl("rollout", "restart", "deployment/hello")
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
    cluster.until(lambda: not before & set(cluster.kubectl("get", "pods", "-o", "name").split()), "old pods to go", 45)
    cluster.kubectl("set", "env", "deployment/hello", "GREETING=x")
    cluster.kubectl("rollout", "undo", "deployment/hello")
    assert "x" not in cluster.kubectl(
        "get", "deploy", "hello", "-o", "jsonpath={.spec.template.spec.containers[0].env}"
    )
    cluster.kubectl("scale", "deployment/hello", "--replicas=2")
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=60s")


def test_logs_follow_until_the_container_ends(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=pod("talker", "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done"))
    cluster.kubectl("wait", "pod/talker", "--for=jsonpath={.status.startTime}", "--timeout=10s", check=False)
    cluster.until(lambda: cluster.path("talker", "{.status.phase}") in ("Running", "Succeeded"), "talker to run")
    assert cluster.kubectl("logs", "-f", "talker") == "".join(f"line {n}\n" for n in range(1, 6))
    assert cluster.kubectl("logs", "--tail=2", "talker") == "line 4\nline 5\n"
    cluster.until(lambda: cluster.path("talker", "{.status.phase}") == "Succeeded", "talker to succeed")


def test_a_failing_container_is_restarted_with_back_off(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=pod("crasher", "echo dying; exit 3", policy="Always"))
    reason = "{.status.containerStatuses[0].state.waiting.reason}"
    cluster.until(lambda: cluster.path("crasher", reason) == "CrashLoopBackOff", "a back-off", 30)
    assert cluster.path("crasher", "{.status.containerStatuses[0].lastState.terminated.exitCode}") == "3"
    assert int(cluster.path("crasher", "{.status.containerStatuses[0].restartCount}")) >= 1
    assert cluster.kubectl("logs", "crasher") == "dying\n"
    cluster.kubectl("delete", "pod", "crasher", "--now")


def test_an_image_or_a_command_that_is_not_there_is_told(cluster: Cluster) -> None:
    missing = pod("noimage", "true").replace(IMAGE, "127.0.0.1:1/none:latest")
    cluster.kubectl("apply", "-f", "-", stdin=missing)
    reason = "{.status.containerStatuses[0].state.waiting.reason}"
    seen: set[str] = set()
    cluster.until(
        lambda: bool(seen.add(cluster.path("noimage", reason)) or "ImagePullBackOff" in seen), f"a back-off; {seen}", 30
    )
    bad = pod("nocommand", "true").replace('[sh, -c, "true"]', "[nonsense]")
    cluster.kubectl("apply", "-f", "-", stdin=bad)
    ended = "{.status.containerStatuses[0].state.terminated.reason}"
    cluster.until(lambda: cluster.path("nocommand", ended) == "StartError", "a start error", 15)
    text = cluster.path("nocommand", "{.status.containerStatuses[0].state.terminated.message}")
    assert "nonsense" in text
    assert "executable file not found in $PATH" in text
    cluster.kubectl("delete", "pod", "noimage", "nocommand", "--now")


def test_configuration_reaches_a_container_as_variables_and_files(cluster: Cluster) -> None:
    manifest = """
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {colour: blue, file.txt: "from the map"}
---
apiVersion: v1
kind: Secret
metadata: {name: sec}
stringData: {password: hunter2}
---
""" + pod(
        "configured",
        "echo $COLOUR $PASSWORD $MY_NAME $LIMIT; cat /conf/file.txt; echo; cat /sec/password; echo; cat /info/labels; echo; "
        "echo shared > /scratch/x; cat /scratch/x; id -u",
        extra="volumes: [{name: conf, configMap: {name: conf}}, {name: sec, secret: {secretName: sec}}, "
        "{name: scratch, emptyDir: {}}, {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.name}}]}}]",
        container="""env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: conf, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: sec, key: password}}}
    - {name: MY_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    resources: {limits: {memory: 64Mi, cpu: 200m}}
    securityContext: {runAsUser: 1000}
    volumeMounts:
    - {name: conf, mountPath: /conf}
    - {name: sec, mountPath: /sec}
    - {name: scratch, mountPath: /scratch}
    - {name: info, mountPath: /info}""",
    )
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    cluster.kubectl("wait", "pod/configured", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")
    lines = cluster.kubectl("logs", "configured").split("\n")
    assert lines[:6] == ["blue hunter2 configured 64", "from the map", "hunter2", "configured", "shared", "1000"]
    assert cluster.path("configured", "{.status.qosClass}") == "Guaranteed"


def test_init_containers_run_in_order_before_the_others(cluster: Cluster) -> None:
    init = f"""volumes: [{{name: w, emptyDir: {{}}}}]
  initContainers:
  - {{name: one, image: "{IMAGE}", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo 1 >> /w/f"], volumeMounts: [{{name: w, mountPath: /w}}]}}
  - {{name: two, image: "{IMAGE}", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo 2 >> /w/f"], volumeMounts: [{{name: w, mountPath: /w}}]}}"""
    manifest = pod(
        "ordered", "echo 3 >> /w/f; cat /w/f", extra=init, container="volumeMounts: [{name: w, mountPath: /w}]"
    )
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    cluster.kubectl("wait", "pod/ordered", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")
    assert cluster.kubectl("logs", "ordered") == "1\n2\n3\n"


def test_probes_decide_readiness_and_restarts(cluster: Cluster) -> None:
    manifest = pod(
        "probed", "touch /tmp/live; sleep 2; touch /tmp/ready; sleep 3600", policy="Always",
        container="""readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
    livenessProbe: {exec: {command: [cat, /tmp/live]}, periodSeconds: 1, failureThreshold: 2}""",
    )  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    ready = '{.status.conditions[?(@.type=="Ready")].status}'
    cluster.until(lambda: cluster.path("probed", "{.status.phase}") == "Running", "probed to run")
    assert cluster.path("probed", ready) == "False"
    cluster.until(lambda: cluster.path("probed", ready) == "True", "probed to be ready")
    cluster.kubectl("exec", "probed", "--", "rm", "/tmp/live")
    restarts = "{.status.containerStatuses[0].restartCount}"
    cluster.until(lambda: cluster.path("probed", restarts) == "1", "a restart by the liveness probe", 30)
    assert "Liveness probe failed" in cluster.kubectl("describe", "pod", "probed")
    cluster.kubectl("delete", "pod", "probed", "--now")


def test_exec_carries_input_output_and_exit_code(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=pod("shell", "sleep 3600"))
    cluster.kubectl("wait", "pod/shell", "--for=condition=Ready", "--timeout=20s")
    assert cluster.kubectl("exec", "shell", "--", "hostname") == "shell\n"
    assert cluster.kubectl("exec", "-i", "shell", "--", "cat", stdin="through\n") == "through\n"
    answer = cluster.kubectl("exec", "shell", "--", "sh", "-c", "echo bad >&2; exit 7", check=False)
    assert answer.startswith("7\n")
    assert "bad" in answer
    assert cluster.wherry("exec", "shell", "--", "hostname") == "shell\n"
    script = "kubectl exec -it shell -- sh -c 'test -t 0 && tty && echo is-a-terminal'"
    out = cluster.run("script", "-qec", script, "/dev/null")
    assert "is-a-terminal" in out
    cluster.kubectl("delete", "pod", "shell", "--now")


def test_a_pod_ends_gracefully_after_its_hook(cluster: Cluster) -> None:
    command = "trap 'echo got-term; exit 0' TERM; echo up; while true; do sleep 0.1; done"
    hook = "lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook > /proc/1/fd/1']}}}"
    manifest = pod("graceful", command, container=hook).replace(
        "terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 20"
    )
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    cluster.kubectl("wait", "pod/graceful", "--for=condition=Ready", "--timeout=20s")
    with subprocess.Popen(
        ["kubectl", "logs", "-f", "graceful"], stdout=subprocess.PIPE, text=True, env=cluster.environment()
    ) as logs:
        began = time.monotonic()
        cluster.kubectl("delete", "pod", "graceful")
        assert time.monotonic() - began < 10
        out, _ = logs.communicate(timeout=10)
    assert out.split() == ["up", "hook", "got-term"]


def test_host_ports_lead_into_the_pod(cluster: Cluster) -> None:
    manifest = pod(
        "hosted",
        "echo hosted > /tmp/index.html; httpd -f -p 8080 -h /tmp",
        container="ports: [{containerPort: 8080, hostPort: 18099}]",
    )
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    cluster.kubectl("wait", "pod/hosted", "--for=condition=Ready", "--timeout=20s")
    address = cluster.path("hosted", "{.status.hostIP}")

    def answers() -> bool:
        try:
            return fetch(f"http://{address}:18099/") == "hosted\n"
        except OSError:
            return False

    cluster.until(answers, "the host port to answer", 10)
    cluster.kubectl("delete", "pod", "hosted", "--now")


def test_a_pod_nobody_can_take_says_why(cluster: Cluster) -> None:
    manifest = pod("huge", "true", container="resources: {requests: {cpu: '1000'}}")
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    told = "0/1 nodes are available: 1 Insufficient cpu."
    cluster.until(lambda: told in cluster.kubectl("describe", "pod", "huge"), "the reason", 10)
    cluster.kubectl("delete", "pod", "huge", "--now")


@pytest.mark.parametrize("component", ["apiserver", "scheduler", "controller-manager", "agent", "runtime", "etcd"])
def test_containers_outlive_the_kill_of_any_component(cluster: Cluster, component: str) -> None:
    name = f"survivor-{component}"
    cluster.kubectl("apply", "-f", "-", stdin=pod(name, "sleep 7201", policy="Always"))
    cluster.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=20s")
    started = cluster.path(name, "{.status.containerStatuses[0].state.running.startedAt}")
    container = cluster.path(name, "{.status.containerStatuses[0].containerID}").rpartition("/")[2]
    pid = int((next(cluster.layout.root.glob(f"**/{container}/pid"))).read_text())
    before = identity(pid)
    killed = cluster.pid(component)
    subprocess.run(["kill", "-KILL", str(killed)], check=True)

    def is_back() -> bool:
        try:
            return cluster.pid(component) != killed and "Running" in cluster.kubectl("get", "pod", name, check=False)
        except AssertionError:
            return False

    cluster.until(is_back, f"{component} to come back", 30)
    cluster.kubectl("apply", "-f", "-", stdin=pod(f"after-{component}", "true"))
    cluster.kubectl("wait", f"pod/after-{component}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=40s")
    assert identity(pid) == before
    assert cluster.path(name, "{.status.containerStatuses[0].state.running.startedAt}") == started
    assert cluster.path(name, "{.status.containerStatuses[0].restartCount}") == "0"
    cluster.kubectl("delete", "pod", name, f"after-{component}", "--now")


def test_wherry_prints_what_kubectl_prints(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(ROOT / "manifests/hello.yaml"))
    cluster.kubectl("rollout", "status", "deploy/hello", "--timeout=30s")
    for arguments in (
        ["get", "svc,deploy", "-o", "wide"], ["get", "pods", "-A"], ["get", "deploy", "hello", "-o", "yaml"],
        ["get", "svc", "-o", "name"], ["get", "cm", "none"], ["get", "deploy", "hello", "-o", "jsonpath={.spec.replicas}"],
    ):  # fmt: skip
        ages = re.compile(r"\b\d+[smh](\d+s)?\b")
        ours, theirs = (
            ages.sub("AGE", re.sub(r" +", " ", run(*arguments, check=False)))
            for run in (cluster.wherry, cluster.kubectl)
        )
        assert ours == theirs


def test_up_says_when_it_runs_already(cluster: Cluster) -> None:
    assert "is running already" in cluster.wherry("up", "--data-dir", str(cluster.layout.root))
    assert "The API server is ready" in cluster.wherry("status", "--data-dir", str(cluster.layout.root))


def test_a_static_pod_runs_is_shown_and_goes_with_its_file(cluster: Cluster) -> None:
    folder = cluster.layout.root / "static-pods"
    folder.mkdir(exist_ok=True)
    manifest = folder / "fixed.yaml"
    manifest.write_text(pod("fixed", "sleep 3600", policy="Always"))
    node = cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    name = f"fixed-{node}"
    cluster.until(lambda: "1/1" in cluster.kubectl("get", "pod", name, check=False), "the mirror to run", 20)
    mirror = cluster.path(name, "{.metadata.uid}")
    cluster.kubectl("delete", "pod", name, "--wait=false")  # what runs is not the mirror
    cluster.until(lambda: not _shown(cluster, name).startswith(f"{mirror} "), "a new mirror")
    cluster.until(lambda: _shown(cluster, name).endswith(" Running 0"), "the pod shown by it")
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text)  # the same pod ends and begins anew
    cluster.until(lambda: _shown(cluster, name).endswith(" Running 1"), "a restart")
    metrics = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics")
    assert 'kubelet_working_pods{config="desired",lifecycle="sync",static="true"} 1' in metrics
    assert "kubelet_mirror_pods 1" in metrics
    manifest.unlink()
    cluster.until(lambda: "NotFound" in cluster.kubectl("get", "pod", name, check=False), "the mirror to go", 20)


def _shown(cluster: Cluster, name: str) -> str:
    fields = "{.metadata.uid} {.status.phase} {.status.containerStatuses[0].restartCount}"
    code, _, out = cluster.kubectl("get", "pod", name, "-o", f"jsonpath={fields}", check=False).partition("\n")
    return out if code == "0" else ""


def test_an_agent_that_starts_without_an_api_looks_after_its_pods_and_runs_static_ones(cluster: Cluster) -> None:
    probe = "livenessProbe: {exec: {command: [cat, /ok]}, periodSeconds: 1, failureThreshold: 1}"
    service = "kind: Service\napiVersion: v1\nmetadata: {name: known}\nspec: {ports: [{port: 7}]}\n---\n"
    command = "touch /ok; echo service $KNOWN_SERVICE_PORT $(ls /var/run/secrets/kubernetes.io/serviceaccount | wc -l); sleep 3600"
    cluster.kubectl("apply", "-f", "-", stdin=service + pod("cared-for", command, policy="Always", container=probe))
    cluster.kubectl("wait", "pod/cared-for", "--for=condition=Ready", "--timeout=20s")
    container = cluster.path("cared-for", "{.status.containerStatuses[0].containerID}").rpartition("/")[2]
    uid = cluster.path("cared-for", "{.metadata.uid}")
    saved = cluster.layout.root / "agent" / "checkpoint"
    cluster.until(lambda: '"Running"' in _text(saved / "pods" / f"{uid}.json"), "the pod to be written down")
    cluster.until(lambda: "known" in _text(saved / "services.json"), "the service to be written down")
    pid = int(next(cluster.layout.root.glob(f"**/{container}/pid")).read_text())
    node = cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    api, agent, logs = cluster.pid("apiserver"), cluster.pid("agent"), cluster.layout.root / "agent" / "pod-logs"
    manifest = cluster.layout.root / "static-pods" / "alone.yaml"
    os.kill(api, signal.SIGSTOP)  # it takes connections and says nothing: the worst way to be away
    try:
        os.kill(agent, signal.SIGKILL)
        cluster.until(lambda: running_pid(cluster.layout, "agent") not in (None, agent), "a new agent", 10)
        manifest.parent.mkdir(exist_ok=True)  # the agent makes it, too, but may not have come to that
        manifest.write_text(pod("alone", "echo here; sleep 3600", policy="Always"))
        cluster.until(lambda: any(logs.glob(f"default_alone-{node}_*/main/0.log")), "the static pod to run")
        Path(f"/proc/{pid}/root/ok").unlink()
        again = logs / f"default_cared-for_{uid}" / "main" / "1.log"
        cluster.until(lambda: "service 7 3" in _text(again), "the container to be started again", 30)
    finally:
        os.kill(api, signal.SIGCONT)
    restarts = "{.metadata.uid} {.status.containerStatuses[0].restartCount}"
    cluster.until(lambda: cluster.path("cared-for", restarts) == f"{uid} 1", "the restart to be told")
    cluster.until(lambda: _shown(cluster, f"alone-{node}").endswith(" Running 0"), "the static pod's mirror")
    manifest.unlink()
    cluster.kubectl("delete", "pod/cared-for", "service/known", "--now")


def test_a_node_follows_its_configuration_files(cluster: Cluster) -> None:
    folder = cluster.layout.root / "kubelet.conf.d"
    folder.mkdir(exist_ok=True)
    head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
    node = cluster.kubectl("get", "nodes", "-o", "name").strip()
    most = ("get", node, "-o", "jsonpath={.status.allocatable.pods} {.status.capacity.pods}")
    before = cluster.kubectl("get", node, "-o", "jsonpath={.status.allocatable.memory}")
    security = "securityContext: {sysctls: [{name: kernel.msgmax, value: '65536'}]}"
    cluster.kubectl("apply", "-f", "-", stdin=pod("unsafe", "true", security))
    cluster.until(lambda: cluster.path("unsafe", "{.status.reason}") == "SysctlForbidden", "its refusal")
    text = "maxPods: 60\nallowedUnsafeSysctls: [kernel.msg*]\npodPidsLimit: 50\nsystemReserved: {memory: 64Mi}\n"
    (folder / "10.conf").write_text(head + text)
    try:
        cluster.until(lambda: cluster.kubectl(*most) == "60 60", "the node to tell of it")
        left = cluster.kubectl("get", node, "-o", "jsonpath={.status.allocatable.memory}")
        assert int(before.removesuffix("Ki")) - int(left.removesuffix("Ki")) == 64 * 1024
        command = "cat /proc/sys/kernel/msgmax; i=0; while [ $i -lt 80 ]; do sleep 9 & i=$((i+1)); done; echo all"
        cluster.kubectl("apply", "-f", "-", stdin=pod("allowed", command, security))
        cluster.until(lambda: cluster.path("allowed", "{.status.phase}") in ("Succeeded", "Failed"), "its end")
        out = cluster.kubectl("logs", "allowed")
        assert out.startswith("65536\n")
        assert "can't fork" in out
        (folder / "10.conf").write_text(head + "maxPods: 0")
        events = ("get", "events", "--field-selector", "reason=InvalidKubeletConfiguration", "-o", "name")
        cluster.until(lambda: "event/" in cluster.kubectl(*events), "an event about what is wrong")
        config = json.loads(cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node.partition('/')[2]}/proxy/configz"))
        assert config["kubeletconfig"]["maxPods"] == 60
    finally:
        (folder / "10.conf").unlink()
    cluster.until(lambda: cluster.kubectl(*most) == "110 110", "what was before")
    cluster.kubectl("delete", "pod", "unsafe", "allowed", "--now")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_bench_results_are_json(cluster: Cluster) -> None:
    out = cluster.run(sys.executable, "-m", "bench", "nonsense", check=False)
    assert "no such benchmark: nonsense; there are: api, " in out


def test_memory_limits_hold_and_are_told(cluster: Cluster) -> None:
    command = "x=a; while true; do x=$x$x$x$x; done"
    manifest = pod("hungry", command, container="resources: {limits: {memory: 32Mi}}")
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    reason = "{.status.containerStatuses[0].state.terminated.reason}"
    cluster.until(lambda: cluster.path("hungry", reason) == "OOMKilled", "the kernel to end it", 30)
    assert cluster.path("hungry", "{.status.containerStatuses[0].state.terminated.exitCode}") == "137"


def test_down_ends_containers_though_the_runtime_is_away_and_leaves_no_cgroup(cluster: Cluster) -> None:
    """Runs on a cluster of its own: everything of it is killed before `down`."""
    folder = cluster.layout.root.with_name(cluster.layout.root.name + "-b")
    other = Cluster(Layout(folder))
    folder.mkdir()
    options = ["--api-port", str(free_port()), "--agent-port", str(free_port()), "--bridge", "whtest1"]
    try:
        other.wherry(
            "up",
            "--data-dir",
            str(folder),
            *options,
            "--pod-cidr",
            "10.243.0.0/24",
            "--service-cidr",
            "10.95.0.0/16",
            "--detach",
        )
        other.until(lambda: "default" in other.kubectl("get", "sa", check=False), "the default service account")
        other.kubectl("apply", "-f", "-", stdin=pod("left", "sleep 7301"))
        other.kubectl("wait", "pod/left", "--for=condition=Ready", "--timeout=20s")
        uid = other.path("left", "{.metadata.uid}")
        container = other.path("left", "{.status.containerStatuses[0].containerID}").rpartition("/")[2]
        pid = int(next(folder.glob(f"**/{container}/pid")).read_text())
        subprocess.run(["kill", "-KILL", str(other.pid("up"))], check=True)  # the components go with it
        other.until(lambda: running_pid(other.layout, "runtime") is None, "the runtime to end", 10)
        assert identity(pid)
        other.wherry("down", "--data-dir", str(folder))
        other.until(lambda: not identity(pid), "the container to end", 5)
        assert list(Path("/sys/fs/cgroup").glob(f"*/wherry/*/pod{uid}")) == []
    finally:
        other.wherry("reset", "--yes", "--data-dir", str(folder))
        shutil.rmtree(folder, ignore_errors=True)
