"""Who adopts and releases whom."""

import msgspec
import pytest

from controllers.ownership import decide_claim
from controllers.views import ObjectMeta
from machinery.api.selectors import parse_label_selector
from tests.unit.controllers.builders import ago, metadata, pod

SELECTOR = parse_label_selector("app=web")
MINE = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "uid-rs", "controller": True}]
OTHERS = [{**MINE[0], "uid": "uid-other"}]
WEB = {"app": "web"}


def owner(**more: str) -> ObjectMeta:
    return msgspec.convert(metadata("rs", **more), ObjectMeta)


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        pytest.param(pod(labels=WEB, ownerReferences=MINE), "kept", id="mine and matching"),
        pytest.param(pod(labels={}, ownerReferences=MINE), "release", id="mine, no longer matching"),
        pytest.param(pod(labels=WEB), "adopt", id="an orphan that matches"),
        pytest.param(pod(labels={}), "", id="an orphan that does not"),
        pytest.param(pod(labels=WEB, ownerReferences=OTHERS), "", id="another's"),
        pytest.param(pod(labels=WEB, deletionTimestamp=ago(1)), "", id="an orphan on its way out"),
    ],
)
def test_a_candidate_is_kept_adopted_released_or_let_be(candidate: object, outcome: str) -> None:
    claim = decide_claim(owner(), SELECTOR, [candidate])  # type: ignore[type-var]
    found = {name: getattr(claim, name) for name in ("kept", "adopt", "release") if getattr(claim, name)}
    assert found == ({outcome: [candidate]} if outcome else {})


def test_an_owner_on_its_way_out_neither_adopts_nor_releases() -> None:
    candidates = [
        pod("a", labels=WEB),
        pod("b", labels={}, ownerReferences=MINE),
        pod("c", labels=WEB, ownerReferences=MINE),
    ]
    claim = decide_claim(owner(deletionTimestamp=ago(1)), SELECTOR, candidates)
    assert (claim.kept, claim.adopt, claim.release) == ([candidates[2]], [], [])
