"""ValidatingAdmissionPolicies: rules in CEL, their bindings and parameters."""

from pathlib import Path
from typing import Any

import pytest

from apiserver.app import APIServer
from machinery import errors
from machinery.api.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    ROLE_BINDINGS,
    ROLES,
    VALIDATING_POLICIES,
    VALIDATING_POLICY_BINDINGS,
    VALIDATING_WEBHOOKS,
)
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl
from tests.support.server import client_config

RULE = {"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}


def deployment(replicas: int) -> dict[str, Any]:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


async def policy(client: Client, *validations: dict[str, Any], **spec: Any) -> None:
    full = {"matchConstraints": {"resourceRules": [RULE]}, "validations": list(validations), **spec}
    await client.create(VALIDATING_POLICIES, {"metadata": {"name": "few"}, "spec": full})


async def bind(client: Client, *actions: str, **spec: Any) -> None:
    full = {"policyName": "few", "validationActions": list(actions or ("Deny",)), **spec}
    await client.create(VALIDATING_POLICY_BINDINGS, {"metadata": {"name": "here"}, "spec": full})


async def test_a_rule_that_fails_denies_and_one_without_binding_does_nothing(client: Client) -> None:
    await policy(client, {"expression": "object.spec.replicas <= 5"})
    await client.create(DEPLOYMENTS, deployment(9), "default")
    await client.delete(DEPLOYMENTS, "web", "default")
    await bind(client)
    with pytest.raises(errors.Invalid) as caught:
        await client.create(DEPLOYMENTS, deployment(9), "default")
    assert str(caught.value) == (
        "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'here' denied request: "
        "failed expression: object.spec.replicas <= 5"
    )
    await client.create(DEPLOYMENTS, deployment(5), "default")
    with pytest.raises(errors.Invalid, match="denied request"):
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 6}}, "default")


async def test_messages_variables_and_parameters(client: Client) -> None:
    check = {
        "expression": "variables.asked <= variables.most", "reason": "Forbidden",
        "messageExpression": "'at most ' + string(variables.most) + ' replicas'",
    }  # fmt: skip
    variables = [
        {"name": "asked", "expression": "object.spec.replicas"}, {"name": "most", "expression": "int(params.data.most)"},
    ]  # fmt: skip
    await policy(client, check, variables=variables, paramKind={"apiVersion": "v1", "kind": "ConfigMap"})
    await bind(client, paramRef={"name": "limit", "namespace": "default", "parameterNotFoundAction": "Deny"})
    with pytest.raises(errors.Invalid, match="no params found for policy binding"):
        await client.create(DEPLOYMENTS, deployment(1), "default")
    await client.create(CONFIG_MAPS, {"metadata": {"name": "limit"}, "data": {"most": "3"}}, "default")
    await client.create(DEPLOYMENTS, deployment(3), "default")
    with pytest.raises(errors.Forbidden, match="denied request: at most 3 replicas"):
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 4}}, "default")


async def test_a_rule_that_breaks_follows_the_failure_policy(client: Client) -> None:
    await policy(client, {"expression": "object.spec.nothing.here == 1"}, failurePolicy="Ignore")
    await bind(client)
    await client.create(DEPLOYMENTS, deployment(1), "default")
    await client.patch(VALIDATING_POLICIES, "few", {"spec": {"failurePolicy": "Fail"}})
    with pytest.raises(errors.Invalid, match="resulted in error"):
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 2}}, "default")


@pytest.mark.slow
async def test_kubectl_prints_the_warning(client: Client, kubectl: Kubectl) -> None:
    await policy(client, {"expression": "object.spec.replicas <= 5", "message": "too many"})
    await bind(client, "Warn", "Audit")
    code, _, problem = await kubectl("create", "deployment", "web", "--image=i", "--replicas=9")
    assert code == 0
    assert problem == "Warning: Validation failed for ValidatingAdmissionPolicy 'few' with binding 'here': too many\n"


async def test_a_rule_may_ask_what_its_user_may_do(client: Client, server: APIServer, tmp_path: Path) -> None:
    """As a webhook's condition may; for the user, for an account, for what the request is about."""
    pods = "authorizer.group('').resource('pods').namespace('default')"
    rules = [
        f"{pods}.check('list').allowed()", f"!{pods}.name('x').subresource('exec').check('create').allowed()",
        "authorizer.requestResource.check('create').allowed()", "!authorizer.path('/healthz/secret').check('get').allowed()",
        "!authorizer.serviceAccount('default', 'default').group('apps').resource('deployments').check('delete').allowed()",
        f"{pods}.check('list').reason() == '' && !{pods}.check('list').errored()",
    ]  # fmt: skip
    await policy(client, *({"expression": rule} for rule in rules))
    await bind(client)
    verbs = (
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    )
    await client.create(ROLES, {"metadata": {"name": "r"}, "rules": list(verbs)}, "default")
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]
    await client.create(ROLE_BINDINGS, {"metadata": {"name": "b"}, "roleRef": role, "subjects": subjects}, "default")
    async with Client(client_config(tmp_path, server.config, user="bob", groups=())) as bob:
        await bob.create(DEPLOYMENTS, deployment(1), "default")
    with pytest.raises(errors.Invalid, match="failed expression: !authorizer.group"):
        await client.create(DEPLOYMENTS, {**deployment(1), "metadata": {"name": "other"}}, "default")
    asks = [{"name": "may", "expression": "authorizer.nothing('x')"}]
    hook = {
        "name": "a.b.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "matchConditions": asks,
    }
    with pytest.raises(errors.Invalid, match="undeclared reference to 'nothing'"):
        await client.create(VALIDATING_WEBHOOKS, {"metadata": {"name": "h"}, "webhooks": [hook]})
