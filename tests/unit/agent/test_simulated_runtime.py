"""The runtime in memory behaves as it is told to."""

import asyncio

import pytest

from agent.cri import api_pb2 as cri
from agent.cri.client import POD_UID, RuntimeFailure
from agent.simulated.runtime import Behaviour, SimulatedRuntime


def config(**annotations: str) -> cri.PodSandboxConfig:
    named = {f"simulated.wherry/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name="p", uid="u"), labels={POD_UID: "u"}, annotations=named
    )


async def started(runtime: SimulatedRuntime, pod: cri.PodSandboxConfig) -> str:
    sandbox = await runtime.run_sandbox(pod)
    container = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="c"), labels={"io.kubernetes.container.name": "c"}
    )
    container_id = await runtime.create_container(sandbox, container, pod)
    await runtime.start_container(container_id)
    return container_id


async def test_a_container_runs_until_it_is_stopped_and_goes_with_its_sandbox() -> None:
    runtime = SimulatedRuntime(Behaviour(), "10.200.0")
    container = await started(runtime, config())
    assert (await runtime.container_status(container)).state == cri.CONTAINER_RUNNING
    (sandbox,) = await runtime.sandboxes("u")
    assert (await runtime.sandbox_status(sandbox.id)).network.ip == "10.200.0.2"
    await runtime.stop_container(container, 5)
    assert (await runtime.container_status(container)).state == cri.CONTAINER_EXITED
    await runtime.remove_sandbox(sandbox.id)
    assert await runtime.containers() == await runtime.sandboxes() == []


async def test_a_pods_annotations_say_when_and_how_it_ends() -> None:
    runtime = SimulatedRuntime(Behaviour(), "10.200.0")
    container = await started(runtime, config(run_seconds="0.01", exit_code="3"))
    async with asyncio.timeout(2):
        event = await anext(aiter(runtime.events()))
    assert event.pod_sandbox_status.metadata.uid == "u"
    status = await runtime.container_status(container)
    assert (status.exit_code, status.reason) == (3, "Error")


async def test_starts_and_sandboxes_fail_as_often_as_was_asked() -> None:
    runtime = SimulatedRuntime(Behaviour(start_failures=100), "10.200.0")
    with pytest.raises(RuntimeFailure):
        await started(runtime, config())
    with pytest.raises(RuntimeFailure):
        await runtime.run_sandbox(config(sandbox_failures="100"))
