"""Who may do what: certificates, tokens, roles; and what anyone may see.

Source: https://kubernetes.io/docs/reference/access-authn-authz/
"""

import dataclasses
import json
from pathlib import Path

import pytest

from apiserver.app import APIServer, serving
from apiserver.bootstrap_rbac import missing_rules
from apiserver.storage.sqlite import SQLiteStore
from machinery import errors
from machinery.api.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CONFIG_MAPS,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import pod
from tests.support.server import ADMIN_TOKEN, client_config, server_config

GROUP = "rbac.authorization.k8s.io"


def without_certificate(config: ClientConfig, token: str = "") -> ClientConfig:
    return dataclasses.replace(config, cert_file="", key_file="", token=token)


async def test_anyone_may_see_health_and_version_and_nothing_else(client: Client, config: ClientConfig) -> None:
    async with Client(without_certificate(config)) as anyone:
        assert await anyone.request("GET", "/healthz") == b"ok"
        assert json.loads(await anyone.request("GET", "/version"))["gitVersion"].startswith("v1.36")
        with pytest.raises(
            errors.Forbidden, match='User "system:anonymous" cannot list resource "pods" in API group ""'
        ):
            await anyone.list(PODS)
        with pytest.raises(errors.Forbidden, match='cannot get path "/metrics"'):
            await anyone.request("GET", "/metrics")


async def test_a_token_says_who_asks_and_a_wrong_one_nothing(client: Client, config: ClientConfig) -> None:
    async with Client(without_certificate(config, ADMIN_TOKEN)) as admin:
        assert (await admin.list(PODS))["items"] == []
    async with Client(without_certificate(config, "wrong")) as stranger:
        with pytest.raises(errors.Unauthorized):
            await stranger.list(PODS)


async def test_a_role_gives_what_it_names_in_its_namespace_alone(
    client: Client, server: APIServer, tmp_path: Path
) -> None:
    async with Client(client_config(tmp_path, server.config, user="jane", groups=())) as jane:
        with pytest.raises(
            errors.Forbidden, match='configmaps is forbidden: User "jane" cannot list resource "configmaps"'
        ):
            await jane.list(CONFIG_MAPS, "default")
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
        await client.create(ROLES, {"metadata": {"name": "reader"}, "rules": rules}, "default")
        reference = {"apiGroup": GROUP, "kind": "Role", "name": "reader"}
        subjects = [{"kind": "User", "name": "jane", "apiGroup": GROUP}]
        binding = {"metadata": {"name": "jane-reads"}, "roleRef": reference, "subjects": subjects}
        await client.create(ROLE_BINDINGS, binding, "default")
        assert [one["metadata"]["name"] for one in (await jane.list(CONFIG_MAPS, "default"))["items"]] == []
        for work in (
            jane.list(CONFIG_MAPS, "kube-system"),
            jane.list(SECRETS, "default"),
            jane.delete(CONFIG_MAPS, "a", "default"),
        ):
            with pytest.raises(errors.Forbidden):
                await work
        await client.delete(ROLE_BINDINGS, "jane-reads", "default")
        with pytest.raises(errors.Forbidden):
            await jane.list(CONFIG_MAPS, "default")


async def test_a_service_account_token_is_good_while_what_it_is_bound_to_lives(
    client: Client, config: ClientConfig, server: APIServer
) -> None:
    made = await client.create(PODS, pod("web"), "default")
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": made["metadata"]["uid"]}
    request = {"spec": {"expirationSeconds": 600, "boundObjectRef": bound}}
    answer = await client.create(SERVICE_ACCOUNTS, request, "default", subresource="token", name="default")
    token = answer["status"]["token"]
    async with Client(without_certificate(config, token)) as account:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        headers = {"Content-Type": "application/json"}
        said = json.loads(await account.request("POST", path, body=json.dumps(review).encode(), headers=headers))
        assert said["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"
        await client.delete(PODS, "web", "default")
        server.authenticator._known.clear()  # as some seconds later
        with pytest.raises(errors.Unauthorized):
            await account.request("GET", "/api")


async def test_a_pod_is_given_its_account_and_a_token_volume(client: Client) -> None:
    made = await client.create(PODS, pod("web"), "default")
    assert made["spec"]["serviceAccountName"] == "default"
    (mount,) = made["spec"]["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    with pytest.raises(
        errors.Forbidden, match='error looking up service account default/none: serviceaccount "none" not'
    ):
        await client.create(PODS, pod("other", serviceAccountName="none"), "default")


async def test_readiness_tells_check_by_check(client: Client) -> None:
    text = (await client.request("GET", "/readyz", params={"verbose": ""})).decode()
    assert "[+]etcd ok" in text
    assert "[+]poststarthook/rbac/bootstrap-roles ok" in text  # by the names of upstream's steps
    alive = (await client.request("GET", "/livez", params={"verbose": "1"})).decode()
    assert "[+]autoregister-completion ok" in alive
    assert "]informer-sync" not in alive
    assert text.endswith("readyz check passed\n")
    assert b"apiserver_request_total" in await client.request("GET", "/metrics")


async def test_default_roles_gain_what_they_lack_when_the_server_starts(tmp_path: Path) -> None:
    # https://kubernetes.io/docs/reference/access-authn-authz/rbac/#auto-reconciliation
    config, store = server_config(tmp_path), SQLiteStore(tmp_path / "store.sqlite")
    own = {"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]}
    frozen = "rbac.authorization.kubernetes.io/autoupdate"
    async with Client(client_config(tmp_path, config)) as admin:
        async with serving(store, config, sole_writer=True) as first:
            await first.health.bootstrapped.wait()
            before = await admin.get(CLUSTER_ROLES, "system:kube-scheduler")
            await admin.patch(CLUSTER_ROLES, "system:kube-scheduler", {"rules": [own, before["rules"][0]]})
            await admin.patch(
                CLUSTER_ROLES, "system:discovery", {"rules": [own], "metadata": {"annotations": {frozen: "false"}}}
            )
            await admin.patch(CLUSTER_ROLE_BINDINGS, "system:basic-user", {"subjects": []})
            await admin.delete(CLUSTER_ROLE_BINDINGS, "system:monitoring")
            other = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "view"}
            await admin.create(
                CLUSTER_ROLE_BINDINGS, {"metadata": {"name": "system:monitoring"}, "roleRef": other, "subjects": []}
            )
        async with serving(store, config, sole_writer=True) as second:
            await second.health.bootstrapped.wait()
            after = await admin.get(CLUSTER_ROLES, "system:kube-scheduler")
            assert after["rules"][:2] == [own, before["rules"][0]]
            assert not list(missing_rules(after["rules"], before["rules"]))
            assert (await admin.get(CLUSTER_ROLES, "system:discovery"))["rules"] == [own]
            basic = await admin.get(CLUSTER_ROLE_BINDINGS, "system:basic-user")
            assert [one["name"] for one in basic["subjects"]] == ["system:authenticated"]
            monitoring = await admin.get(CLUSTER_ROLE_BINDINGS, "system:monitoring")
            assert (monitoring["roleRef"]["name"], len(monitoring["subjects"])) == ("system:monitoring", 1)
            revision = after["metadata"]["resourceVersion"]
        async with serving(store, config, sole_writer=True) as third:  # nothing is lacking: nothing is written
            await third.health.bootstrapped.wait()
            again = await admin.get(CLUSTER_ROLES, "system:kube-scheduler")
            assert again["metadata"]["resourceVersion"] == revision
    await store.close()
