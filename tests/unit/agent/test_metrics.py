"""The agent's metrics as text that Prometheus reads."""

import pytest

from agent.metrics import Metrics, metric


def test_counters_and_histograms_are_told_as_the_format_wants_them() -> None:
    metrics = Metrics()
    metrics.add("kubelet_evictions", "memory.available")
    metrics.add("kubelet_evictions", "memory.available", amount=2)
    for seconds in (0.004, 0.01, 20.0):
        metrics.observe("kubelet_pod_worker_duration_seconds", seconds, "sync")
    lines = list(metrics.text())
    assert 'kubelet_evictions{eviction_signal="memory.available"} 3' in lines
    name = "kubelet_pod_worker_duration_seconds"
    for bound, count in (("0.005", 1), ("0.01", 2), ("10", 2), ("+Inf", 3)):
        assert f'{name}_bucket{{operation_type="sync",le="{bound}"}} {count}' in lines
    assert f'{name}_count{{operation_type="sync"}} 3' in lines
    (total,) = [line for line in lines if line.startswith(f"{name}_sum")]
    assert float(total.split()[1]) == pytest.approx(20.014)
    assert metrics.value(name, "sync") == 3


def test_only_what_is_a_probes_stands_among_probes_and_goes_with_its_pod() -> None:
    metrics = Metrics()
    for pod in ("a", "b"):
        metrics.add("prober_probe_total", "Liveness", "failed", "c", pod, "default", f"uid-{pod}")
    assert not [line for line in metrics.text() if "prober" in line]
    metrics.forget("prober_", pod="a", namespace="default")
    (left,) = [line for line in metrics.text(probes=True) if not line.startswith("#")]
    assert 'pod="b"' in left


def test_labels_are_escaped_and_numbers_keep_what_they_are() -> None:
    rows = [({"a": 'x"\\\n'}, 0.25), ({"a": "big"}, 2.0**40)]
    assert list(metric("m", "gauge", rows))[2:] == ['m{a="x\\"\\\\\\n"} 0.25', 'm{a="big"} 1099511627776']
    assert metric("m", "gauge", []) == []


def test_a_name_that_is_not_in_the_table_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Metrics().add("kubelet_nonsense")
