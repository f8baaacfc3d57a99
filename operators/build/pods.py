"""The pod that a run of a Build is. Pure: nothing here talks to the cluster.

The tools are the node's own buildah and git: its /usr is mounted, to be read only, into a container of busybox. The pod
has users of its own (hostUsers: false), so what may mount there is nobody on the node; it needs no privileges and no
image from outside. What users write reaches the script by variables and arguments, never as a part of it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from machinery.api.meta import Resource
from machinery.api.quantity import to_bytes

BUILDS = Resource("wherry.dev", "v1alpha1", "builds", "Build")
LABEL, RUN = "wherry.dev/build", "wherry.dev/build-run"
REBUILD = "wherry.dev/rebuild"
"""An annotation; another value of it builds anew."""
DEFAULT_CACHE = "5Gi"
"""How much of the layers of a Build's steps is kept."""
IMAGE = "wherry.local/busybox:latest"
_LONGEST_NAME = 50
Object = dict[str, Any]

SCRIPT = r"""
mkdir -p /work/context && cd /work/context
if [ -n "$GIT_URL" ]; then
  git init -q . && git remote add origin "$GIT_URL"
  if git fetch -q --depth 1 origin "$GIT_REVISION" 2>/dev/null; then
    git checkout -q FETCH_HEAD
  else  # a server that gives no single commits
    git fetch -q origin && git checkout -q "$GIT_REVISION"
  fi
  echo "at $(git rev-parse HEAD)"
  cd "./$GIT_FOLDER"
else
  for file in /context/*; do cp -L "$file" .; done
fi
set -o pipefail
root=/work/storage
if [ -n "$CACHE_BYTES" ]; then  # what runs before have made of the same steps
  root=/cache
  set -- --layers "$@"
fi
storage="--root $root --runroot /work/run --storage-driver vfs"
buildah $storage rm --all >/dev/null 2>&1 || true  # of a run that was killed
buildah $storage bud --isolation chroot --tls-verify="$TLS_VERIFY" -f "$DOCKERFILE" -t "$IMAGE" "$@" . 2>&1 | /bin/awk '
  /^(\[[0-9]+\/[0-9]+\] )?STEP [0-9]+\/[0-9]+: / {
    match($0, /STEP [0-9]+\/[0-9]+/); at = substr($0, RSTART + 5, RLENGTH - 5)
    printf "#%d [%s] %s\n", ++step, at, substr($0, RSTART + RLENGTH + 2); fflush(); next
  }
  /^--> Using cache / { printf "#%d CACHED\n", step; fflush(); next }
  /^--> [0-9a-f]+$/ { next }
  { print; fflush() }'
buildah $storage push --tls-verify="$TLS_VERIFY" --digestfile /work/digest "$IMAGE" "docker://$IMAGE"
cat /work/digest >/dev/termination-log
if [ -n "$CACHE_BYTES" ] && [ "$(du -sk $root | cut -f1)" -gt $((CACHE_BYTES / 1024)) ]; then
  echo "the cache is full: it begins anew"
  buildah $storage rmi --all --force >/dev/null 2>&1 || true
fi
"""
_FROM_NODE = {
    "usr": "/usr",
    "lib": "/usr/lib",
    "lib64": "/usr/lib64",
    "containers": "/etc/containers",
    "ssl": "/etc/ssl",
}
_PLACES = {"usr": "/usr", "lib": "/lib", "lib64": "/lib64", "containers": "/etc/containers", "ssl": "/etc/ssl"}


def inputs(build: Mapping[str, Any], context: Mapping[str, Any] | None) -> str:
    """Return a hash of all that a run is made from: what the spec says of it, the ConfigMap, the wish to build anew."""
    spec = {name: value for name, value in build["spec"].items() if name not in ("triggers", "timeoutSeconds", "cache")}
    asked = (build["metadata"].get("annotations") or {}).get(REBUILD, "")
    data: Any = None
    if context is not None and (build["spec"].get("triggers") or {}).get("configMap", True):
        data = [context.get("data"), context.get("binaryData")]
    text = json.dumps([spec, asked, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pod_name(build: Mapping[str, Any], run: int) -> str:
    """Return the name of a run's pod; each Build and run has one of its own, however long the name is."""
    name = build["metadata"]["name"]
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{name}-build-{run}"


def pod_of(build: Mapping[str, Any], run: int) -> Object:
    """Return the pod of a Build's run."""
    spec, meta = build["spec"], build["metadata"]
    volumes: list[Object] = [
        {"name": name, "hostPath": {"path": path, "type": "Directory"}} for name, path in _FROM_NODE.items()
    ]
    mounts: list[Object] = [{"name": name, "mountPath": path, "readOnly": True} for name, path in _PLACES.items()]
    volumes.append({"name": "work", "emptyDir": {}})
    mounts += [
        {"name": "work", "mountPath": "/work"}, {"name": "work", "mountPath": "/tmp", "subPath": "tmp"},  # noqa: S108
        {"name": "work", "mountPath": "/var/tmp", "subPath": "var-tmp"},  # noqa: S108
    ]  # fmt: skip
    if claim := cache_name(build):
        volumes.append({"name": "cache", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "cache", "mountPath": "/cache"})
    if name := (spec["context"].get("configMap") or {}).get("name"):
        volumes.append({"name": "context", "configMap": {"name": name}})
        mounts.append({"name": "context", "mountPath": "/context", "readOnly": True})
    if secret := spec.get("pushSecret"):
        item = {"key": ".dockerconfigjson", "path": "auth.json"}
        volumes.append({"name": "auth", "secret": {"secretName": secret, "items": [item]}})
        mounts.append({"name": "auth", "mountPath": "/auth", "readOnly": True})
    container = {
        "name": "build", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-euc", SCRIPT, "build", *_arguments(spec)], "env": _variables(spec),
        "resources": spec.get("resources") or {}, "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}, "seccompProfile": {"type": "Unconfined"}},
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(build, run), "namespace": meta["namespace"],
            "labels": {LABEL: hashlib.sha256(meta["name"].encode()).hexdigest()[:16], RUN: str(run)},
            "annotations": {LABEL: meta["name"]},
            "ownerReferences": [_owner(build)],
        },
        "spec": {
            "restartPolicy": "Never", "hostUsers": False, "automountServiceAccountToken": False,
            "enableServiceLinks": False, "activeDeadlineSeconds": spec.get("timeoutSeconds", 1800),
            "nodeSelector": spec.get("nodeSelector") or {}, "containers": [container], "volumes": volumes,
        },
    }  # fmt: skip


def _arguments(spec: Mapping[str, Any]) -> list[str]:
    found = [f"--build-arg={name}={value}" for name, value in sorted((spec.get("buildArgs") or {}).items())]
    return found + ([f"--target={spec['target']}"] if spec.get("target") else [])


def cache_name(build: Mapping[str, Any]) -> str:
    """Return the name of the claim where the layers of a Build's steps are kept; empty for none."""
    if not (build["spec"].get("cache") or {}).get("enabled", True):
        return ""
    return f"{pod_name(build, 0).removesuffix('-build-0')}-build-cache"


def claim_of(build: Mapping[str, Any]) -> Object:
    """Return the claim for a Build's layers: it goes with the Build, and lies on one node, as its pods then do."""
    size = (build["spec"].get("cache") or {}).get("size", DEFAULT_CACHE)
    return {
        "metadata": {"name": cache_name(build), "ownerReferences": [_owner(build)]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def _owner(build: Mapping[str, Any]) -> Object:
    meta = build["metadata"]
    return {
        "apiVersion": BUILDS.api_version, "kind": BUILDS.kind, "name": meta["name"], "uid": meta["uid"],
        "controller": True,
    }  # fmt: skip


def _variables(spec: Mapping[str, Any]) -> list[Object]:
    git, cache = spec["context"].get("git") or {}, spec.get("cache") or {}
    values = {
        "PATH": "/usr/bin:/usr/sbin:/bin", "HOME": "/work", "GIT_URL": git.get("url", ""),
        "GIT_REVISION": git.get("revision", "HEAD"), "GIT_FOLDER": git.get("folder", ""),
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh", "GIT_TERMINAL_PROMPT": "0",
        "DOCKERFILE": spec.get("dockerfile", "Dockerfile"), "IMAGE": spec["image"],
        "CACHE_BYTES": str(to_bytes(cache.get("size", DEFAULT_CACHE))) if cache.get("enabled", True) else "",
        "TLS_VERIFY": "false" if spec.get("insecure") else "true",
    }  # fmt: skip
    if spec.get("pushSecret"):
        values["REGISTRY_AUTH_FILE"] = "/auth/auth.json"
    # $(NAME) in a value would be another variable's: the dollar is doubled.
    return [{"name": name, "value": value.replace("$(", "$$(")} for name, value in values.items()]


def selector(build: Mapping[str, Any]) -> str:
    """Return the label selector of a Build's pods."""
    return f"{LABEL}={hashlib.sha256(build['metadata']['name'].encode()).hexdigest()[:16]}"


def outcome(pod: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return what became of a run: (status, reason) of the condition Succeeded, a message, and the image's digest."""
    status = pod.get("status") or {}
    ended: Mapping[str, Any] = next(
        (one["state"]["terminated"] for one in status.get("containerStatuses") or () if "terminated" in one["state"]),
        {},
    )
    said = str(ended.get("message", "")).strip()
    match status.get("phase"):
        case "Succeeded":
            return "True", "Pushed", "the image is built and pushed", said
        case "Failed" if status.get("reason") == "DeadlineExceeded":
            return "False", "TimedOut", "the build took longer than timeoutSeconds", ""
        case "Failed":
            last = said.splitlines()[-1] if said else status.get("message", "")
            return "False", "Failed", last or "the build's pod failed", ""
        case "Running":
            return "Unknown", "Running", "the build runs", ""
    waiting = _why_not(status)
    return "Unknown", "Starting", f"the build's pod is not running yet{waiting}", ""


def _why_not(status: Mapping[str, Any]) -> str:
    for one in status.get("containerStatuses") or ():
        waiting = one["state"].get("waiting") or {}
        if waiting.get("message"):
            return f": {waiting['message']}"
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return f": {one.get('message', '')}"
    return ""


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether a run has ended."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def log_end(pod: Mapping[str, Any]) -> str:
    """Return the end of a failed run's log: the agent keeps it in the pod's status."""
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = one["state"].get("terminated") or {}
        if ended.get("exitCode"):
            return str(ended.get("message", ""))
    return ""
