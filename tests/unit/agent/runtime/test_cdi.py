"""Devices by CDI: what a vendor's file says comes into the spec.

Specification: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import cdi
from agent.runtime.errors import InvalidArgument

SPEC = {
    "cdiVersion": "0.6.0", "kind": "vendor.com/device",
    "containerEdits": {"env": ["ALL=1"]},
    "devices": [
        {"name": "zero", "containerEdits": {"deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/zero"}], "env": ["ONE=1"]}},
        {"name": "other", "containerEdits": {"mounts": [{"hostPath": "/lib", "containerPath": "/vendor"}], "additionalGids": [7, 0]}},
    ],
}  # fmt: skip


def spec() -> dict[str, Any]:
    return {"process": {"env": [], "user": {}}, "mounts": [], "linux": {"devices": [], "resources": {"devices": []}}}


def test_a_device_brings_its_own_edits_and_those_of_all(tmp_path: Path) -> None:
    (tmp_path / "vendor.json").write_text(json.dumps(SPEC))
    (tmp_path / "broken.json").write_text("{")
    found = spec()
    for edit in cdi.edits_for(["vendor.com/device=zero", "vendor.com/device=other"], [tmp_path]):
        cdi.apply(found, edit)
    assert found["process"]["env"] == ["ALL=1", "ONE=1"]
    device = found["linux"]["devices"][0]
    assert (device["path"], device["type"], device["major"], device["minor"]) == ("/dev/mine", "c", 1, 5)
    assert found["linux"]["resources"]["devices"][0]["allow"] is True
    assert (found["mounts"][0]["source"], found["mounts"][0]["destination"]) == ("/lib", "/vendor")
    assert found["process"]["user"]["additionalGids"] == [7, 0]


def test_an_unknown_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="unresolvable CDI devices vendor.com/device=none"):
        cdi.edits_for(["vendor.com/device=none"], [tmp_path])
