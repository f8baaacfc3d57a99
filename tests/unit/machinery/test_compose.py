"""Compose files: what is read, what it comes to, and how mistakes are told."""

import re
from pathlib import Path
from typing import Any

import pytest

from machinery.compose.manifests import service_objects, shared_objects
from machinery.compose.project import in_order, interpolated, load, loads
from machinery.compose.values import ComposeError


def project(tmp_path: Path, text: str, **given: Any) -> Any:
    path = tmp_path / "compose.yaml"
    path.write_text(text)
    return load([str(path)], **given)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$A-${A}", "one-one"), ("$$A", "$A"), ("${N:-x}", "x"), ("${N-x}", "x"), ("${E:-x}", "x"), ("${E-x}", ""),
        ("${A:+y}", "y"), ("${N+y}", ""), ("${N:-${A}}", "one"), ("plain", "plain"), ("${N}", ""),
    ],
)  # fmt: skip
def test_variables(text: str, result: str) -> None:
    assert interpolated(text, {"A": "one", "E": ""}, Path("f")) == result


def test_a_variable_that_must_be_there_is_named() -> None:
    with pytest.raises(ComposeError, match="required variable N is missing a value: say it"):
        interpolated("${N:?say it}", {}, Path("f"))


def test_mistakes_are_told_with_file_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=r"compose.yaml:4:5: .*services.web.*'comand' was unexpected"):
        project(tmp_path, "services:\n  web:\n    image: x\n    comand: y\n")
    with pytest.raises(ComposeError, match=r"compose.yaml:3:8: "):
        project(tmp_path, "services:\n  web: {image: x\nvolumes: {}\n")
    with pytest.raises(ComposeError, match='service "web" depends on undefined service "db"'):
        project(tmp_path, "services: {web: {image: x, depends_on: [db]}}")
    with pytest.raises(ComposeError, match="dependency cycle detected: a -> b -> a"):
        project(tmp_path, "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}")


def test_profiles_env_files_extends_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("TAG=2\nCOMPOSE_PROJECT_NAME=My_App\n")
    (tmp_path / "over.yaml").write_text("services: {web: {environment: {B: c}, command: [two]}}")
    text = """
services:
  base: {image: "app:${TAG}", environment: [A=b], command: [one]}
  web: {extends: base, ports: ["80"]}
  debug: {image: x, profiles: [debug]}
"""
    (tmp_path / "compose.yaml").write_text(text)
    found = load([str(tmp_path / "compose.yaml"), str(tmp_path / "over.yaml")])
    assert found.name == "my-app"
    assert set(found.services) == {"base", "web"}
    assert found.services["web"]["image"] == "app:2"
    assert found.services["web"]["environment"] == {"A": "b", "B": "c"}
    assert found.services["web"]["command"] == ["two"]
    assert "debug" in load([str(tmp_path / "compose.yaml")], profiles=["debug"]).services


def test_services_come_after_what_they_wait_for(tmp_path: Path) -> None:
    found = project(
        tmp_path, "services: {a: {image: x, depends_on: [c]}, b: {image: x}, c: {image: x, depends_on: [b]}}"
    )
    assert in_order(found) == ["b", "c", "a"]
    assert in_order(found, ["c"]) == ["b", "c"]


def test_a_service_becomes_a_deployment_and_a_headless_service(tmp_path: Path) -> None:
    found = project(
        tmp_path,
        """
name: p
services:
  web:
    image: web:1
    entrypoint: run it
    command: [--now]
    ports: ["8080:80", {target: 53, published: "5353", protocol: udp}, "9000-9001:90-91"]
    volumes: ["./here:/there:ro", "kept:/kept", {type: tmpfs, target: /t}]
    secrets: [s]
    healthcheck: {test: curl -f localhost, interval: 5s, retries: 2}
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 64M}}}
    user: "10:20"
    cap_drop: [ALL]
  once: {image: x, restart: "no"}
volumes: {kept: {}}
secrets: {s: {environment: HOME}}
""",
    )
    deployment, service = service_objects(found, "web")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert (deployment["kind"], deployment["spec"]["replicas"], deployment["metadata"]["namespace"]) == (
        "Deployment",
        2,
        "p",
    )
    assert (container["command"], container["args"]) == (["run", "it"], ["--now"])
    ports = [(one["hostPort"], one["containerPort"], one["protocol"]) for one in container["ports"]]
    assert ports == [(8080, 80, "TCP"), (5353, 53, "UDP"), (9000, 90, "TCP"), (9001, 91, "TCP")]
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/there", "/kept", "/t", "/run/secrets/s"]
    assert container["readinessProbe"] == {
        "exec": {"command": ["sh", "-c", "curl -f localhost"]}, "periodSeconds": 5, "failureThreshold": 2,
    }  # fmt: skip
    assert container["resources"]["limits"] == {"cpu": "0.5", "memory": str(64 << 20)}
    assert container["securityContext"] == {"runAsUser": 10, "runAsGroup": 20, "capabilities": {"drop": ["ALL"]}}
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == ("web", "None")
    assert [one["kind"] for one in service_objects(found, "once")] == ["Job", "Service"]
    assert [one["kind"] for one in shared_objects(found)] == ["Namespace", "PersistentVolumeClaim", "Secret"]


def test_what_docker_has_for_processes_and_names_becomes_fields_of_the_pod() -> None:
    text = """
services:
  web:
    image: x
    command: [echo, "$$$$ $$(A)"]
    networks: {back: {aliases: [www, api]}}
    dns: 10.0.0.1
    dns_search: [x.y]
    dns_opt: ["ndots:2", debug]
    group_add: [5, "6"]
    sysctls: {net.core.somaxconn: 1024}
    pid: host
    shm_size: 8m
    init: true
    security_opt: ["no-new-privileges:true", "seccomp:unconfined"]
    stop_signal: SIGINT
networks: {back: {}}
"""
    found = loads(text, name="p", source="compose.yaml")
    workload, *services = service_objects(found, "web")
    assert [one["metadata"]["name"] for one in services] == ["web", "www", "api"]
    spec = workload["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["args"] == ["echo", "$$$ $$(A)"]  # the agent makes "$$ $(A)" of it
    options = [{"name": "ndots", "value": "2"}, {"name": "debug"}]
    assert (spec["dnsPolicy"], spec["dnsConfig"]) == (
        "None", {"nameservers": ["10.0.0.1"], "searches": ["x.y"], "options": options},
    )  # fmt: skip
    sysctls = [{"name": "net.core.somaxconn", "value": "1024"}]
    assert spec["securityContext"] == {"supplementalGroups": [5, 6], "sysctls": sysctls}
    assert (spec["hostPID"], spec["shareProcessNamespace"]) == (True, True)
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "seccompProfile": {"type": "Unconfined"}}
    assert container["lifecycle"] == {"stopSignal": "SIGINT"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(8 << 20)}} in spec["volumes"]
    for wrong in ("pid: 'container:x'", "group_add: [docker]", "security_opt: ['apparmor:mine']"):
        refused = loads(f"services: {{web: {{image: x, {wrong}}}}}", name="p", source="compose.yaml")
        with pytest.raises(ComposeError):
            service_objects(refused, "web")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services:\n  a:\n    image: x\n    depends_on: [b]\n", 'compose.yaml:4:18: service "a" depends on undefined service "b"'),
        ("services:\n  a:\n    image: x\n    volumes: [data:/x]\n", 'compose.yaml:4:15: service "a" refers to undefined volume data'),
        ("services:\n  a:\n    image: x\n    networks: {n: {}}\n", 'compose.yaml:4:16: service "a" refers to undefined network n'),
        ("services:\n  a:\n    image: x\n    secrets: [s]\n", 'compose.yaml:4:15: service "a" refers to undefined secret s'),
        ("services:\n  b: {image: x}\n  a: {image: x, user: me}\n", "compose.yaml:3:3: services.a: user me"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_line_and_column(text: str, said: str) -> None:
    def all_of_it() -> None:
        project = loads(text, name="p", source="compose.yaml")
        for name in project.services:
            service_objects(project, name)

    with pytest.raises(ComposeError, match=re.escape(said)):
        all_of_it()


def test_a_project_without_files_sees_neither_files_nor_variables_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HERE", "secret")
    text = """
services:
  web:
    image: "x:${HERE:-none}"
    environment: [HERE, A=b]
    ports: ["80", "8080:81"]
"""
    found = loads(text, name="p", source="compose.yaml")
    container = service_objects(found, "web")[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "x:none"
    assert container["env"] == [{"name": "A", "value": "b"}]
    assert [one.get("hostPort") for one in container["ports"]] == [None, 8080]
    for more in ("env_file: a", "volumes: ['./a:/a']", "volumes: ['/etc:/a']"):
        refused = loads(f"services: {{web: {{image: x, {more}}}}}", name="p", source="compose.yaml")
        with pytest.raises(ComposeError, match="can't refer to files"):
            service_objects(refused, "web")
    with pytest.raises(ComposeError, match="can't refer to files"):
        loads("services: {web: {extends: {file: a, service: b}}}", name="p", source="compose.yaml")
    with pytest.raises(ComposeError, match="^compose.yaml:1:26: .*'comand'"):
        loads("services: {w: {image: x, comand: y}}", name="p", source="compose.yaml")
