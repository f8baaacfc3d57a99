"""The real kubectl against our server."""

import json

import pytest

from tests.integration.apiserver.conftest import Kubectl

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
