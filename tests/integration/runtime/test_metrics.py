"""CRI's own metrics: each that is announced is told, with as many values as it has labels."""

from agent.cri import api_pb2 as api
from tests.integration.runtime.harness import CriClient

# What the kernel may not count, or not yet for a container that has not touched a disk.
_MAY_BE_ABSENT = ("container_blkio_", "container_fs_reads", "container_fs_writes", "container_spec_cpu_quota")


async def test_each_announced_metric_is_told_with_a_value_for_each_label(cri: CriClient) -> None:
    described = (await cri.runtime.ListMetricDescriptors(api.ListMetricDescriptorsRequest())).descriptors
    labels = {one.name: list(one.label_keys) for one in described}
    assert all(one.help and one.label_keys for one in described)
    assert len(labels) > 40
    sandbox = await cri.run_sandbox()
    config = cri.container_config("sh", "-c", "head -c 1000000 /dev/zero > /file; sleep 60")
    limits = config.linux.resources
    limits.cpu_period, limits.cpu_quota, limits.cpu_shares = 100_000, 20_000, 512
    limits.memory_limit_in_bytes = 64 << 20
    container = await cri.run(sandbox, config=config)
    await cri.output(container, "sh", "-c", "until [ $(stat -c %s /file) = 1000000 ]; do sleep 0.02; done")

    (found,) = (await cri.runtime.ListPodSandboxMetrics(api.ListPodSandboxMetricsRequest())).pod_metrics
    (of_container,) = found.container_metrics
    assert (found.pod_sandbox_id, of_container.container_id) == (sandbox, container)
    told = [*found.metrics, *of_container.metrics]
    for metric in told:
        assert len(metric.label_values) == len(labels[metric.name]), metric.name
    missing = labels.keys() - {metric.name for metric in told}
    assert {name for name in missing if not name.startswith(_MAY_BE_ABSENT)} == set()

    values = {metric.name.removeprefix("container_"): metric.value.value for metric in of_container.metrics}
    assert (values["spec_cpu_quota"], values["spec_cpu_shares"], values["spec_cpu_period"]) == (20_000, 512, 100_000)
    assert values["spec_memory_limit_bytes"] == 64 << 20
    assert values["fs_usage_bytes"] >= 1_000_000
    assert values["processes"] == 1
    assert 0 < values["memory_working_set_bytes"] <= values["memory_usage_bytes"] <= values["memory_max_usage_bytes"]
    assert values["file_descriptors"] >= 2
    status = await cri.status(container)
    assert values["start_time_seconds"] == status.started_at // 1_000_000_000 <= values["last_seen"]
    interfaces = [one.label_values[-1] for one in found.metrics if one.name == "container_network_receive_bytes_total"]
    assert interfaces == ["eth0"]


async def test_metrics_are_streamed_too_and_a_pod_that_ended_has_none(cri: CriClient) -> None:
    first, second = await cri.run_sandbox(), await cri.run_sandbox()
    await cri.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=first))
    batches = [one async for one in cri.runtime.StreamPodSandboxMetrics(api.StreamPodSandboxMetricsRequest())]
    assert [one.pod_sandbox_id for batch in batches for one in batch.pod_sandbox_metrics] == [second]
