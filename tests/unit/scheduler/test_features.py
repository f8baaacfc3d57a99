"""Pods that need a feature go to nodes that declare it."""

import pytest

from scheduler.schedule_one import Unschedulable
from tests.unit.scheduler.builders import READER, choose, node, pod, pod_object, table


def test_a_pod_whose_containers_all_restart_together_needs_a_node_that_can_do_that() -> None:
    obj = pod_object("p")
    codes = {"operator": "In", "values": [1]}
    obj["spec"]["containers"][0] |= {
        "restartPolicy": "Never", "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": codes}],
    }  # fmt: skip
    asking, nodes = READER.read_object(obj), table(node("old"), node("new"))
    with pytest.raises(Unschedulable) as caught:
        choose(nodes, asking)
    assert str(caught.value.diagnosis) == "0/2 nodes are available: 2 node(s) didn't match Pod's required features."
    able = node("new")
    able["status"]["declaredFeatures"] = ["Other", "RestartAllContainersOnContainerExits"]
    assert nodes.put_node(able), "that matters to where pods may go"
    for _ in range(3):
        assert choose(nodes, asking) == "new"
    obj["spec"]["containers"][0]["restartPolicyRules"][0]["action"] = "Restart"
    assert READER.read_object(obj).shape.needs is not asking.shape.needs
    assert not READER.read_object(obj).shape.needs.features
    assert not pod("plain").shape.needs.features
