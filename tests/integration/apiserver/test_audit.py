"""The audit log: who asked what, as a policy says.

https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/
"""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from apiserver.app import serving
from apiserver.audit.auditor import AuditSettings
from apiserver.audit.policy import AuditPolicy, PolicyError
from apiserver.audit.sinks import LogFile
from apiserver.storage.sqlite import SQLiteStore
from machinery import errors
from machinery.api.resources import (
    CONFIG_MAPS,
    MUTATING_WEBHOOKS,
    PODS,
    ROLE_BINDINGS,
    SECRETS,
    VALIDATING_POLICIES,
    VALIDATING_POLICY_BINDINGS,
    VALIDATING_WEBHOOKS,
)
from machinery.client.rest import Client
from tests.integration.apiserver.test_webhooks import Hook, hook, patch
from tests.support.server import client_config, server_config

__all__ = ["hook"]  # a fixture

RULES: list[dict[str, Any]] = [
    {"level": "None", "users": ["nobody"]},
    {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
    {"level": "RequestResponse", "verbs": ["create"], "omitManagedFields": True, "resources": [{"group": "", "resources": ["configmaps"]}]},
    {"level": "Request", "verbs": ["patch"], "resources": [{"group": "", "resources": ["configmaps"], "resourceNames": ["a"]}]},
    {"level": "Metadata", "verbs": ["watch"], "resources": [{"group": ""}]},
    {"level": "Metadata", "verbs": ["list"], "namespaces": ["kube-public"]},
    {"level": "Metadata", "nonResourceURLs": ["/version*"]},
]  # fmt: skip


def policy(rules: list[dict[str, Any]] = RULES, **more: Any) -> AuditPolicy:
    return AuditPolicy({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules, **more})


@contextlib.asynccontextmanager
async def audited(folder: Path, **settings: Any) -> AsyncIterator[tuple[Client, Any]]:
    audit = AuditSettings(
        **{"policy": policy(omitStages=["RequestReceived"]), "log_path": str(folder / "audit.log"), **settings}
    )
    config = dataclasses.replace(server_config(folder), audit=audit)
    store = SQLiteStore(folder / "store.sqlite")
    try:
        async with serving(store, config, sole_writer=True) as server, Client(client_config(folder, config)) as client:
            await server.health.bootstrapped.wait()
            yield client, config
    finally:
        await store.close()


def events(folder: Path) -> list[dict[str, Any]]:
    """Return what was noted; the server has ended."""
    return [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]


async def test_each_level_notes_what_it_should(tmp_path: Path) -> None:
    async with audited(tmp_path) as (client, config):
        await client.create(SECRETS, {"metadata": {"name": "s"}, "stringData": {"k": "hidden"}}, "default")
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"k": "v"}}, "default")
        await client.patch(CONFIG_MAPS, "a", {"data": {"k": "w"}}, "default")
        await client.list(PODS, "default")
        await client.request("GET", "/version")
        async with Client(client_config(tmp_path, config, user="bob", groups=())) as bob:
            with pytest.raises(errors.Forbidden):
                await bob.list(PODS, "kube-public")
        async with Client(client_config(tmp_path, config, user="nobody", groups=())) as nobody:
            with pytest.raises(errors.Forbidden):
                await nobody.list(SECRETS)
        await client.request(
            "GET",
            "/api/v1/namespaces/kube-public/pods",
            headers={"Impersonate-User": "ann", "Impersonate-Group": "system:masters"},
        )
    secret, made, patched, version, refused, other = events(tmp_path)
    assert "hidden" not in (tmp_path / "audit.log").read_text()
    assert (secret["level"], secret["stage"], secret["verb"]) == ("Metadata", "ResponseComplete", "create")
    assert secret["objectRef"] == {"resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1"}
    assert (secret["user"]["username"], secret["sourceIPs"]) == ("admin", ["127.0.0.1"])
    assert secret["responseStatus"]["code"] == 201
    assert secret["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert made["requestObject"]["data"] == {"k": "v"}
    assert made["responseObject"]["metadata"]["name"] == "a"
    assert "managedFields" not in made["responseObject"]["metadata"]
    assert patched["requestObject"] == {"data": {"k": "w"}}
    assert "responseObject" not in patched
    assert (version["requestURI"], version["verb"]) == ("/version", "get")
    assert refused["responseStatus"]["reason"] == "Forbidden"
    assert refused["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert (other["user"]["username"], other["impersonatedUser"]["username"]) == ("admin", "ann")


async def test_stages_tell_when_a_watch_begins_and_ends(tmp_path: Path) -> None:
    async with audited(tmp_path, policy=policy()) as (client, _):
        await client.request("GET", "/api/v1/namespaces/default/pods", params={"watch": "1", "timeoutSeconds": "1"})
    stages = [(one["stage"], one["auditID"]) for one in events(tmp_path) if one["verb"] == "watch"]
    assert [stage for stage, _ in stages] == ["RequestReceived", "ResponseStarted", "ResponseComplete"]
    assert len({audit_id for _, audit_id in stages}) == 1


def test_a_full_file_is_put_aside_and_old_ones_go(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "audit.log"), max_megabytes=1, max_backups=2)
    for _ in range(5):
        file.write(b"x" * 700_000 + b"\n")
    backups = sorted(tmp_path.glob("audit-*.log"))
    assert len(backups) <= 2
    assert (tmp_path / "audit.log").stat().st_size == 700_001
    assert (tmp_path / "audit.log").stat().st_mode & 0o77 == 0


async def test_a_webhook_gets_events_in_batches(tmp_path: Path) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def take(request: web.BaseRequest) -> web.Response:
        got.put_nowait(orjson.loads(await request.read()))
        return web.Response()

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        path = tmp_path / "webhook.yaml"
        path.write_text(json.dumps({
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}/"}}], "users": [],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": ""}}], "current-context": "x",
        }))  # fmt: skip
        settings = {"log_path": "", "webhook_file": path, "webhook_max_batch": 2, "webhook_max_wait_seconds": 60}
        async with audited(tmp_path, **settings) as (client, _):
            for _ in range(2):
                await client.request("GET", "/version")
            async with asyncio.timeout(5):
                batch = await got.get()
    finally:
        await runner.cleanup()
    assert (batch["kind"], batch["apiVersion"], len(batch["items"])) == ("EventList", "audit.k8s.io/v1", 2)


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [{"level": "Some"}],
        [{"level": "None", "nonResourceURLs": ["/a*b"]}],
        [{"level": "None", "omitStages": ["End"]}],
    ],
)
def test_a_policy_without_sense_is_refused(rules: list[dict[str, Any]]) -> None:
    with pytest.raises(PolicyError):
        policy(rules)


async def test_policies_tell_the_log_what_they_want_told(tmp_path: Path) -> None:
    """Though requests are noted by their metadata alone."""
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]}, "variables": [{"name": "size", "expression": "size(object.data)"}],
        "validations": [{"expression": "true"}, {"expression": "variables.size < 2", "message": "many"}],
        "auditAnnotations": [
            {"key": "size", "valueExpression": "'holds ' + string(variables.size)"},
            {"key": "quiet", "valueExpression": "variables.size > 5 ? 'much' : ''"},
        ],
    }  # fmt: skip
    levels = policy(
        [{"level": "Metadata", "resources": [{"group": "", "resources": ["configmaps"]}]}],
        omitStages=["RequestReceived"],
    )
    async with audited(tmp_path, policy=levels) as (client, _):
        await client.create(VALIDATING_POLICIES, {"metadata": {"name": "few"}, "spec": spec})
        bound = {"policyName": "few", "validationActions": ["Audit"]}
        await client.create(VALIDATING_POLICY_BINDINGS, {"metadata": {"name": "here"}, "spec": bound})
        await client.list(VALIDATING_POLICY_BINDINGS)  # admission looks into the cache, which a list waits for
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"k": "v", "l": "w"}}, "default")
    (made,) = events(tmp_path)
    told = {name: value for name, value in made["annotations"].items() if not name.startswith("authorization")}
    failure = json.loads(told.pop("validation.policy.admission.k8s.io/validation_failure"))
    assert told == {"few/size": "holds 2"}
    assert failure == [
        {"message": "many", "policy": "few", "binding": "here", "expressionIndex": 1, "validationActions": ["Audit"]}
    ]
    assert "requestObject" not in made


@pytest.mark.parametrize("level", ["Metadata", "Request"])
async def test_webhooks_are_noted_with_what_they_changed_and_that_they_failed(
    tmp_path: Path, hook: Hook, level: str
) -> None:
    """https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#mutating-webhook-auditing-annotations"""
    folder = tmp_path / "audited"
    folder.mkdir()
    operation = {"op": "add", "path": "/data/added", "value": "yes"}
    hook.answer = lambda request: {"allowed": True} if "added" in request["object"]["data"] else patch(operation)
    levels = policy(
        [{"level": level, "resources": [{"group": "", "resources": ["configmaps"]}]}], omitStages=["RequestReceived"]
    )
    gone = {"clientConfig": {"url": "https://127.0.0.1:1/"}, "failurePolicy": "Ignore"}
    async with audited(folder, policy=levels) as (client, _):
        await client.create(MUTATING_WEBHOOKS, hook.registration("a", reinvocationPolicy="IfNeeded"))
        await client.create(MUTATING_WEBHOOKS, hook.registration("b", **gone))
        await client.create(MUTATING_WEBHOOKS, hook.registration("c"))
        await client.create(VALIDATING_WEBHOOKS, hook.registration("d", **gone))
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"k": "v"}}, "default")
    (made,) = events(folder)
    told = {name: value for name, value in made["annotations"].items() if not name.startswith("authorization")}
    assert told.pop("failed-open.mutation.webhook.admission.k8s.io/round_0_index_1") == "b.hook.example.com"
    assert told.pop("failed-open.validating.webhook.admission.k8s.io/round_0_index_0") == "d.hook.example.com"
    patched = told.pop("patch.webhook.admission.k8s.io/round_0_index_0", None)
    assert (patched is None) == (level == "Metadata")
    if patched is not None:
        assert json.loads(patched) == {
            "configuration": "a", "webhook": "a.hook.example.com", "patch": [operation], "patchType": "JSONPatch",
        }  # fmt: skip
    changed = {name: json.loads(value) for name, value in told.items()}
    assert changed == {
        f"mutation.webhook.admission.k8s.io/round_0_index_{index}": {
            "configuration": name, "webhook": f"{name}.hook.example.com", "mutated": name == "a",
        }
        for index, name in enumerate("abc")
    }  # fmt: skip


async def test_the_log_tells_which_binding_allowed_a_request(tmp_path: Path) -> None:
    levels = policy([{"level": "Metadata", "users": ["bob"]}], omitStages=["RequestReceived"])
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "User", "name": "bob", "apiGroup": rbac}
    bound = {"roleRef": {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": rbac}, "subjects": [subject]}
    async with audited(tmp_path, policy=levels) as (client, config):
        await client.create(ROLE_BINDINGS, {"metadata": {"name": "look"}, **bound}, "default")
        async with Client(client_config(tmp_path, config, user="bob", groups=())) as bob:
            await bob.list(PODS, "default")
        asked = {"user": "bob", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}
        body = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": asked}
        answer = await client.request(
            "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=orjson.dumps(body)
        )
    told = 'RBAC: allowed by RoleBinding "look/default" of ClusterRole "cluster-admin" to User "bob"'
    assert [one["annotations"]["authorization.k8s.io/reason"] for one in events(tmp_path)] == [told]
    assert json.loads(answer)["status"] == {"allowed": True, "reason": told}
