"""Variables, references and commands of containers.

Source: https://kubernetes.io/docs/tasks/inject-data-application/
"""

from typing import Any

import pytest

from machinery.api.resources import CONFIG_MAPS, SECRETS
from machinery.errors import Invalid
from tests.e2e.conftest import IMAGE
from tests.e2e.pods.conftest import Pods, container_status, shell, waiting

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


def field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def resource(name: str, path: str, divisor: str = "") -> dict[str, Any]:
    reference = {"resource": path} | ({"divisor": divisor} if divisor else {})
    return {"name": name, "valueFrom": {"resourceFieldRef": reference}}


async def test_the_downward_api_tells_fields_and_resources(pods: Pods) -> None:
    env = [
        field("NAME", "metadata.name"), field("SPACE", "metadata.namespace"), field("UID_", "metadata.uid"), field("IP", "status.podIP"),
        field("IPS", "status.podIPs"), field("HOST", "status.hostIP"), field("HOSTS", "status.hostIPs"), field("NODE", "spec.nodeName"), field("SA", "spec.serviceAccountName"),
        field("LABEL", "metadata.labels['app']"), field("NOTE", "metadata.annotations['a/b']"), resource("CPU", "limits.cpu"),
        resource("MILLI", "requests.cpu", "1m"), resource("MEM", "limits.memory", "1Mi"), resource("ALL", "limits.ephemeral-storage"),
    ]  # fmt: skip
    limits = {"cpu": "1250m", "memory": "64Mi"}
    done, text = await pods.run(
        "env", env=env, resources={"limits": limits, "requests": {"cpu": "250m", "memory": "32Mi"}},
        pod={"labels": {"app": "x"}, "annotations": {"a/b": "note"}},
    )  # fmt: skip
    told = dict(line.split("=", 1) for line in text.splitlines())
    status, metadata = done["status"], done["metadata"]
    assert (told["NAME"], told["SPACE"], told["UID_"]) == (metadata["name"], pods.namespace, metadata["uid"])
    assert (told["IP"], told["IPS"], told["HOST"], told["HOSTS"]) == (
        status["podIP"],
        status["podIP"],
        status["hostIP"],
        status["hostIP"],
    )
    assert (told["NODE"], told["SA"], told["LABEL"], told["NOTE"]) == (done["spec"]["nodeName"], "default", "x", "note")
    assert (told["CPU"], told["MILLI"], told["MEM"]) == ("2", "250", "64")
    assert int(told["ALL"]) > 2**30


async def test_variables_come_from_objects_with_prefixes_and_refer_to_each_other(pods: Pods) -> None:
    data = {"GREETING": "hello", "bad key!": "x", "1st": "first"}
    await pods.client.create(
        CONFIG_MAPS,
        {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": "c"},
            "data": {k: v for k, v in data.items() if k != "bad key!"},
        },
        pods.namespace,
    )
    await pods.client.create(
        SECRETS,
        {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "stringData": {"word": "hidden"}},
        pods.namespace,
    )
    env = [
        {"name": "A", "value": "$(C_GREETING) world"}, {"name": "B", "value": "$(A)! $$(A) $(NONE)"},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "word"}}},
        {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": True}}},
    ]  # fmt: skip
    sources = [
        {"prefix": "C_", "configMapRef": {"name": "c"}},
        {"secretRef": {"name": "s"}},
        {"configMapRef": {"name": "none", "optional": True}},
    ]
    pod = await pods.create({"command": ["sh", "-c", "echo '$(B)'; env"], "args": [], "env": env, "envFrom": sources})
    await pods.ended(pod)
    lines = (await pods.logs(pod)).splitlines()
    assert lines[0] == "hello world! $(A) $(NONE)"
    assert {"A=hello world", "B=hello world! $(A) $(NONE)", "S=hidden", "word=hidden", "C_1st=first"} <= set(lines)


async def test_a_reference_that_leads_nowhere_holds_the_container_back(pods: Pods) -> None:
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]
    pod = await pods.create(shell("echo $A", env=env))
    held = await pods.until(pod, lambda one: waiting(one) == "CreateContainerConfigError", "to be held back")
    assert container_status(held)["state"]["waiting"]["message"] == 'configmap "late" not found'
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "late"}, "data": {"k": "came"}}
    await pods.client.create(CONFIG_MAPS, body, pods.namespace)
    await pods.ended(pod, 20)
    assert await pods.logs(pod) == "came\n"


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"command": ["/no/such/program"]}, "StartError"), ({"image": "nowhere.invalid/x:1", "imagePullPolicy": "Never"}, "ErrImageNeverPull"),
    ],
)  # fmt: skip
async def test_what_cannot_be_started_says_why(pods: Pods, container: dict[str, Any], reason: str) -> None:
    pod = await pods.create(container)

    def told(one: Any) -> bool:
        state = container_status(one).get("state") or {}
        return any(state.get(kind, {}).get("reason") == reason for kind in ("waiting", "terminated"))

    await pods.until(pod, told, reason)


async def test_a_path_by_variables_waits_until_they_can_be_told(pods: Pods) -> None:
    env = [{"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['where']"}}}]
    mounts = [{"name": "v", "mountPath": "/v", "subPathExpr": "$(WHERE)/$(NONE)"}]
    pod = await pods.create(shell("true", env=env, volumeMounts=mounts), volumes=[{"name": "v", "emptyDir": {}}])
    held = await pods.until(pod, lambda one: waiting(one) == "CreateContainerConfigError", "to be held back")
    assert "missing value for 'NONE'" in container_status(held)["state"]["waiting"]["message"]
    mounts[0]["subPathExpr"] = "$(WHERE)"
    late = await pods.create(
        shell("true", env=env, volumeMounts=mounts), volumes=[{"name": "v", "emptyDir": {}}], annotations={"where": ".."}
    )  # fmt: skip
    await pods.until(late, lambda one: waiting(one) == "CreateContainerConfigError", "to be held back")
    await pods.patch(late, {"metadata": {"annotations": {"where": "inside"}}})
    assert (await pods.ended(late, 40))["status"]["phase"] == "Succeeded"


async def test_variables_come_from_a_file_that_an_init_container_wrote(pods: Pods) -> None:
    mounts = [{"name": "config", "mountPath": "/data"}]
    script = "echo \"A='one'\" > /data/c.env; echo \"B='two'\" >> /data/c.env"
    init = {"name": "writes", "image": IMAGE, "imagePullPolicy": "IfNotPresent", **shell(script, volumeMounts=mounts)}
    volumes = [{"name": "config", "emptyDir": {}}, {"name": "other", "configMap": {"name": "x", "optional": True}}]

    def reference(name: str, volume: str = "config", **more: Any) -> dict[str, Any]:
        body = {"volumeName": volume, "path": "c.env", "key": name, **more}
        return {"name": name, "valueFrom": {"fileKeyRef": body}}

    env = [reference("A"), reference("B"), reference("C", optional=True)]
    pod = {"initContainers": [init], "volumes": volumes}
    _, text = await pods.run("echo $A $B ${C-unset}", env=env, pod=pod)
    assert text == "one two unset\n"
    held = await pods.create(shell("true", env=[reference("C")]), **pod)
    await pods.until(held, lambda one: waiting(one) == "CreateContainerConfigError", "to be held back")
    for volume, why in (("none", "Not found"), ("other", "must be of type emptyDir")):
        with pytest.raises(Invalid, match=why):
            await pods.create(shell("true", env=[reference("A", volume)]), **pod)


async def test_an_image_name_that_is_none_is_told_as_such(pods: Pods) -> None:
    pod = await pods.create({"image": "Not/An:Image:Name", **shell("true")})
    await pods.until(pod, lambda one: waiting(one) == "InvalidImageName", "to be held back")
