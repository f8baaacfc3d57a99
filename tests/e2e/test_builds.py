"""The add-ons `registry` and `build` on a real node: an image made in the cluster, pushed, and run."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import IMAGE, POD_CIDR, Cluster
from tests.support.server import free_port

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah"),
]  # fmt: skip
RUN_AND_STATUS = 'jsonpath={.status.run}{.status.conditions[?(@.type=="Succeeded")].status}'
INSIDE, HERE = "registry.kube-system:5000", "localhost:30500"
DOCKERFILE = f"""
FROM {INSIDE}/base:1
ARG WHO
COPY page /page
RUN echo "$WHO read $(cat /page)" > /said && [ "$(id -u)" = 0 ]
"""


@contextlib.contextmanager
def served_repository(folder: Path, cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Serve a repository by git's own protocol at the pods' gateway; yields its URL and a commit that is no branch."""
    work = folder / "work.git"
    (work / "app").mkdir(parents=True)
    (work / "app" / "Containerfile").write_text("FROM scratch\nCOPY page /page\n")
    (work / "app" / "page").write_text("first")
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for line in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        cluster.run("git", "-C", str(work), *line)
    commit = cluster.run("git", "-C", str(work), "rev-parse", "HEAD").strip()
    cluster.run("git", "-C", str(work), "rm", "-q", "app/page")
    cluster.run("git", "-C", str(work), *who, "commit", "-qm", "second")
    address, port = POD_CIDR.replace("0/24", "1"), free_port()
    argv = [
        "git",
        "daemon",
        "--export-all",
        f"--base-path={folder}",
        f"--listen={address}",
        f"--port={port}",
        "--reuseaddr",
    ]
    daemon = subprocess.Popen([*argv, str(folder)], stderr=subprocess.DEVNULL)
    try:
        url = f"git://{address}:{port}/work.git"
        cluster.until(lambda: "HEAD" in cluster.run("git", "ls-remote", url, check=False), "git's daemon")
        yield url, commit
    finally:
        daemon.terminate()
        daemon.wait()


def test_builds_are_made_from_a_configmap_and_from_git_pushed_and_run(cluster: Cluster, tmp_path: Path) -> None:
    here = ["--data-dir", str(cluster.layout.root)]
    try:
        for name in ("registry", "build"):
            cluster.wherry("addon", "enable", name, *here)
        cluster.kubectl("rollout", "status", "-n", "kube-system", "deploy/registry", "--timeout=30s")
        cluster.wherry("tag", IMAGE, f"{HERE}/base:1")
        cluster.wherry("push", f"{HERE}/base:1")
        spec = {
            "context": {"configMap": {"name": "context"}}, "image": f"{INSIDE}/app:1", "insecure": True,
            "buildArgs": {"WHO": "she; $(id)"},
        }  # fmt: skip
        build = {"apiVersion": "wherry.dev/v1alpha1", "kind": "Build", "metadata": {"name": "app"}, "spec": spec}
        data = {"Dockerfile": DOCKERFILE, "page": "a page"}
        context = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "context"}, "data": data}
        for obj in (context, build):
            cluster.kubectl("apply", "-f", "-", stdin=json.dumps(obj))
        told = cluster.kubectl("wait", "build/app", "--for=condition=Succeeded", "--timeout=40s", check=False)
        assert told.startswith("0\n"), cluster.kubectl("get", "build/app", "-o", "yaml") + cluster.kubectl(
            "logs", "app-build-1", check=False
        )
        assert cluster.wherry("run", "--rm", f"{HERE}/app:1", "cat", "/said") == "she; $(id) read a page\n"
        assert "CACHED" not in cluster.kubectl("logs", "app-build-1")
        cluster.kubectl("annotate", "build/app", "wherry.dev/rebuild=1")
        cluster.until(lambda: "2True" in cluster.kubectl("get", "build/app", "-o", RUN_AND_STATUS), "the second run")
        said = cluster.kubectl("logs", "app-build-2").splitlines()
        assert [line.split(" ")[1] for line in said if line.startswith("#")] == [
            "[1/4]", "[2/4]", "CACHED", "[3/4]", "CACHED", "[4/4]", "CACHED",
        ], said  # fmt: skip
        with served_repository(tmp_path, cluster) as (url, commit):
            git = {"url": url, "revision": commit, "folder": "app"}
            spec = {
                "context": {"git": git},
                "image": f"{INSIDE}/app:2",
                "insecure": True,
                "dockerfile": "Containerfile",
            }
            build = {**build, "metadata": {"name": "from-git"}, "spec": spec}
            cluster.kubectl("apply", "-f", "-", stdin=json.dumps(build))
            cluster.kubectl("wait", "build/from-git", "--for=condition=Succeeded", "--timeout=40s")
        assert f"at {commit}" in cluster.kubectl("logs", "from-git-build-1")
        cluster.kubectl("delete", "build", "app", "from-git")
        cluster.until(
            lambda: "app-build-1" not in cluster.kubectl("get", "pods", "-o", "name"), "the pod to go with it"
        )
    finally:
        for name in ("build", "registry"):
            cluster.wherry("addon", "disable", name, "--purge", *here)
        cluster.wherry("rmi", f"{HERE}/base:1", f"{HERE}/app:1", check=False)
