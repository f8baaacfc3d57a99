"""The scheduler's configuration file, in the form kube-scheduler reads: KubeSchedulerConfiguration.

Source: https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.durations import ConfigError, duration_seconds
from scheduler.framework.plugin import Plugin
from scheduler.framework.profile import Profile
from scheduler.pods import DEFAULT_SCHEDULER
from scheduler.queue import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS
from scheduler.registry import ALWAYS_THERE, BUILT_IN, WEIGHTS, UnknownPlugin, make

Object = Mapping[str, Any]
API_VERSION = "kubescheduler.config.k8s.io/v1"
KIND = "KubeSchedulerConfiguration"
POINTS = (
    "queueSort", "preEnqueue", "preFilter", "filter", "postFilter", "preScore", "score", "reserve", "permit", "preBind",
    "bind", "postBind",
)  # fmt: skip
_FIELDS = frozenset((
    "apiVersion", "kind", "parallelism", "leaderElection", "clientConnection", "enableProfiling",
    "enableContentionProfiling", "percentageOfNodesToScore", "podInitialBackoffSeconds", "podMaxBackoffSeconds",
    "profiles", "extenders", "delayCacheUntilActive", "healthzBindAddress", "metricsBindAddress",
))  # fmt: skip
"""Some mean nothing here: all nodes are always scored, on one core."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What a scheduler is told."""

    profiles: tuple[Profile, ...]
    first_backoff_seconds: float = FIRST_BACKOFF_SECONDS
    max_backoff_seconds: float = MAX_BACKOFF_SECONDS
    extenders: tuple[Object, ...] = ()
    leader_elect: bool | None = None
    lease: Mapping[str, Any] = field(default_factory=dict)
    lease_name: str = "kube-scheduler"
    lease_namespace: str = "kube-system"
    kubeconfig: str = ""


def default_config() -> SchedulerConfig:
    """Return what holds when there is no file."""
    return SchedulerConfig((make_profile({}),))


def read_config(path: Path) -> SchedulerConfig:
    """Read a file. Raises: ConfigError, OSError."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(given, Mapping) or given.get("kind") != KIND:
        raise ConfigError(f"{path}: this is no {KIND}")
    if given.get("apiVersion") != API_VERSION:
        raise ConfigError(f'{path}: no kind "{KIND}" is registered for version "{given.get("apiVersion")}"')
    for field_name in given:
        if field_name not in _FIELDS:
            raise ConfigError(f'{path}: strict decoding error: unknown field "{field_name}"')
    return from_object(given)


def from_object(given: Object) -> SchedulerConfig:
    """Return the configuration an object says. Raises: ConfigError."""
    profiles = tuple(
        make_profile(_with_ignored(one, given), f"profiles[{at}]")
        for at, one in enumerate(given.get("profiles") or ({},))
    )
    for at, one in enumerate(given.get("extenders") or ()):
        if not one.get("urlPrefix"):
            raise ConfigError(f"extenders[{at}].urlPrefix: Required value")
        if one.get("prioritizeVerb") and int(one.get("weight", 1)) <= 0:
            text = f"extenders[{at}].weight: Invalid value: {one['weight']}: must have a positive weight applied to it"
            raise ConfigError(text)
    if (number := sum(bool(one.get("bindVerb")) for one in given.get("extenders") or ())) > 1:
        text = f'Invalid value: "found {number} extenders implementing bind": only one extender can implement bind'
        raise ConfigError(f"extenders: {text}")
    names = [one.name for one in profiles]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ConfigError(f'profiles[{at}].schedulerName: Duplicate value: "{name}"')
    first = _number(given, "podInitialBackoffSeconds", FIRST_BACKOFF_SECONDS)
    most = _number(given, "podMaxBackoffSeconds", MAX_BACKOFF_SECONDS)
    if first <= 0:
        raise ConfigError(f"podInitialBackoffSeconds: Invalid value: {first:g}: must be greater than 0")
    if most < first:
        text = "must be greater than or equal to PodInitialBackoffSeconds"
        raise ConfigError(f"podMaxBackoffSeconds: Invalid value: {most:g}: {text}")
    election = given.get("leaderElection") or {}
    fields = {
        "leaseDuration": "lease_duration_seconds",
        "renewDeadline": "renew_deadline_seconds",
        "retryPeriod": "retry_period_seconds",
    }
    return SchedulerConfig(
        profiles=profiles,
        first_backoff_seconds=first,
        max_backoff_seconds=most,
        extenders=tuple(given.get("extenders") or ()),
        leader_elect=election.get("leaderElect"),
        lease={ours: duration_seconds(election[theirs]) for theirs, ours in fields.items() if election.get(theirs)},
        lease_name=election.get("resourceName") or "kube-scheduler",
        lease_namespace=election.get("resourceNamespace") or "kube-system",
        kubeconfig=(given.get("clientConnection") or {}).get("kubeconfig") or "",
    )


def _with_ignored(profile: Object, given: Object) -> Object:
    """Have NodeResourcesFit leave out the resources that an extender alone looks at."""
    managed = (one for extender in given.get("extenders") or () for one in extender.get("managedResources") or ())
    ignored = [one["name"] for one in managed if one.get("ignoredByScheduler")]
    if not ignored:
        return profile
    configured = {one["name"]: one.get("args") or {} for one in profile.get("pluginConfig") or ()}
    fit = configured.get("NodeResourcesFit", {})
    configured["NodeResourcesFit"] = {**fit, "ignoredResources": [*(fit.get("ignoredResources") or ()), *ignored]}
    return {**profile, "pluginConfig": [{"name": name, "args": args} for name, args in configured.items()]}


def _number(given: Object, name: str, default: float) -> float:
    value = given.get(name)
    return default if value is None else float(value)


# ---- profiles


def make_profile(given: Object, where: str = "profiles[0]") -> Profile:
    """Return the profile an object says: the default plugins, as it changes them. Raises: ConfigError."""
    plugins = given.get("plugins") or {}
    for point in plugins:
        if point not in POINTS and point != "multiPoint":
            raise ConfigError(f'{where}.plugins: unknown field "{point}"')
    everywhere, weights = _multi_point(plugins.get("multiPoint") or {})
    enabled = {point: _at_point(plugins.get(point) or {}, everywhere, weights) for point in POINTS}
    weights |= {
        one["name"]: int(one["weight"])
        for one in (plugins.get("score") or {}).get("enabled") or ()
        if one.get("weight")
    }
    names = list(dict.fromkeys([*everywhere, *(name for point in POINTS for name in enabled[point])]))
    made = _make_all(names, given.get("pluginConfig") or (), where)
    disabled = {point: frozenset(names) - frozenset(enabled[point]) for point in POINTS}
    return Profile(made, weights, name=given.get("schedulerName") or DEFAULT_SCHEDULER, disabled=disabled)


def _multi_point(given: Object) -> tuple[list[str], dict[str, int]]:
    """Return the names that are enabled wherever they have a part, and the weights of those that score."""
    off = {one["name"] for one in given.get("disabled") or ()}
    names = [] if "*" in off else [name for name in BUILT_IN if name not in off]
    weights = dict(WEIGHTS)
    for one in given.get("enabled") or ():
        if one["name"] not in names and one["name"] not in ALWAYS_THERE:
            names.append(one["name"])
        weights[one["name"]] = int(one.get("weight") or weights.get(one["name"], 1))
    return names, weights


def _at_point(given: Object, everywhere: Iterable[str], weights: dict[str, int]) -> list[str]:
    off = {one["name"] for one in given.get("disabled") or ()}
    names = [] if "*" in off else [name for name in everywhere if name not in off]
    for one in given.get("enabled") or ():
        if one["name"] not in names and one["name"] not in ALWAYS_THERE:
            names.append(one["name"])
        weights.setdefault(one["name"], 1)
    return names


def _make_all(names: Iterable[str], configured: Iterable[Object], where: str) -> list[Plugin]:
    args: dict[str, Object] = {}
    for at, one in enumerate(configured):
        if one.get("name") in args:
            raise ConfigError(f"{where}.pluginConfig[{at}]: repeated config for plugin {one['name']}")
        args[one["name"]] = one.get("args") or {}
    found: list[Plugin] = []
    for name in names:
        try:
            found += make(name, args.get(name, {}))
        except UnknownPlugin as error:
            raise ConfigError(f"{where}.plugins: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}.pluginConfig: {name}: {error!r}") from error
    return found


def default_profile() -> Profile:
    """Return the profile of a scheduler that nobody configured."""
    return make_profile({})
