"""Custom resources through a real server, with the real kubectl."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.integration.apiserver.conftest import Kubectl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [cronSpec]
            properties:
              cronSpec: {type: string, pattern: '^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$', description: "When it runs."}
              image: {type: string}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
              policy: {type: string, enum: [Allow, Forbid]}
          status: {type: object, properties: {replicas: {type: integer}, labelSelector: {type: string}}}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
"""
INSTANCE = """
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: nightly}
spec: {cronSpec: "0 3 * * *", image: jobs}
"""


async def define(kubectl: Kubectl, definition: str = DEFINITION) -> None:
    code, _, problem = await kubectl("apply", "-f", "-", stdin=definition)
    assert (code, problem) == (0, "")
    assert (await kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=5s"))[0] == 0


async def test_instances_are_kept_as_any_object_is(kubectl: Kubectl) -> None:
    await define(kubectl)
    assert (await kubectl("apply", "-f", "-", stdin=INSTANCE)) == (
        0,
        "crontab.stable.example.com/nightly created\n",
        "",
    )
    assert (await kubectl("apply", "-f", "-", stdin=INSTANCE))[1] == "crontab.stable.example.com/nightly unchanged\n"
    lines = (await kubectl("get", "ct", "-o", "wide"))[1].splitlines()
    assert [lines[0].split(), lines[1].split()[:-1]] == [
        ["NAME", "SPEC", "REPLICAS", "AGE"], ["nightly", "0", "3", "*", "*", "*", "1"],
    ]  # fmt: skip
    changed = INSTANCE.replace("image: jobs", "image: jobs, replicas: 4")
    assert (await kubectl("apply", "-f", "-", stdin=changed))[1] == "crontab.stable.example.com/nightly configured\n"
    found = json.loads((await kubectl("get", "crontab", "nightly", "-o", "json"))[1])
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (4, 2)
    assert "nightly" in (await kubectl("get", "all"))[1]
    assert (await kubectl("scale", "ct/nightly", "--replicas=7"))[1] == "crontab.stable.example.com/nightly scaled\n"
    assert (await kubectl("get", "ct", "nightly", "-o", "jsonpath={.spec.replicas}"))[1] == "7"
    assert (await kubectl("delete", "ct", "nightly"))[1] == 'crontab.stable.example.com "nightly" deleted\n'


async def test_explain_reads_the_schema_of_a_definition(kubectl: Kubectl) -> None:
    await define(kubectl)
    out = (await kubectl("explain", "crontab.spec"))[1]
    assert "When it runs." in out
    assert "GROUP:      stable.example.com" in out


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("replicas: 11", "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10"),
        (
            "replicas: lots",
            'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"',
        ),
        ("policy: Maybe", 'spec.policy: Unsupported value: "Maybe": supported values: "Allow", "Forbid"'),
    ],
)
async def test_what_breaks_the_schema_is_refused_in_the_words_users_know(
    kubectl: Kubectl, change: str, problem: str
) -> None:
    await define(kubectl)
    code, _, told = await kubectl("create", "-f", "-", stdin=INSTANCE.replace("image: jobs", change))
    assert (code, told) == (1, f'The CronTab "nightly" is invalid: {problem}\n')


async def test_unknown_fields_are_refused_or_dropped_as_the_client_asks(kubectl: Kubectl) -> None:
    await define(kubectl)
    odd = INSTANCE.replace("image: jobs", "imag: jobs")
    code, _, told = await kubectl("create", "-f", "-", stdin=odd)
    assert code == 1
    assert 'strict decoding error: unknown field "spec.imag"' in told
    code, _, told = await kubectl("create", "--validate=warn", "-f", "-", stdin=odd)
    assert (code, told) == (0, 'Warning: unknown field "spec.imag"\n')
    assert (await kubectl("get", "ct", "nightly", "-o", "jsonpath={.spec}"))[
        1
    ] == '{"cronSpec":"0 3 * * *","replicas":1}'


async def test_deleting_a_definition_takes_its_instances_along(kubectl: Kubectl) -> None:
    await define(kubectl)
    await kubectl("apply", "-f", "-", stdin=INSTANCE)
    assert (await kubectl("delete", "crd", "crontabs.stable.example.com", "--timeout=10s"))[0] == 0
    assert (await kubectl("api-resources", "--api-group=stable.example.com", "-o", "name"))[1] == ""
    await define(kubectl)
    assert (await kubectl("get", "ct"))[2] == "No resources found in default namespace.\n"


def with_rules(*rules: str) -> str:
    """Return the definition with rules at its spec."""
    listed = "".join(f"            - {rule}\n" for rule in rules)
    return DEFINITION.replace(
        "            required: [cronSpec]\n",
        f"            required: [cronSpec]\n            x-kubernetes-validations:\n{listed}",
    )


async def test_rules_in_cel_hold_for_new_and_changed_objects(kubectl: Kubectl) -> None:
    await define(
        kubectl,
        with_rules(
            "{rule: 'self.replicas < 5', message: too many}",
            "{rule: 'self.replicas >= oldSelf.replicas', messageExpression: '\"not below \" + string(oldSelf.replicas)', fieldPath: .replicas, reason: FieldValueForbidden}",
            "{rule: '!oldSelf.hasValue() || has(self.image)', optionalOldSelf: true, message: image must stay}",
            '{rule: \'!has(self.image) || self.image.find("^[a-z]+") != ""\'}',
        ),
    )
    code, _, told = await kubectl("create", "-f", "-", stdin=INSTANCE.replace("jobs", "jobs, replicas: 6"))
    assert (code, told) == (1, 'The CronTab "nightly" is invalid: spec: Invalid value: "object": too many\n')
    code, _, told = await kubectl("create", "-f", "-", stdin=INSTANCE.replace("jobs", '"9"'))
    assert told.startswith(
        'The CronTab "nightly" is invalid: spec: Invalid value: "object": failed rule: !has(self.image)'
    )
    assert (await kubectl("create", "-f", "-", stdin=INSTANCE.replace("jobs", "jobs, replicas: 3")))[0] == 0
    told = (await kubectl("scale", "ct/nightly", "--replicas=2"))[2]
    assert "spec.replicas: Forbidden: not below 3" in told
    told = (await kubectl("patch", "ct", "nightly", "--type=json", "-p", '[{"op":"remove","path":"/spec/image"}]'))[2]
    assert 'spec: Invalid value: "object": image must stay' in told


async def test_definitions_that_make_no_sense_are_refused(kubectl: Kubectl) -> None:
    cases = {
        "metadata: {name: crontabs": "metadata: {name: other",
        "storage: true": "storage: false",
        "image: {type: string}": "image: {}",
        "status: {type: object": "status: {type: strange",
    }
    expected = (
        'metadata.name: Invalid value: "others.stable.example.com": must be spec.names.plural+"."+spec.group',
        "must have exactly one version marked as storage version",
        "spec.validation.openAPIV3Schema.properties[spec].properties[image].type: Required value: must not be empty for specified object fields",
        'properties[status].type: Unsupported value: "strange"',
    )
    for (old, new), problem in zip(cases.items(), expected, strict=True):
        text = DEFINITION.replace(old, new.replace("other", "others"))
        assert problem in (await kubectl("create", "-f", "-", stdin=text))[2]
    bad = with_rules("{rule: 'self.replicas <'}")
    assert "compilation failed: ERROR: <input>:1:" in (await kubectl("create", "-f", "-", stdin=bad))[2]


OPERATOR = """
import kopf

@kopf.on.create("stable.example.com", "v1", "crontabs")
def made(spec, patch, **_):
    patch.status["replicas"] = spec["replicas"]

@kopf.on.update("stable.example.com", "v1", "crontabs", field="spec.replicas")
def scaled(new, patch, **_):
    patch.status["replicas"] = new

@kopf.on.delete("stable.example.com", "v1", "crontabs")
def gone(**_):
    pass
"""


async def test_an_operator_written_with_kopf_looks_after_custom_resources(kubectl: Kubectl, tmp_path: Path) -> None:
    await define(kubectl)
    script = tmp_path / "operator_under_test.py"
    script.write_text(OPERATOR)
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig"), "HOME": str(tmp_path)}
    operator = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kopf", "run", "--standalone", "-n", "default", str(script), env=environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await kubectl("apply", "-f", "-", stdin=INSTANCE.replace("jobs", "jobs, replicas: 2"))
        waiting = ("wait", "ct/nightly", "--timeout=20s")
        assert (await kubectl(*waiting, "--for=jsonpath={.status.replicas}=2"))[0] == 0
        await kubectl("scale", "ct/nightly", "--replicas=4")
        assert (await kubectl(*waiting, "--for=jsonpath={.status.replicas}=4"))[0] == 0
        assert (await kubectl("delete", "ct", "nightly", "--timeout=20s"))[0] == 0
    finally:
        operator.terminate()
        await operator.wait()


async def test_users_of_a_deprecated_version_are_warned(kubectl: Kubectl) -> None:
    await define(kubectl, DEFINITION.replace("    storage: true\n", "    storage: true\n    deprecated: true\n"))
    told = "Warning: stable.example.com/v1 CronTab is deprecated\n"
    assert (await kubectl("create", "-f", "-", stdin=INSTANCE)) == (
        0,
        "crontab.stable.example.com/nightly created\n",
        told,
    )
    assert told in (await kubectl("get", "ct"))[2]


@pytest.mark.parametrize(
    "broken", ["{type: array, items: {properties: 5}}", "{type: object, additionalProperties: {type: 7}}"]
)
async def test_a_malformed_schema_is_a_bad_request(kubectl: Kubectl, broken: str) -> None:
    text = DEFINITION.replace("image: {type: string}", f"image: {broken}")
    code, _, told = await kubectl("create", "--validate=false", "-f", "-", stdin=text)
    assert code == 1
    assert "cannot be handled as a CustomResourceDefinition: json: cannot unmarshal number" in told
