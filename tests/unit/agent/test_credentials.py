"""Which credentials are for which image, and who may use an image that another's credentials brought.

Sources: https://kubernetes.io/docs/concepts/containers/images/#config-json,
https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.credential_providers import CredentialProviders, Provider, ProviderError, read_config
from agent.credentials import Credential, PulledImages, matches, of_secret, split

POD = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {}}


@pytest.mark.parametrize(
    ("key", "image", "good"),
    [
        ("registry.io", "registry.io/a:1", True), ("https://registry.io/", "registry.io/a/b@sha256:0", True),
        ("registry.io:5000", "registry.io:5000/a:1", True), ("registry.io", "registry.io:5000/a", False),
        ("*.registry.io", "eu.registry.io/a", True), ("*.registry.io", "registry.io/a", False),
        ("*.registry.io", "a.b.registry.io/x", False), ("reg*.io", "registry.io/a", True),
        ("registry.io/team", "registry.io/team/app", True), ("registry.io/team", "registry.io/other/app", False),
        ("https://index.docker.io/v1/", "busybox", True), ("docker.io", "library/busybox:1", True),
        ("docker.io", "registry.io/busybox", False), ("localhost:5000", "localhost:5000/x", True),
    ],
)  # fmt: skip
def test_a_key_is_for_the_images_of_its_registry_and_path(key: str, image: str, good: bool) -> None:
    assert matches(key, image) is good


def test_names_without_a_registry_are_of_docker_hub() -> None:
    assert split("busybox:1") == ("docker.io", "library/busybox")
    assert split("me/app@sha256:0") == ("docker.io", "me/app")
    assert split("localhost/app") == ("localhost", "app")


def secret(kind: str, data: Any) -> dict[str, Any]:
    text = data if isinstance(data, str) else json.dumps(data)
    encoded = base64.b64encode(text.encode()).decode()
    return {"metadata": {"name": "s", "namespace": "n", "uid": "1"}, "data": {kind: encoded}}


def test_secrets_of_both_kinds_are_read_the_most_exact_key_first() -> None:
    word = base64.b64encode(b"user:pass:word").decode()
    auths = {"r.io": {"username": "a", "password": "b"}, "r.io/team": {"auth": word}, "other.io": {"auth": word}}
    new = list(of_secret(secret(".dockerconfigjson", {"auths": auths}), "r.io/team/app"))
    assert [one.auth["username"] for one in new] == ["user", "a"]
    assert new[0].auth["password"] == "pass:word"
    assert new[0].source == ("n", "s", "1")
    assert list(of_secret(secret(".dockercfg", auths), "r.io/app")) == [new[1]]
    assert list(of_secret(secret(".dockerconfigjson", "nonsense"), "r.io/app")) == []


def credential(password: str, uid: str = "1") -> Credential:
    return Credential({"username": "u", "password": password}, ("n", f"s{uid}", uid))


def test_an_image_is_for_those_who_could_have_pulled_it(tmp_path: Path) -> None:
    pulled = PulledImages(tmp_path / "pulled")
    assert pulled.may_use("r.io/a:1", "id", [])  # it was there before
    pulled.begins("r.io/a:1")
    assert not pulled.may_use("r.io/a:1", "id", [])  # it may be another's, whose pull was cut off
    pulled.pulled("r.io/a:1", "id", credential("x"))
    for known in (pulled, PulledImages(tmp_path / "pulled")):  # a restart forgets nothing
        assert not known.may_use("r.io/a:1", "id", [])
        assert known.may_use("r.io/a:2", "id", [credential("x")])
        assert known.may_use("r.io/a:1", "id", [credential("x", "2")])  # the same word in another secret
        assert known.may_use("r.io/a:1", "id", [credential("y")])  # the same secret with a newer word
        assert not known.may_use("r.io/a:1", "id", [credential("y", "2")])
        assert not known.may_use("r.io/b:1", "id", [credential("x")])  # the same image by another name
    assert "password" not in (tmp_path / "pulled").read_text()
    pulled.pulled("r.io/a:1", "id", None)
    assert pulled.may_use("r.io/a:1", "id", [])
    pulled.keep(set())
    pulled.failed("r.io/c")
    assert json.loads((tmp_path / "pulled").read_text()) == {"pulling": {}, "pulled": {}}


SCRIPT = """#!/usr/bin/env python3
import json, os, sys
request = json.load(sys.stdin)
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(request) + "\\n")
if "broken" in request["image"]:
    sys.exit("no idea")
auth = {"*.r.io": {"username": sys.argv[1], "password": request.get("serviceAccountToken", "none")}}
answer = {"kind": "CredentialProviderResponse", "apiVersion": request["apiVersion"], "auth": auth}
print(json.dumps({**answer, "cacheKeyType": "Registry", "cacheDuration": "1h"}))
"""


async def token(pod: Mapping[str, Any], audience: str) -> tuple[str, Mapping[str, Any]]:
    metadata = {"namespace": "n", "name": "default", "uid": "sa", "annotations": {"role": "reader"}}
    return f"token for {audience}", {"metadata": metadata}


def provider(folder: Path, **more: Any) -> Provider:
    program = folder / "teller"
    program.write_text(SCRIPT)
    program.chmod(0o755)
    given = {
        "name": "teller", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "matchImages": ["*.r.io"],
        "defaultCacheDuration": "1m30s", "args": ["me"], "env": [{"name": "CALLS", "value": str(folder / "calls")}],
    }  # fmt: skip
    return Provider.read({**given, **more})


async def test_programs_are_asked_for_images_they_know_and_their_answers_kept(tmp_path: Path) -> None:
    providers = CredentialProviders([provider(tmp_path)], tmp_path, token)
    for image in ("eu.r.io/a:1", "eu.r.io/b:1"):
        (found,) = await providers.credentials(POD, image)
        assert (found.auth, found.source) == ({"username": "me", "password": "none"}, ())
    assert await providers.credentials(POD, "elsewhere.io/a") == []
    assert await providers.credentials(POD, "us.r.io/broken") == []  # told in the log
    calls = [json.loads(line)["image"] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == ["eu.r.io/a:1", "us.r.io/broken"]


async def test_programs_get_the_token_of_the_pods_account_where_they_are_to(tmp_path: Path) -> None:
    wanted = {"serviceAccountTokenAudience": "r.io", "requiredServiceAccountAnnotationKeys": ["role"]}
    providers = CredentialProviders([provider(tmp_path, tokenAttributes=wanted)], tmp_path, token)
    (found,) = await providers.credentials(POD, "eu.r.io/a")
    assert found.auth["password"] == "token for r.io"
    assert found.source == ("n", "default", "sa")
    assert json.loads((tmp_path / "calls").read_text())["serviceAccountAnnotations"] == {"role": "reader"}
    wanted["requiredServiceAccountAnnotationKeys"] = ["team"]
    providers = CredentialProviders([provider(tmp_path, tokenAttributes=wanted)], tmp_path, token)
    assert await providers.credentials(POD, "eu.r.io/a") == []


def test_a_pull_that_is_cut_off_takes_nothing_from_those_who_had_the_image(tmp_path: Path) -> None:
    PulledImages(tmp_path / "pulled").begins("r.io/a:1", "preloaded")
    again = PulledImages(tmp_path / "pulled")  # the agent was killed meanwhile
    assert again.may_use("r.io/a:1", "preloaded", ())
    assert not again.may_use("r.io/a:1", "brought by it", ())
    again.begins("r.io/a:1", "brought by it")  # a second pull does not make it everyone's
    assert not PulledImages(tmp_path / "pulled").may_use("r.io/a:1", "brought by it", ())
    again.failed("r.io/a:1")
    (tmp_path / "pulled").write_text('{"pulling": ["r.io/a:1"], "pulled": {}}')  # as it was written once
    assert not PulledImages(tmp_path / "pulled").may_use("r.io/a:1", "any", ())


@pytest.mark.parametrize(
    "given",
    [{"name": "../x"}, {"apiVersion": "v0"}, {"matchImages": []}, {"defaultCacheDuration": "soon"}],
    ids=["name", "version", "images", "duration"],
)
def test_a_configuration_that_cannot_hold_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        provider(tmp_path, **given)
    config = tmp_path / "config.yaml"
    config.write_text("kind: Other")
    with pytest.raises(ProviderError, match="CredentialProviderConfig"):
        read_config(config)
