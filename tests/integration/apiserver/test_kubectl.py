"""The real kubectl against our server."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from apiserver.app import APIServer
from tests.integration.apiserver.conftest import Kubectl
from tests.support.server import kubeconfig_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "web:1"}]}
"""


async def test_apply_creates_then_finds_nothing_to_do_then_changes(kubectl: Kubectl) -> None:
    assert (await kubectl("apply", "-f", "-", stdin=MANIFEST))[1] == "deployment.apps/web created\n"
    assert (await kubectl("apply", "-f", "-", stdin=MANIFEST))[1] == "deployment.apps/web unchanged\n"
    changed = MANIFEST.replace("replicas: 2", "replicas: 3")
    assert (await kubectl("apply", "-f", "-", stdin=changed))[1] == "deployment.apps/web configured\n"
    out = (await kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"))[1]
    assert out == "3"


async def test_get_prints_the_columns_users_know(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    lines = (await kubectl("get", "deployments", "-o", "wide"))[1].splitlines()
    assert lines[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert lines[1].split()[:4] == ["web", "0/2", "0", "0"]
    everything = (await kubectl("get", "all,cm", "-A"))[1]
    assert "service/kubernetes" in everything


async def test_scale_and_patch_and_label_and_delete(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert (await kubectl("scale", "deploy/web", "--replicas=5"))[1] == "deployment.apps/web scaled\n"
    assert (await kubectl("label", "deploy", "web", "a=b"))[1] == "deployment.apps/web labeled\n"
    assert (await kubectl("set", "image", "deploy/web", "c=web:2"))[1] == "deployment.apps/web image updated\n"
    found = json.loads((await kubectl("get", "deploy", "web", "-o", "json"))[1])
    assert (found["spec"]["replicas"], found["metadata"]["labels"]) == (5, {"a": "b"})
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "web:2"
    assert (await kubectl("delete", "deploy", "web"))[1] == 'deployment.apps "web" deleted\n'
    code, _, problem = await kubectl("get", "deploy", "web")
    assert (code, problem) == (1, 'Error from server (NotFound): deployments.apps "web" not found\n')


async def test_mistakes_are_told_in_the_words_users_know(kubectl: Kubectl) -> None:
    bad = MANIFEST.replace('image: "web:1"', "imag: x")
    code, _, problem = await kubectl("apply", "-f", "-", stdin=bad)
    assert code == 1
    assert 'unknown field "spec.template.spec.containers[0].imag"' in problem
    code, _, problem = await kubectl(
        "apply", "--validate=false", "-f", "-", stdin=MANIFEST.replace("app: web}}\n    spec", "app: x}}\n    spec")
    )
    assert code == 1
    assert 'The Deployment "web" is invalid' in problem
    assert (await kubectl("get", "nonsense"))[2] == 'error: the server doesn\'t have a resource type "nonsense"\n'


async def test_explain_and_api_resources_read_the_schemas(kubectl: Kubectl) -> None:
    assert "FIELD: image <string>" in (await kubectl("explain", "pod.spec.containers.image"))[1]
    listed = (await kubectl("api-resources", "-o", "name"))[1].split()
    assert {"pods", "deployments.apps", "leases.coordination.k8s.io", "roles.rbac.authorization.k8s.io"} <= set(listed)


async def test_describe_tells_of_a_deployment(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    out = (await kubectl("describe", "deploy", "web"))[1]
    assert "Replicas:               2 desired | 0 updated | 0 total" in out


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["create", "configmap", "a", "--from-literal=k=v"], "cm/a {.data}", '{"k":"v"}'),
        (["create", "secret", "generic", "a", "--from-literal=k=v"], "secret/a {.data.k}", "dg=="),
        (["create", "serviceaccount", "a"], "sa/a {.metadata.name}", "a"),
        (["create", "namespace", "a"], "ns/a {.status.phase}", "Active"),
        (["create", "deployment", "a", "--image=web:1", "--replicas=3", "--port=80"],
         "deploy/a {.spec.replicas}{.spec.template.spec.containers[0].ports[0].containerPort}{.spec.strategy.type}",
         "380RollingUpdate"),
        (["create", "service", "nodeport", "a", "--tcp=80:8080"], "svc/a {.spec.ports[0].targetPort}{.spec.type}", "8080NodePort"),
        (["create", "role", "a", "--verb=get,list", "--resource=pods"], "role/a {.rules[0].verbs}", '["get","list"]'),
        (["create", "rolebinding", "a", "--clusterrole=view", "--user=jane"], "rolebinding/a {.subjects[0].name}", "jane"),
        (["create", "clusterrole", "a", "--verb=get", "--non-resource-url=/x"], "clusterrole/a {.rules[0].nonResourceURLs}", '["/x"]'),
        (["run", "a", "--image=web", "--restart=Never", "--env=A=1", "--", "sleep", "1"],
         "pod/a {.spec.containers[0].args}{.spec.containers[0].env[0].value}{.spec.restartPolicy}", '["sleep","1"]1Never'),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else "",
)  # fmt: skip
async def test_typed_commands_send_protobuf_and_are_understood(
    kubectl: Kubectl, arguments: list[str], path: str, value: str
) -> None:
    code, _, problem = await kubectl(*arguments)
    assert (code, problem) == (0, "")
    what, _, template = path.partition(" ")
    assert (await kubectl("get", what, "-o", f"jsonpath={template}"))[1] == value


async def test_reviews_and_evictions_are_understood(kubectl: Kubectl) -> None:
    assert (await kubectl("auth", "can-i", "create", "pods"))[1] == "yes\n"
    assert "system:masters" in (await kubectl("auth", "whoami"))[1]
    await kubectl("run", "a", "--image=web")
    assert (await kubectl("delete", "pod", "a", "--grace-period=0", "--force"))[1] == 'pod "a" force deleted\n'


async def test_explain_tells_all_fields_below_one(kubectl: Kubectl) -> None:
    code, told, problem = await kubectl("explain", "deployment.spec", "--recursive")
    assert (code, problem) == (0, "")
    assert {"template\t<PodTemplateSpec> -required-", "containers\t<[]Container> -required-"} <= {
        line.strip() for line in told.splitlines()
    }
    assert "maxSurge\t<IntOrString>" in told
    assert "GROUP:      autoscaling" in (await kubectl("explain", "hpa", "--api-version=autoscaling/v1"))[1]
    code, _, problem = await kubectl("explain", "deployment.spec.nonsense")
    assert (code, problem) == (1, 'error: field "nonsense" does not exist\n')


async def test_diff_shows_what_apply_would_change(kubectl: Kubectl) -> None:
    assert (await kubectl("diff", "-f", "-", stdin=MANIFEST))[0] == 1  # all of it is new
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert (await kubectl("diff", "-f", "-", stdin=MANIFEST)) == (0, "", "")
    code, told, _ = await kubectl("diff", "-f", "-", stdin=MANIFEST.replace("replicas: 2", "replicas: 4"))
    lines = [line for line in told.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert (code, lines) == (1, ["-  generation: 1", "+  generation: 2", "-  replicas: 2", "+  replicas: 4"])
    assert (await kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"))[1] == "2"


async def test_what_one_may_do_is_listed(kubectl: Kubectl) -> None:
    everything = (await kubectl("auth", "can-i", "--list", "--no-headers"))[1].splitlines()
    assert everything[0].split() == ["*.*", "[]", "[]", "[*]"]
    assert ["[*]", "[]", "[*]"] in [line.split() for line in everything]
    await kubectl("create", "role", "reader", "--verb=get,list", "--resource=configmaps", "--resource-name=one")
    await kubectl("create", "rolebinding", "reads", "--role=reader", "--user=eve")
    hers = (await kubectl("auth", "can-i", "--list", "--as=eve", "--no-headers"))[1].splitlines()
    assert ["configmaps", "[]", "[one]", "[get", "list]"] in [line.split() for line in hers]
    assert not any(line.startswith("*.*") for line in hers)


async def test_proxy_serves_the_server_and_files_to_programs_without_credentials(
    server: APIServer, kubectl: Kubectl, tmp_path: Path
) -> None:
    await kubectl("create", "configmap", "told", "--from-literal=a=b")
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "page.txt").write_text("a page")
    config = kubeconfig_file(tmp_path, server.config)
    arguments = (f"--kubeconfig={config}", "proxy", "--port=0", f"--www={tmp_path / 'static'}")
    process = await asyncio.create_subprocess_exec("kubectl", *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        url = "http://" + said.removeprefix("Starting to serve on ").strip()
        maps = f"{url}/api/v1/namespaces/default/configmaps"
        async with aiohttp.ClientSession(headers={"Connection": "close"}) as session:
            async with session.get(f"{maps}/told") as answer:
                assert (answer.status, (await answer.json())["data"]) == (200, {"a": "b"})
            async with session.post(maps, json={"metadata": {"name": "made"}}) as answer:
                assert (answer.status, (await answer.json())["metadata"]["name"]) == (201, "made")
            async with session.get(f"{url}/static/page.txt") as answer:
                assert await answer.text() == "a page"
            async with session.get(f"{url}/api/v1/namespaces/default/pods/a/exec") as answer:
                assert answer.status == 403  # the proxy itself keeps such paths to itself
            async with session.get(maps, params={"watch": "1", "resourceVersion": "0"}) as answer:
                event = json.loads(await asyncio.wait_for(answer.content.readline(), 20))
                assert event["type"] == "ADDED"
    finally:
        process.terminate()
        await process.wait()
