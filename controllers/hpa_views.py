"""The fields of HorizontalPodAutoscalers that controllers read."""

from controllers.views import JSON, ObjectMeta, View


class Target(View, frozen=True):
    """What is scaled."""

    kind: str
    name: str
    apiVersion: str = ""


class Policy(View, frozen=True):
    """How much may change in a time: a number of pods, or a percentage."""

    type: str
    value: int
    periodSeconds: int


class Rules(View, frozen=True):
    """How fast may be scaled in one direction."""

    stabilizationWindowSeconds: int | None = None
    selectPolicy: str | None = None
    policies: tuple[Policy, ...] | None = None
    tolerance: str | float | None = None


class Behavior(View, frozen=True):
    """How fast may be scaled."""

    scaleUp: Rules | None = None
    scaleDown: Rules | None = None


class AutoscalerSpec(View, frozen=True):
    """What is scaled, between which numbers, by which metrics."""

    scaleTargetRef: Target
    maxReplicas: int = 1
    minReplicas: int | None = None
    metrics: tuple[JSON, ...] = ()
    behavior: Behavior | None = None


class AutoscalerStatus(View, frozen=True):
    """What the metrics were, and what followed from them."""

    observedGeneration: int | None = None
    lastScaleTime: str | None = None
    currentReplicas: int | None = None
    desiredReplicas: int = 0
    currentMetrics: tuple[JSON, ...] | None = None
    conditions: tuple[JSON, ...] = ()


class Autoscaler(View, frozen=True):
    """A HorizontalPodAutoscaler."""

    metadata: ObjectMeta
    spec: AutoscalerSpec
    status: AutoscalerStatus = AutoscalerStatus()
