"""What the scheduler counts, under kube-scheduler's names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
ATTEMPTS = Counter(
    "scheduler_schedule_attempts_total", "Attempts to place pods, by result.", ["result", "profile"], registry=REGISTRY
)
DURATION = Histogram(
    "scheduler_scheduling_algorithm_duration_seconds", "Time to choose a node, in seconds.", registry=REGISTRY,
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1),
)  # fmt: skip
PENDING = Gauge("scheduler_pending_pods", "Pods that wait for a node.", ["queue"], registry=REGISTRY)
EVENTS_DROPPED = Counter("scheduler_events_dropped_total", "Events that found no room to wait.", registry=REGISTRY)
PREEMPTION_ATTEMPTS = Counter("scheduler_preemption_attempts_total", "Attempts to preempt.", registry=REGISTRY)
PREEMPTION_VICTIMS = Histogram(
    "scheduler_preemption_victims", "Pods that were preempted at a time.", registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32, 64),
)  # fmt: skip
