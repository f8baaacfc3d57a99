"""Manifests of static pods. Source: https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.inotify import FolderNews
from agent.static_manifest import read_manifest, read_manifests

CONTAINER: dict[str, Any] = {"name": "main", "image": "busybox"}


def write(folder: Path, name: str = "a.yaml", **spec: Any) -> Path:
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": {"containers": [CONTAINER], **spec}}
    path = folder / name
    path.write_text(json.dumps(body))
    return path


def test_a_manifest_becomes_a_pod_of_the_node_with_what_the_api_would_fill_in(tmp_path: Path) -> None:
    pod = read_manifest(write(tmp_path, priorityClassName="system-node-critical"), "Node-A")
    metadata, spec = pod["metadata"], pod["spec"]
    assert (metadata["name"], metadata["namespace"]) == ("web-node-a", "default")
    assert metadata["annotations"]["kubernetes.io/config.hash"] == metadata["uid"]
    assert metadata["annotations"]["kubernetes.io/config.source"] == "file"
    assert "generation" not in metadata  # kubelets tell no observedGeneration of static pods
    assert (spec["nodeName"], spec["restartPolicy"], spec["priority"]) == ("Node-A", "Always", 2_000_001_000)
    assert spec["tolerations"] == [{"operator": "Exists", "effect": "NoExecute"}]
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


def test_a_limit_is_a_request_and_makes_the_class(tmp_path: Path) -> None:
    limited = {**CONTAINER, "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}
    pod = read_manifest(write(tmp_path, containers=[limited]), "n")
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": 1, "memory": "1Gi"}
    assert pod["status"]["qosClass"] == "Guaranteed"


def test_the_uid_tells_manifests_nodes_and_files_apart_and_is_the_same_each_time(tmp_path: Path) -> None:
    path = write(tmp_path)
    uid = read_manifest(path, "n")["metadata"]["uid"]
    assert read_manifest(path, "n")["metadata"]["uid"] == uid
    assert read_manifest(path, "m")["metadata"]["uid"] != uid
    assert read_manifest(write(tmp_path, "b.yaml"), "n")["metadata"]["uid"] != uid
    assert read_manifest(write(tmp_path, hostNetwork=True), "n")["metadata"]["uid"] != uid


@pytest.mark.parametrize(
    ("spec", "resource"),
    [
        ({"serviceAccountName": "a"}, "serviceaccounts"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "secrets"),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}]}}]}, "configmaps"),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}, "persistentvolumeclaims"),
        ({"containers": [{**CONTAINER, "envFrom": [{"secretRef": {"name": "s"}}]}]}, "secrets"),
        ({"initContainers": [{**CONTAINER, "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {}}}]}]}, "configmaps"),
        ({"resourceClaims": [{"name": "a"}]}, "resourceclaims"),
    ],
    ids=["account", "secret", "projected", "claim", "envFrom", "env", "devices"],
)  # fmt: skip
def test_a_pod_that_needs_the_api_is_no_static_pod(tmp_path: Path, spec: dict[str, Any], resource: str) -> None:
    path = write(tmp_path, **spec)
    with pytest.raises(ValueError, match=f"static pods may not reference {resource}"):
        read_manifest(path, "n")


def test_bad_files_are_left_out(tmp_path: Path) -> None:
    good = write(tmp_path)
    (tmp_path / "b.yaml").write_text("{")
    (tmp_path / "c.yaml").write_text("- 1")
    (tmp_path / "d.yaml").write_text("kind: Service")
    (tmp_path / "e.yaml").write_text("kind: Pod")
    (tmp_path / ".f.yaml").write_text(good.read_text())
    (tmp_path / "g.txt").write_text(good.read_text())
    assert list(read_manifests(tmp_path, "n")) == [good]
    assert read_manifests(tmp_path / "absent", "n") == {}


async def test_a_folder_tells_of_files_that_come_and_go(tmp_path: Path) -> None:
    told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    news = FolderNews(tmp_path, lambda name, went: told.put_nowait((name, went)))
    assert news.is_told
    async with asyncio.timeout(5):
        (tmp_path / "a").write_text("1")
        assert await told.get() == ("a", False)
        (tmp_path / "a").rename(tmp_path / "b")
        assert [await told.get() for _ in range(2)] == [("a", True), ("b", False)]
        os.unlink(tmp_path / "b")
        assert await told.get() == ("b", True)
        folder = tmp_path / "folder"
        folder.mkdir()
        inner = FolderNews(folder, lambda name, went: told.put_nowait((name, went)))
        folder.rmdir()
        assert await told.get() == ("", True)
        assert not inner.is_told
    news.close()
    assert not FolderNews(tmp_path / "absent", lambda _, __: None).is_told
