"""Images of a registry that wants credentials, and pods that have some, others, or none.

Source: https://kubernetes.io/docs/concepts/containers/images/#ensureimagepullcredentialverification
"""

import base64
import json
from pathlib import Path

import pytest

from machinery.api.resources import SECRETS
from tests.e2e.pods.conftest import Pods, container_status, shell, waiting
from tests.support.images import PASSWORD, USER, serve_registry

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(90)]


async def make_secret(pods: Pods, name: str, registry: str) -> list[dict[str, str]]:
    """Make a secret with the registry's credentials; return what a pod refers to it by."""
    auths = {"auths": {registry: {"username": USER, "password": PASSWORD}}}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(auths).encode()).decode()}
    body = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}, "data": data}
    await pods.client.create(SECRETS, {**body, "type": "kubernetes.io/dockerconfigjson"}, pods.namespace)
    return [{"name": name}]


async def test_an_image_pulled_with_credentials_is_for_those_who_have_them(pods: Pods, tmp_path: Path) -> None:
    async with serve_registry(tmp_path / "private", authenticated=True) as registry:
        image = await registry.push("secret:1", config={"Labels": {"for": pods.namespace}})
        first = await make_secret(pods, "first", registry.host)
        same = await make_secret(pods, "same", registry.host)
        stranger = await pods.create(shell("sleep 60", image=image))
        await pods.until(stranger, lambda one: waiting(one) in ("ErrImagePull", "ImagePullBackOff"), "its refusal", 20)
        owner = await pods.create(shell("sleep 60", image=image), imagePullSecrets=first)
        await pods.running(owner)
        for policy, reasons, why in (
            ("IfNotPresent", ("ErrImagePull", "ImagePullBackOff"), ""),
            ("Never", ("ErrImageNeverPull",), "is present with pull policy of Never but does not have the proper credentials"),
        ):  # fmt: skip
            other = await pods.create(shell("sleep 60", image=image, imagePullPolicy=policy))
            other = await pods.until(other, lambda one, reasons=reasons: waiting(one) in reasons, policy, 20)  # type: ignore[misc]
            assert why in container_status(other)["state"]["waiting"].get("message", "")
    # With the registry away nothing can be pulled: who had the same credentials needs not to.
    for policy in ("IfNotPresent", "Never"):
        third = await pods.create(shell("sleep 60", image=image, imagePullPolicy=policy), imagePullSecrets=same)
        await pods.running(third)
        await pods.told(third, "already present on machine and can be accessed by the pod")
