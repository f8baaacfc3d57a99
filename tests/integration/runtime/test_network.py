"""Pod networks."""

import asyncio
import subprocess

import grpc
import grpc.aio
import pytest

from agent.cri import api_pb2 as cri_pb
from tests.integration.runtime.harness import CriClient


async def test_pods_have_addresses_of_the_range_and_reach_each_other(cri: CriClient) -> None:
    server_pod, client_pod = await cri.run_sandbox(cri.sandbox_config("server")), await cri.run_sandbox()
    server = await cri.run(server_pod, "httpd", "-f", "-p", "8080", "-h", "/etc")
    client = await cri.run(client_pod, "sleep", "1000")
    address = (await cri.sandbox_status(server_pod)).network.ip
    assert address.startswith(cri.process.pod_cidr.rpartition(".")[0] + ".")
    assert address != (await cri.sandbox_status(client_pod)).network.ip
    get = f"printf 'GET /group HTTP/1.0\\r\\n\\r\\n' | nc {address} 8080 2>/dev/null"
    script = f"for i in $(seq 100); do {get} && exit; sleep 0.05; done; exit 1"
    assert "www-data:x:33:" in await cri.output(client, "sh", "-c", script)
    assert f"{address}\tserver" in await cri.output(server, "cat", "/etc/hosts")


async def test_an_address_is_free_again_after_its_pod(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    address = (await cri.sandbox_status(sandbox)).network.ip
    leases = cri.process.folder / "state" / "cni" / "wherry"
    assert (leases / address).exists()
    await cri.runtime.StopPodSandbox(cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    assert not (leases / address).exists()
    assert (await cri.sandbox_status(sandbox)).network.ip == ""


async def test_dns_and_sysctls_are_the_pod_s(cri: CriClient) -> None:
    config = cri.sandbox_config("dns")
    config.dns_config.servers.append("10.96.0.10")
    config.dns_config.searches.extend(["default.svc.cluster.local", "svc.cluster.local"])
    config.dns_config.options.append("ndots:5")
    config.linux.sysctls["net.core.somaxconn"] = "321"
    container = await cri.run(await cri.run_sandbox(config), "sleep", "1000")
    expected = "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
    assert await cri.output(container, "cat", "/etc/resolv.conf") == expected
    assert await cri.output(container, "cat", "/proc/sys/net/core/somaxconn") == "321\n"
    assert await cri.output(container, "hostname") == "dns\n"


@pytest.mark.parametrize(
    "name", ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "kernel.shm_rmid_forced/../panic"]
)
async def test_a_sysctl_of_the_whole_machine_is_refused(cri: CriClient, name: str) -> None:
    config = cri.sandbox_config()
    config.linux.sysctls[name] = "1"
    with pytest.raises(grpc.aio.AioRpcError, match="not allowed"):
        await cri.run_sandbox(config)


async def test_the_runtime_says_when_it_has_no_network(cri: CriClient) -> None:
    conditions = (await cri.runtime.Status(cri_pb.StatusRequest())).status.conditions
    assert {row.type: row.status for row in conditions} == {"RuntimeReady": True, "NetworkReady": True}
    conf = cri.process.folder / "root" / "cni" / "net.d" / "99-wherry.conflist"
    conf.unlink()
    conditions = (await cri.runtime.Status(cri_pb.StatusRequest())).status.conditions
    ready = next(row for row in conditions if row.type == "NetworkReady")
    assert (ready.status, ready.reason) == (False, "NetworkPluginNotReady")
    assert "cni plugin not initialized" in ready.message
    request = cri_pb.UpdateRuntimeConfigRequest()
    request.runtime_config.network_config.pod_cidr = cri.process.pod_cidr
    await cri.runtime.UpdateRuntimeConfig(request)
    assert conf.exists()
    await cri.run_sandbox()


async def test_a_pod_s_limits_hold_on_its_link(cri: CriClient) -> None:
    config = cri.sandbox_config("limited")
    config.annotations["kubernetes.io/ingress-bandwidth"] = "10M"
    await cri.run_sandbox(config)
    await cri.run_sandbox()  # one without
    shown = await asyncio.to_thread(subprocess.check_output, ["tc", "qdisc", "show"], text=True)
    bridged = await asyncio.to_thread(
        subprocess.check_output, ["ip", "-o", "link", "show", "master", cri.process.bridge], text=True
    )
    links = {line.split()[1].partition("@")[0] for line in bridged.splitlines()}
    limited = {line.split()[4] for line in shown.splitlines() if line.startswith("qdisc tbf") and "rate 10Mbit" in line}
    assert len(links) == 2
    assert len(limited & links) == 1
