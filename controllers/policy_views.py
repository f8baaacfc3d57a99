"""The fields of disruption budgets, quotas and admission policies that controllers read."""

from controllers.views import JSON, ObjectMeta, View


class BudgetSpec(View, frozen=True):
    """What a budget asks for."""

    selector: JSON | None = None
    minAvailable: int | str | None = None
    maxUnavailable: int | str | None = None


class BudgetStatus(View, frozen=True):
    """What a budget says is."""

    observedGeneration: int = 0
    disruptedPods: dict[str, str] = {}
    disruptionsAllowed: int = 0
    currentHealthy: int = 0
    desiredHealthy: int = 0
    expectedPods: int = 0
    conditions: tuple[JSON, ...] = ()


class Budget(View, frozen=True):
    """A PodDisruptionBudget."""

    metadata: ObjectMeta
    spec: BudgetSpec = BudgetSpec()
    status: BudgetStatus = BudgetStatus()


class QuotaSpec(View, frozen=True):
    """What a namespace may use."""

    hard: dict[str, str] = {}
    scopes: tuple[str, ...] = ()
    scopeSelector: JSON | None = None


class QuotaStatus(View, frozen=True):
    """What a namespace uses."""

    hard: dict[str, str] = {}
    used: dict[str, str] = {}


class ResourceQuota(View, frozen=True):
    """A ResourceQuota."""

    metadata: ObjectMeta
    spec: QuotaSpec = QuotaSpec()
    status: QuotaStatus = QuotaStatus()


class PolicyStatus(View, frozen=True):
    """Which state of a policy was checked."""

    observedGeneration: int = 0
    typeChecking: JSON | None = None


class Policy(View, frozen=True):
    """A ValidatingAdmissionPolicy."""

    metadata: ObjectMeta
    spec: JSON = {}
    status: PolicyStatus = PolicyStatus()
