"""The part of kustomize that most kustomizations use.

resources (files, folders, components), namespace, namePrefix, nameSuffix, labels, commonLabels, commonAnnotations, images,
replicas, patches (strategic and JSON 6902, by target), patchesStrategicMerge, patchesJson6902, configMapGenerator,
secretGenerator, generatorOptions. What else a file asks for is refused by name instead of passed over.
Source: https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/
"""

import base64
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cli import manifests
from machinery.api.patch import apply_json_patch, apply_merge_patch, apply_strategic_merge_patch

Object = dict[str, Any]
_FILES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_KNOWN = {
    "apiVersion", "kind", "metadata", "resources", "bases", "components", "namespace", "namePrefix", "nameSuffix",
    "labels", "commonLabels", "commonAnnotations", "images", "replicas", "patches", "patchesStrategicMerge",
    "patchesJson6902", "configMapGenerator", "secretGenerator", "generatorOptions", "sortOptions", "buildMetadata",
}  # fmt: skip
_SCALED = ("Deployment", "StatefulSet", "ReplicaSet", "ReplicationController")
_CLUSTER_SCOPED = {
    "Namespace", "Node", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "StorageClass", "PriorityClass",
    "CustomResourceDefinition", "IngressClass", "RuntimeClass", "CSIDriver", "APIService", "VolumeAttachment",
    "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}  # fmt: skip


_FIRST = (
    "Namespace", "ResourceQuota", "StorageClass", "CustomResourceDefinition", "ServiceAccount", "PodSecurityPolicy",
    "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "ConfigMap", "Secret", "Endpoints", "Service",
    "LimitRange", "PriorityClass", "PersistentVolume", "PersistentVolumeClaim", "Deployment", "StatefulSet", "CronJob",
    "PodDisruptionBudget",
)  # fmt: skip
_LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def build(folder: str, *, restricted: bool = True) -> list[Object]:
    """Return the objects of a kustomization, in the order kubectl prints them; files outside its folder may be refused.

    Raises: ClickException.
    """
    return sorted(_Build(Path(folder), restricted=restricted).run(), key=_rank)


def _rank(obj: Object) -> tuple[int, str, str, str, str]:
    """Order by what others depend on, then by kind and name: kustomize's legacy order."""
    kind, metadata = obj["kind"], obj["metadata"]
    place = _FIRST.index(kind) - len(_FIRST) if kind in _FIRST else _LAST.index(kind) + 1 if kind in _LAST else 0
    return place, obj["apiVersion"].rpartition("/")[0], kind, metadata.get("namespace", ""), metadata.get("name", "")


class _Build:
    def __init__(self, folder: Path, *, restricted: bool) -> None:
        self._folder, self._restricted = folder, restricted
        if not folder.is_dir():
            raise click.ClickException(
                f"must build at directory: not a valid directory: evalsymlink failure on '{folder}' : "
                f"lstat {folder}: no such file or directory"
            )
        path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if path is None:
            names = "', '".join(_FILES)
            raise click.ClickException(f"unable to find one of '{names}' in directory '{folder.absolute()}'")
        import yaml

        try:
            self._spec: Object = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise click.ClickException(f"invalid Kustomization: {error}") from error
        if unknown := set(self._spec) - _KNOWN:
            raise click.ClickException(f'invalid Kustomization {path}: field "{sorted(unknown)[0]}" is unknown here')

    def run(self, given: list[Object] | None = None) -> list[Object]:
        """Return the objects; a component works on those `given`."""
        objects = list(given or [])
        for entry in (*(self._spec.get("resources") or ()), *(self._spec.get("bases") or ())):
            objects += self._resource(entry)
        objects += self._generated()
        for entry in self._spec.get("components") or ():
            objects = _Build(self._folder / entry, restricted=self._restricted).run(objects)
        self._patch(objects)
        self._transform(objects)
        return objects

    def _resource(self, entry: str) -> list[Object]:
        path = self._folder / entry
        if "://" in entry:
            return [obj for _, obj in manifests.read([entry])]
        if path.is_dir():
            return _Build(path, restricted=self._restricted).run()
        if not path.is_file():
            raise click.ClickException(
                f"accumulating resources: accumulation err='accumulating resources from '{entry}': open {path.absolute()}: no such file or directory'"
            )
        return list(manifests.parse(str(path), self._file(entry).read_text()))

    def _file(self, name: str) -> Path:
        """Return a file's path. Raises: ClickException for one outside the folder, unless that is asked for."""
        path, root = (self._folder / name).resolve(), self._folder.resolve()
        if self._restricted and not path.is_relative_to(root):
            raise click.ClickException(f"security; file '{path}' is not in or below '{root}'")
        return path

    def _generated(self) -> Iterator[Object]:
        for field, kind in (("configMapGenerator", "ConfigMap"), ("secretGenerator", "Secret")):
            for entry in self._spec.get(field) or ():
                yield self._generate(entry, kind)

    def _generate(self, entry: Object, kind: str) -> Object:
        options = {**(self._spec.get("generatorOptions") or {}), **(entry.get("options") or {})}
        data = self._data(entry)
        metadata: Object = {"name": entry["name"]}
        for field in ("labels", "annotations"):
            if options.get(field):
                metadata[field] = dict(options[field])
        if entry.get("namespace"):
            metadata["namespace"] = entry["namespace"]
        obj: Object = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
        if kind == "Secret":
            obj |= {
                "type": entry.get("type", "Opaque"),
                "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
            }
        else:
            obj["data"] = {key: value.decode() for key, value in data.items()}
        if not options.get("disableNameSuffixHash"):
            obj[_HASHED] = True
        return obj

    def _data(self, entry: Object) -> dict[str, bytes]:
        data: dict[str, bytes] = {}
        for text in entry.get("literals") or ():
            key, _, value = text.partition("=")
            data[key] = value.strip("'\"").encode()
        for text in entry.get("files") or ():
            key, equals, path = text.partition("=")
            data[key if equals else Path(text).name] = self._file(path if equals else text).read_bytes()
        for name in entry.get("envs") or filter(None, [entry.get("env")]):
            for line in self._file(name).read_text().splitlines():
                if line.strip() and not line.startswith("#"):
                    key, _, value = line.partition("=")
                    data[key] = value.encode()
        return data

    def _patch(self, objects: list[Object]) -> None:
        for text in self._spec.get("patchesStrategicMerge") or ():
            self._apply(objects, self._text(text), None)
        for entry in self._spec.get("patchesJson6902") or ():
            self._apply(objects, entry.get("patch") or self._file(entry["path"]).read_text(), entry["target"])
        for entry in self._spec.get("patches") or ():
            self._apply(objects, entry.get("patch") or self._file(entry["path"]).read_text(), entry.get("target"))

    def _text(self, text: str) -> str:
        is_file = "\n" not in text and (self._folder / text).is_file()
        return self._file(text).read_text() if is_file else text

    def _apply(self, objects: list[Object], text: str, target: Object | None) -> None:
        import yaml

        for patch in yaml.safe_load_all(text):
            if patch is None:
                continue
            aim = target or {
                "kind": patch.get("kind"), "name": re.escape((patch.get("metadata") or {}).get("name", "")),
            }  # fmt: skip
            found = [one for one in objects if _is_target(one, aim)]
            if not found and target is None:
                raise click.ClickException(f'no resource matches strategic merge patch "{aim["kind"]}/{aim["name"]}"')
            for one in found:
                self._change(objects, one, patch)

    def _change(self, objects: list[Object], one: Object, patch: Any) -> None:
        if isinstance(patch, dict) and patch.get("$patch") == "delete":
            objects.remove(one)
            return
        kept = one.pop(_HASHED, None)
        name, namespace = one["metadata"]["name"], one["metadata"].get("namespace")
        changed = patched(one, patch)
        one.clear()
        one.update(changed)
        one["metadata"]["name"] = name
        if namespace:
            one["metadata"]["namespace"] = namespace
        if kept:
            one[_HASHED] = kept

    def _transform(self, objects: list[Object]) -> None:
        spec = self._spec
        for one in objects:
            metadata = one.setdefault("metadata", {})
            if spec.get("namespace"):
                _set_namespace(one, spec["namespace"])
            for labels, everywhere, templates in self._labels():
                _add_labels(one, labels, selectors=everywhere, templates=templates)
            if spec.get("commonAnnotations"):
                metadata["annotations"] = {**(metadata.get("annotations") or {}), **spec["commonAnnotations"]}
                if isinstance(template := _template(one), dict):
                    inner = template.setdefault("metadata", {})
                    inner["annotations"] = {**(inner.get("annotations") or {}), **spec["commonAnnotations"]}
            for image in spec.get("images") or ():
                _set_image(one, image)
            for entry in spec.get("replicas") or ():
                if metadata.get("name") == entry["name"] and one["kind"] in _SCALED:
                    one["spec"]["replicas"] = entry["count"]
        _rename(objects, spec.get("namePrefix") or "", spec.get("nameSuffix") or "")

    def _labels(self) -> Iterator[tuple[dict[str, str], bool, bool]]:
        if self._spec.get("commonLabels"):
            yield self._spec["commonLabels"], True, True
        for entry in self._spec.get("labels") or ():
            selectors = bool(entry.get("includeSelectors"))
            yield entry.get("pairs") or {}, selectors, selectors or bool(entry.get("includeTemplates"))


_HASHED = "\0hashed"
"""Marks an object whose name is to end in a hash of its data, until names are final."""


def patched(obj: Object, patch: Any) -> Object:
    """Return an object with a patch in it: JSON 6902 if a list, else merged as the type says. Raises: ClickException."""
    if isinstance(patch, list):
        result: Object = apply_json_patch(copy.deepcopy(obj), patch)
        return result
    from cli.applying import shape_of
    from machinery.api.meta import Resource

    group, _, version = obj["apiVersion"].rpartition("/")
    shape = shape_of(Resource(group, version, "", obj["kind"]))
    if shape is None:
        merged: Object = apply_merge_patch(copy.deepcopy(obj), patch)
        return merged
    return apply_strategic_merge_patch(obj, patch, shape)


def _is_target(obj: Object, aim: Object) -> bool:
    metadata = obj.get("metadata") or {}
    group, _, version = obj["apiVersion"].rpartition("/")
    pairs = (
        (aim.get("kind"), obj["kind"]), (aim.get("name"), metadata.get("name", "")),
        (aim.get("namespace"), metadata.get("namespace", "")), (aim.get("group"), group), (aim.get("version"), version),
    )  # fmt: skip
    if any(pattern and not re.fullmatch(pattern, value) for pattern, value in pairs):
        return False
    from machinery.api.selectors import parse_label_selector

    for field, name in (("labelSelector", "labels"), ("annotationSelector", "annotations")):
        if aim.get(field) and not parse_label_selector(aim[field]).matches(metadata.get(name) or {}):
            return False
    return True


def _set_namespace(obj: Object, namespace: str) -> None:
    if obj["kind"] == "Namespace":
        obj["metadata"]["name"] = namespace
    elif obj["kind"] not in _CLUSTER_SCOPED:
        obj["metadata"]["namespace"] = namespace
    for subject in obj.get("subjects") or ():
        if subject.get("kind") == "ServiceAccount":
            subject["namespace"] = namespace


def _template(obj: Object) -> Object | None:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return None
    if obj["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found = spec.get("template")
    return found if isinstance(found, dict) else None


def _add_labels(obj: Object, labels: dict[str, str], *, selectors: bool, templates: bool) -> None:
    metadata = obj["metadata"]
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    spec = obj.get("spec")
    template = _template(obj)
    if templates and template is not None:
        inner = template.setdefault("metadata", {})
        inner["labels"] = {**(inner.get("labels") or {}), **labels}
    if not selectors or not isinstance(spec, dict):
        return
    if obj["kind"] in ("Service", "ReplicationController"):
        if spec.get("selector"):
            spec["selector"] = {**spec["selector"], **labels}
    elif obj["kind"] in (
        "Deployment",
        "ReplicaSet",
        "DaemonSet",
        "StatefulSet",
        "PodDisruptionBudget",
        "NetworkPolicy",
    ):
        field = "podSelector" if obj["kind"] == "NetworkPolicy" else "selector"
        selector = spec.setdefault(field, {})
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), **labels}


def _pod_specs(obj: Object) -> Iterator[Object]:
    if obj["kind"] == "Pod":
        yield obj["spec"]
    template = _template(obj)
    if template is not None and isinstance(template.get("spec"), dict):
        yield template["spec"]


def _set_image(obj: Object, change: Object) -> None:
    for spec in _pod_specs(obj):
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
            match = re.fullmatch(r"(?P<name>.+?)(?::(?P<tag>[^:/@]+))?(?:@(?P<digest>.+))?", container.get("image", ""))
            if match is None or match["name"] != change["name"]:
                continue
            name = change.get("newName") or match["name"]
            if change.get("digest"):
                container["image"] = f"{name}@{change['digest']}"
            elif change.get("newTag"):
                container["image"] = f"{name}:{change['newTag']}"
            else:
                rest = f":{match['tag']}" if match["tag"] else f"@{match['digest']}" if match["digest"] else ""
                container["image"] = name + rest


def _rename(objects: list[Object], prefix: str, suffix: str) -> None:
    """Give objects their final names, and follow them wherever other objects name them."""
    from cli.commands.create_config import name_hash

    names: dict[tuple[str, str], str] = {}
    for one in objects:
        old = one["metadata"].get("name", "")
        new = old
        if one["kind"] not in ("Namespace", "CustomResourceDefinition") and (prefix or suffix):
            new = f"{prefix}{old}{suffix}"
        hashed = one.pop(_HASHED, None)
        if hashed:
            new = f"{new}-{name_hash({**one, 'metadata': {'name': ''}})}"
        one["metadata"]["name"] = new
        if new != old:
            names[(one["kind"], old)] = new
    if names:
        for one in objects:
            _follow(one, names)


_REFERENCES = {
    "configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap", "configMap": "ConfigMap", "secretRef": "Secret",
    "secretKeyRef": "Secret",
}  # fmt: skip
_NAMED = {
    "secretName": "Secret", "serviceAccountName": "ServiceAccount", "claimName": "PersistentVolumeClaim",
    "serviceName": "Service",
}  # fmt: skip


def _follow(value: Any, names: dict[tuple[str, str], str]) -> None:
    """Replace the names that references hold."""
    if isinstance(value, list):
        for one in value:
            _follow(one, names)
        return
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _NAMED and isinstance(inner, str):
            value[key] = names.get((_NAMED[key], inner), inner)
        elif key in ("subjects", "imagePullSecrets") and isinstance(inner, list):
            for one in inner:
                one["name"] = names.get((one.get("kind", "Secret"), one["name"]), one["name"])
        else:
            _reference(key, inner, names)
            _follow(inner, names)


def _reference(key: str, inner: Any, names: dict[tuple[str, str], str]) -> None:
    """Replace the name in a reference, if it is one."""
    if not isinstance(inner, dict) or "name" not in inner:
        return
    kind = _REFERENCES.get(key)
    if key in ("roleRef", "scaleTargetRef"):
        kind = inner.get("kind")
    elif key == "service" and "port" in inner:
        kind = "Service"
    elif key == "secret" and "secretName" not in inner:
        kind = "Secret"
    if kind:
        inner["name"] = names.get((kind, inner["name"]), inner["name"])
