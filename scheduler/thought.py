"""A cluster as it would be with the objects of some manifests in it, for those who ask what would become of their pods.

Pods are made of workloads as their controllers make them, with the claims they would have; whatever else the manifests
hold (claims, classes, templates, Services) is found beside what the cluster has.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from machinery.api.meta import Resource
from machinery.api.placement import daemon_tolerations, pod_selects_node, untolerated
from machinery.api.resources import NODES, PERSISTENT_VOLUME_CLAIMS, RESOURCE_CLAIM_TEMPLATES, STORAGE_CLASSES
from scheduler.snapshot import ListAll

Object = dict[str, Any]
_REPLICATED = ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController")
_MAKERS = ("Pod", "DaemonSet", "Job", "CronJob", *_REPLICATED)
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class InThought:
    """What a cluster lists, with what is only thought of."""

    def __init__(self, list_all: ListAll, namespace: str) -> None:
        """Args: `namespace` is that of objects that name none."""
        self._list_all, self._namespace = list_all, namespace
        self._known: dict[Resource, list[Object]] = {}
        self._added: dict[str, list[Object]] = {}

    def listed(self, resource: Resource) -> list[Object]:
        """Return all objects of a resource; what is there already comes before what has its name in a manifest."""
        found = self._known.get(resource)
        if found is None:
            found = self._known[resource] = list(self._list_all(resource))
        known = {_key(one) for one in found}
        return [*found, *(one for one in self._added.get(resource.kind, ()) if _key(one) not in known)]

    def take(self, obj: Object) -> None:
        """Have an object of a manifest be there."""
        kind = obj.get("kind", "")
        if kind not in ("Pod", "Job", "CronJob"):
            namespaced = {"namespace": obj["metadata"].get("namespace") or self._namespace}
            kind = "ReplicaSet" if kind == "Deployment" else kind  # whose selector its pods are spread by
            self._add(kind, {**obj, "metadata": {**namespaced, **obj["metadata"]}})

    def _add(self, kind: str, obj: Object) -> None:
        metadata = {"uid": f"simulated-{kind}-{obj['metadata']['name']}", **obj["metadata"]}
        self._added.setdefault(kind, []).append({**obj, "metadata": metadata})

    # ---- pods

    def pods_of(self, obj: Object, replicas: int | None = None) -> list[Object]:
        """Return the pods that an object would come to, alike but for their names; none for what makes no pods."""
        kind, spec = obj.get("kind", ""), obj.get("spec") or {}
        if kind not in _MAKERS:
            return []
        metadata = obj["metadata"]
        name = metadata.get("name") or metadata.get("generateName", "pod-")
        where = metadata.get("namespace") or self._namespace
        if kind == "Pod":
            return [_pod(metadata, spec, name, where)]
        if kind == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        template = spec.get("template") or {}
        owner = {"kind": "ReplicaSet" if kind == "Deployment" else kind, "name": name, "uid": f"simulated-{name}"}
        owned = {**(template.get("metadata") or {}), "ownerReferences": [{**owner, "controller": True}]}
        if kind == "DaemonSet":
            ends = self._nodes_for(template.get("spec") or {})
        else:
            said = spec.get("replicas", 1) if kind in _REPLICATED else spec.get("parallelism", 1)
            ends = [str(number) for number in range(said if replicas is None else replicas)]
        of_pod = dict(template.get("spec") or {})
        if claims := spec.get("volumeClaimTemplates"):  # which claims, `completed` says for each pod
            names = [one["metadata"]["name"] for one in claims]
            kept = [one for one in of_pod.get("volumes") or () if one["name"] not in names]
            of_pod["volumes"] = kept + [{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in names]
        return [_pod(owned, of_pod, f"{name}-{end}", where) for end in ends]

    def _nodes_for(self, template: Object) -> list[str]:
        """Return the nodes a daemon's pods are made for."""
        tolerations = daemon_tolerations(template)
        return [
            node["metadata"]["name"]
            for node in self.listed(NODES)
            if pod_selects_node(template, node["metadata"]["name"], node["metadata"].get("labels") or {})
            and untolerated((node.get("spec") or {}).get("taints") or (), tolerations, ("NoSchedule", "NoExecute"))
            is None
        ]

    def completed(self, obj: Object, pods: Iterable[Object]) -> list[Object]:
        """Return an object's pods with what its controller gives each of them; the claims they name are there, too."""
        found = []
        for pod in pods:
            one = copy.deepcopy(pod)
            if obj["kind"] == "DaemonSet":
                _confine(one["spec"], one["metadata"]["name"].removeprefix(f"{obj['metadata']['name']}-"))
            if obj["kind"] == "StatefulSet":
                self._claim_volumes(one, obj["spec"].get("volumeClaimTemplates") or ())
            self._claim_devices(one)
            for volume in one["spec"].get("volumes") or ():
                if (template := (volume.get("ephemeral") or {}).get("volumeClaimTemplate")) is not None:
                    self._claim(one, f"{one['metadata']['name']}-{volume['name']}", template, owned=True)
            found.append(one)
        return found

    def _claim_volumes(self, pod: Object, templates: Iterable[Object]) -> None:
        volumes = [*(pod["spec"].get("volumes") or ())]
        for template in templates:
            name = f"{template['metadata']['name']}-{pod['metadata']['name']}"
            volumes = [one for one in volumes if one["name"] != template["metadata"]["name"]]
            volumes.append({"name": template["metadata"]["name"], "persistentVolumeClaim": {"claimName": name}})
            self._claim(pod, name, template)
        pod["spec"]["volumes"] = volumes

    def _claim(self, pod: Object, name: str, template: Object, *, owned: bool = False) -> None:
        owner = [{"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"], "controller": True}]
        metadata = {**(template.get("metadata") or {}), "name": name, "namespace": pod["metadata"]["namespace"]}
        spec = template.get("spec") or {}
        self._add("PersistentVolumeClaim", {
            "metadata": {**metadata, **({"ownerReferences": owner} if owned else {})}, "spec": spec,
        })  # fmt: skip

    def _claim_devices(self, pod: Object) -> None:
        """Make the claims of devices that templates are named for."""
        metadata, statuses = pod["metadata"], []
        templates = {_key(one): one for one in self.listed(RESOURCE_CLAIM_TEMPLATES)}
        for asked in pod["spec"].get("resourceClaims") or ():
            template = templates.get((metadata["namespace"], asked.get("resourceClaimTemplateName", "")))
            if template is None:
                continue
            name = f"{metadata['name']}-{asked['name']}"
            owner = {"kind": "Pod", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
            made = {"name": name, "namespace": metadata["namespace"], "ownerReferences": [owner]}
            self._add("ResourceClaim", {"metadata": made, "spec": template["spec"].get("spec") or {}})
            statuses.append({"name": asked["name"], "resourceClaimName": name})
        if statuses:
            pod["status"] = {**(pod.get("status") or {}), "resourceClaimStatuses": statuses}

    def settle(self) -> None:
        """Give claims of volumes what the cluster would: the default class; and a volume, where one is made at once."""
        classes = {one["metadata"]["name"]: one for one in self.listed(STORAGE_CLASSES)}
        default = next((name for name, one in classes.items() if _annotation(one, _DEFAULT_CLASS) == "true"), None)
        known = {_key(one) for one in self._known.get(PERSISTENT_VOLUME_CLAIMS, ())}
        for claim in self._added.get("PersistentVolumeClaim", ()):
            claim["spec"] = spec = dict(claim.get("spec") or {})
            if default is not None:
                spec.setdefault("storageClassName", default)
            found = classes.get(spec.get("storageClassName") or "")
            if found is None or found.get("volumeBindingMode") == "WaitForFirstConsumer" or _key(claim) in known:
                continue
            spec["volumeName"] = f"simulated-{claim['metadata']['namespace']}-{claim['metadata']['name']}"
            notes = claim["metadata"].get("annotations") or {}
            claim["metadata"]["annotations"] = {**notes, _BIND_COMPLETED: "yes"}
            self._add("PersistentVolume", {"metadata": {"name": spec["volumeName"]}, "spec": {}})


def _key(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def _annotation(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def _pod(metadata: Object, spec: Object, name: str, namespace: str) -> Object:
    metadata = {**metadata, "name": name, "namespace": namespace, "uid": f"simulated-{namespace}-{name}"}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec}


def _confine(spec: Object, node: str) -> None:
    """Have a daemon's pod run on its node."""
    spec["tolerations"] = daemon_tolerations(spec)
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    rule = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity[_REQUIRED] = {"nodeSelectorTerms": [{"matchFields": [rule]}]}
