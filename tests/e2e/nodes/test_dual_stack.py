"""A machine with both IP versions: pods and services have addresses of each, and both are served.

Behaviour: https://kubernetes.io/docs/concepts/services-networking/dual-stack/
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes.conftest import Nodes, pod
from tests.support.netlab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]

SERVICES, PODS = "10.96.0.0/16,fd00:96::/112", "10.244.0.0/24,fd00:244::/64"


@pytest.fixture
def machine() -> Iterator[Nodes]:
    lab, folder = Lab(), Path("/var/tmp") / f"wherry-dual-{os.getpid()}"
    try:
        host, outside = lab.machine("control"), lab.machine("outside")
        lab.link(host, "eth0", outside, "eth0")
        host.ip("address add 192.0.2.1/24 dev eth0")
        host.ip("route add default via 192.0.2.254")
        found = Nodes(folder, {"control": host}, outside)
        folder.mkdir()
        try:
            found.wherry(
                "control", "up", "--service-cidr", SERVICES, "--pod-cidr", PODS, "--node-name", "control", "--detach"
            )
            yield found
        finally:
            found.wherry("control", "reset", "--yes", check=False)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lab.close()


def test_pods_and_services_are_reached_by_both_versions(machine: Nodes) -> None:
    service = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
    manifest = pod("web", "control", labels="app: web") + pod("asker", "control") + service
    machine.kubectl("apply", "-f", "-", given=manifest)
    machine.kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=30s")
    ips = [row["ip"] for row in json.loads(machine.kubectl("get", "pod", "web", "-o", "json"))["status"]["podIPs"]]
    addresses = json.loads(machine.kubectl("get", "service", "web", "-o", "json"))["spec"]["clusterIPs"]
    assert [":" in one for one in (*ips, *addresses)] == [False, True, False, True]
    for address, port in ((ips[0], 8080), (ips[1], 8080), (addresses[0], 80), (addresses[1], 80)):
        machine.until(lambda a=address, p=port: machine.get("asker", a, p) == "web", f"{address} to answer")
    told = machine.sh("asker", "nslookup -type=aaaa web.default.svc.cluster.local")
    assert addresses[1] in told
    hosts = machine.sh("web", "cat /etc/hosts")
    assert all(f"{ip}\tweb" in hosts for ip in ips)
    machine.wherry("control", "reset", "--yes")
    left = machine.machines["control"]
    assert left.run("nft", "list", "tables") == ""
    assert "wherry" not in left.ip("-o link")
    assert "10.96" not in left.ip("route")
    assert "fd00" not in left.ip("-6 route")
