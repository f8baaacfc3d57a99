"""The pods and claims of a StatefulSet: each has a name that stays, and keeps its volumes.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#pod-identity
"""

import copy
from typing import Any

from controllers.apps_views import StatefulSet
from controllers.ownership import owner_reference
from controllers.pod_control import pod_of_template
from controllers.revisions import HASH_LABEL
from controllers.views import Pod
from machinery.api.resources import PODS, STATEFUL_SETS

POD_NAME, POD_INDEX = "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"


def pod_name(stateful_set: StatefulSet, ordinal: int) -> str:
    """Return the name of a pod."""
    return f"{stateful_set.metadata.name}-{ordinal}"


def identity_of(name: str, ordinal: int) -> dict[str, str]:
    """Return the labels that tell which of its set a pod is."""
    return {POD_NAME: name, POD_INDEX: str(ordinal)}


def claim_name(stateful_set: StatefulSet, template: dict[str, Any], ordinal: int) -> str:
    """Return the name of a pod's claim."""
    return f"{template['metadata']['name']}-{pod_name(stateful_set, ordinal)}"


def pod_of(stateful_set: StatefulSet, ordinal: int, template: dict[str, Any], revision: str) -> dict[str, Any]:
    """Return the pod of an ordinal, from the template of the revision of this name."""
    name = pod_name(stateful_set, ordinal)
    given = (template.get("metadata") or {}).get("labels") or {}
    labels = {**given, **identity_of(name, ordinal), HASH_LABEL: revision}
    body = pod_of_template(STATEFUL_SETS, stateful_set.metadata, template, name=name, labels=labels)
    spec = body["spec"] = copy.deepcopy(body["spec"])
    spec["hostname"], spec["subdomain"] = name, stateful_set.spec.serviceName
    own = {
        claim["metadata"]["name"]: {"claimName": claim_name(stateful_set, claim, ordinal)}
        for claim in stateful_set.spec.volumeClaimTemplates
    }
    kept = [volume for volume in spec.get("volumes") or () if volume["name"] not in own]
    volumes = [{"name": name, "persistentVolumeClaim": source} for name, source in own.items()] + kept
    if volumes:
        spec["volumes"] = volumes
    return body


def claims_of(stateful_set: StatefulSet, ordinal: int) -> list[dict[str, Any]]:
    """Return the claims of an ordinal's pod."""
    labels = (stateful_set.spec.selector or {}).get("matchLabels") or {}
    policy = stateful_set.spec.persistentVolumeClaimRetentionPolicy
    owners = []
    if policy is not None and policy.whenDeleted == "Delete":
        owners = [{**owner_reference(STATEFUL_SETS, stateful_set.metadata), "blockOwnerDeletion": False}]
    found = []
    for template in stateful_set.spec.volumeClaimTemplates:
        given = template["metadata"]
        metadata: dict[str, Any] = {
            "name": claim_name(stateful_set, template, ordinal), "namespace": stateful_set.metadata.namespace,
            "labels": {**(given.get("labels") or {}), **labels},
        }  # fmt: skip
        if given.get("annotations"):
            metadata["annotations"] = given["annotations"]
        if owners:
            metadata["ownerReferences"] = owners
        found.append({"metadata": metadata, "spec": copy.deepcopy(template.get("spec") or {})})
    return found


def claim_owner(stateful_set: StatefulSet, pod: Pod, ordinal: int) -> dict[str, Any] | None:
    """Return with whom a pod's claims go: the pod when it is too many, the set, or nobody."""
    policy = stateful_set.spec.persistentVolumeClaimRetentionPolicy
    if policy is None:
        return None
    first = stateful_set.spec.ordinals.start if stateful_set.spec.ordinals else 0
    condemned = not first <= ordinal < first + stateful_set.spec.replicas
    if condemned and policy.whenScaled == "Delete":
        return {**owner_reference(PODS, pod.metadata), "blockOwnerDeletion": False}
    if policy.whenDeleted == "Delete":
        return {**owner_reference(STATEFUL_SETS, stateful_set.metadata), "blockOwnerDeletion": False}
    return None
