"""What the kinds that make pods share: defaults and rules of their templates and selectors."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from apiserver.registry import names
from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.kind import Object, forbidden, invalid, required, unsupported
from apiserver.registry.pods import default_pod_spec, pod_spec_causes
from machinery.api import selectors
from machinery.api.digits import is_number
from machinery.errors import Cause

_PERCENT_RULE = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', "
    "regex used for validation is '[0-9]+%')"
)


def default_template(spec: Object) -> Object:
    """Fill in the pod template of a workload's spec, and return it."""
    template: Object = spec.setdefault("template", {})
    default_pod_spec(template.setdefault("spec", {}))
    return template


def template_labels(spec: Object) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    return (spec["template"].get("metadata") or {}).get("labels") or {}


def non_negative(spec: Object, *fields: str, path: str = "spec") -> Iterator[Cause]:
    """Yield a cause for each of the fields that is a number below zero."""
    for field in fields:
        value = spec.get(field)
        if isinstance(value, int) and value < 0:
            yield invalid(f"{path}.{field}", value, "must be greater than or equal to 0")


def template_causes(
    template: Object, path: str, policies: Sequence[str], claims: Iterable[str] = ()
) -> Iterator[Cause]:
    """Yield what is wrong with a pod template.

    Args:
        template: the template.
        path: where it is.
        policies: by which its pods may be restarted.
        claims: names of volumes its pods will have besides.
    """
    metadata = template.get("metadata") or {}
    yield from names.label_causes(metadata.get("labels") or {}, f"{path}.labels")
    yield from names.annotation_causes(metadata.get("annotations") or {}, f"{path}.annotations")
    pod_spec = template["spec"]
    yield from pod_spec_causes(pod_spec, f"{path}.spec", claims)
    if pod_spec.get("restartPolicy") not in policies:
        yield unsupported(f"{path}.spec.restartPolicy", pod_spec.get("restartPolicy"), policies)


def lasting_template_causes(spec: Object, owner: str = "ReplicaSet") -> Iterator[Cause]:
    """Yield what is wrong with the template of a workload whose pods never end by themselves."""
    claims = [(claim.get("metadata") or {}).get("name", "") for claim in spec.get("volumeClaimTemplates") or ()]
    yield from template_causes(spec["template"], "spec.template", ("Always",), claims)
    if spec["template"]["spec"].get("activeDeadlineSeconds") is not None:
        why = f"activeDeadlineSeconds in {owner} is not Supported"
        yield forbidden("spec.template.spec.activeDeadlineSeconds", why)


def selector_causes(spec: Object, kind: str) -> Iterator[Cause]:
    """Yield what is wrong with a workload's selector; it has to match the template."""
    selector = spec.get("selector")
    if selector is None:
        yield required("spec.selector")
        yield _unmatched(spec)
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
    else:
        wrong = list(label_selector_causes(selector, "spec.selector"))
        yield from wrong
        if not wrong and not selectors.from_label_selector(selector).matches(template_labels(spec)):
            yield _unmatched(spec)


def _unmatched(spec: Object) -> Cause:
    why = "`selector` does not match template `labels`"
    return invalid("spec.template.metadata.labels", template_labels(spec) or None, why)


def int_or_percent_causes(value: Any, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a number or percentage; nothing is wrong with one that is absent."""
    if value is None:
        return
    if isinstance(value, str):
        if not value.endswith("%") or not is_number(value[:-1]):
            yield invalid(path, value, _PERCENT_RULE)
    elif value < 0:
        yield invalid(path, value, "must be greater than or equal to 0")


def is_zero(value: Any) -> bool:
    """Whether a number or percentage is none at all."""
    return value in (None, 0) or (isinstance(value, str) and value.removesuffix("%").strip("0") == "")


def above_hundred(value: Any) -> bool:
    """Whether a percentage is above 100%."""
    return isinstance(value, str) and is_number(value[:-1]) and int(value[:-1]) > 100
