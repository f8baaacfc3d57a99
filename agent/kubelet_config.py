"""A node's configuration file, a KubeletConfiguration, and the folder of files that are laid over it.

Later files win, maps are merged and lists replaced, as kubelets do with --config-dir. What a KubeletConfiguration may
say and this agent does not have is told of and left out; what none may say is refused.
Sources: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/,
https://kubernetes.io/docs/reference/node/kubelet-config-directory-merging/
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.settings import DEFAULT_EVICTION, Settings
from machinery.api.quantity import parse_quantity, to_bytes

Object = dict[str, Any]
API_VERSION, KIND = "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"
_SUFFIX = ".conf"
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# Read when the agent starts: field -> what it is in AgentConfig.
AT_START = {
    "address": "address", "port": "port", "podCIDR": "pod_cidr", "staticPodPath": "static_pod_dir",
    "containerRuntimeEndpoint": "runtime_socket", "cpuManagerPolicy": "cpu_manager_policy",
    "rotateCertificates": "rotate_certificates", "registerWithTaints": "taints",
}  # fmt: skip
_SIGNALS = frozenset((*DEFAULT_EVICTION, "imagefs.available", "imagefs.inodesFree"))
_OTHERS = frozenset(
    """
    syncFrequency fileCheckFrequency httpCheckFrequency staticPodURL staticPodURLHeader readOnlyPort tlsCertFile
    tlsPrivateKeyFile tlsCipherSuites tlsMinVersion tlsCurvePreferences serverTLSBootstrap authentication authorization
    registryPullQPS registryBurst imagePullCredentialsVerificationPolicy preloadedImagesVerificationAllowlist
    eventRecordQPS eventBurst enableDebuggingHandlers enableContentionProfiling healthzPort healthzBindAddress
    oomScoreAdj streamingConnectionIdleTimeout volumeStatsAggPeriod kubeletCgroups systemCgroups cgroupRoot
    cgroupsPerQOS cgroupDriver singleProcessOOMKill cpuManagerPolicyOptions cpuManagerReconcilePeriod
    memoryManagerPolicy topologyManagerPolicy topologyManagerScope topologyManagerPolicyOptions qosReserved
    runtimeRequestTimeout hairpinMode resolvConf runOnce cpuCFSQuota cpuCFSQuotaPeriod nodeStatusMaxImages maxOpenFiles
    contentType kubeAPIQPS kubeAPIBurst evictionSoft evictionSoftGracePeriod evictionPressureTransitionPeriod
    evictionMaxPodGracePeriod evictionMinimumReclaim mergeDefaultEvictionSettings podsPerCore
    enableControllerAttachDetach protectKernelDefaults makeIPTablesUtilChains iptablesMasqueradeBit iptablesDropBit
    failSwapOn memorySwap containerLogMaxWorkers configMapAndSecretChangeDetectionStrategy reservedSystemCPUs
    showHiddenMetricsForVersion systemReservedCgroup kubeReservedCgroup enforceNodeAllocatable volumePluginDir
    providerID kernelMemcgNotification logging enableSystemLogHandler enableSystemLogQuery reservedMemory
    enableProfilingHandler enableDebugFlagsHandler seccompDefault memoryThrottlingFactor registerNode tracing
    localStorageCapacityIsolation imageServiceEndpoint podLogsDir userNamespaces featureGates memoryReservationPolicy
    """.split()  # noqa: SIM905 - a hundred names read better so
)


class BadConfiguration(Exception):
    """A configuration can't be taken; the message tells where and why."""


def read(file: Path | None, folder: Path | None) -> Object:
    """Return the configuration of a file, with what a folder's files lay over it; both may be absent. Blocks.

    Raises: BadConfiguration.
    """
    found: Object = {}
    paths = [file] if file is not None and file.exists() else []
    if folder is not None and folder.is_dir():
        paths += sorted(one for one in folder.rglob("*") if one.suffix == _SUFFIX and one.is_file())
    for path in paths:
        _lay_over(found, _read_one(path))
    return found


def _read_one(path: Path) -> Object:
    import yaml

    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfiguration(f"{path}: {error}") from error
    if not isinstance(body, dict) or (body.get("apiVersion"), body.get("kind")) != (API_VERSION, KIND):
        raise BadConfiguration(f"{path}: it is no {KIND} of {API_VERSION}")
    unknown = sorted(body.keys() - _FIELDS.keys() - AT_START.keys() - _OTHERS - {"apiVersion", "kind"})
    if unknown:
        raise BadConfiguration(f'{path}: unknown field "{unknown[0]}"')
    return {name: value for name, value in body.items() if name not in ("apiVersion", "kind")}


def _lay_over(base: Object, other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _lay_over(base[name], value)
        else:
            base[name] = value


def left_out(body: Mapping[str, Any]) -> list[str]:
    """Return the fields that are set and that this agent does not have."""
    return sorted(body.keys() & _OTHERS)


def at_start(body: Mapping[str, Any]) -> Object:
    """Return what a configuration says of AgentConfig, by its names there. Raises: BadConfiguration."""
    found: Object = {}
    for name, ours in AT_START.items():
        if name in body:
            found[ours] = _converted(name, body[name], _STARTERS[name])
    return found


def settings(body: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings a configuration asks for. Raises: BadConfiguration.

    Args: `given` has settings that were set otherwise, by their names, and that win.
    """
    found = Settings()
    for name, (ours, convert) in _FIELDS.items():
        if name in body and ours:
            setattr(found, ours, _converted(name, body[name], convert))
    reserved: dict[str, Any] = {}
    for name in ("kubeReserved", "systemReserved"):
        for resource, amount in _converted(name, body.get(name) or {}, _amounts).items():
            reserved[resource] = reserved.get(resource, 0) + parse_quantity(amount)
    found.reserved = {resource: _quantity(amount) for resource, amount in reserved.items()}
    if body.get("serializeImagePulls"):
        found.max_pulls = 1
    for name, value in (given or {}).items():
        setattr(found, name, value)
    _check(found)
    return found


def _quantity(amount: Any) -> str:
    millis = int(amount * 1000)
    return f"{millis}m" if millis % 1000 else str(millis // 1000)


def _check(found: Settings) -> None:
    if found.image_gc_low >= found.image_gc_high:
        raise BadConfiguration(
            f"imageGCLowThresholdPercent ({found.image_gc_low}) must be less than imageGCHighThresholdPercent "
            f"({found.image_gc_high})"
        )
    if found.shutdown_critical_seconds > found.shutdown_seconds:
        raise BadConfiguration("shutdownGracePeriodCriticalPods must be no longer than shutdownGracePeriod")
    if found.max_pods < 1:
        raise BadConfiguration("maxPods must be more than 0")
    if found.log_max_files < 2:
        raise BadConfiguration("containerLogMaxFiles must be more than 1")
    if not 1 <= found.max_backoff_seconds <= Settings().max_backoff_seconds:
        raise BadConfiguration("crashLoopBackOff.maxContainerRestartPeriod must be between 1s and 300s")


def _converted(name: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BadConfiguration(f"{name}: invalid value {value!r}: {error}") from error


def seconds(text: Any) -> float:
    """Return a duration as Go writes it, such as 1m30s, in seconds. Raises: ValueError."""
    if text in (0, "0"):
        return 0.0
    if not isinstance(text, str) or not _PART.sub("", text) == "" or not text:
        raise ValueError("it is no duration, such as 30s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _amounts(value: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(amount) for name, amount in value.items() if parse_quantity(str(amount)) >= 0}


def _thresholds(value: Mapping[str, Any]) -> dict[str, str]:
    for name, amount in value.items():
        if name not in _SIGNALS:
            raise ValueError(f'unknown signal "{name}"')
        text = str(amount)
        if text.endswith("%"):
            if not 0 <= float(text[:-1]) <= 100:
                raise ValueError(f"{text} is no share")
        else:
            to_bytes(text)
    return {name: str(amount) for name, amount in value.items()}


def _groups(value: list[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((int(one["priority"]), float(one["shutdownGracePeriodSeconds"])) for one in value))


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it is no whole number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("it is neither true nor false")
    return value


def _policy(value: str) -> str:
    if value not in ("none", "static"):
        raise ValueError("it must be none or static")
    return value


def _texts(value: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("it is no list")
    return tuple(map(str, value))


# What takes effect while the agent runs: field -> setting ("" for what is worked out of several), and how it is read.
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "maxPods": ("max_pods", _number),
    "kubeReserved": ("", _amounts),
    "systemReserved": ("", _amounts),
    "evictionHard": ("eviction_hard", _thresholds),
    "imageGCHighThresholdPercent": ("image_gc_high", _number),
    "imageGCLowThresholdPercent": ("image_gc_low", _number),
    "imageMinimumGCAge": ("image_min_age", seconds),
    "imageMaximumGCAge": ("image_max_age", seconds),
    "containerLogMaxSize": ("log_max_bytes", lambda text: to_bytes(str(text))),
    "containerLogMaxFiles": ("log_max_files", _number),
    "containerLogMonitorInterval": ("log_look_seconds", seconds),
    "nodeStatusUpdateFrequency": ("status_seconds", seconds),
    "nodeStatusReportFrequency": ("report_seconds", seconds),
    "nodeLeaseDurationSeconds": ("lease_seconds", _number),
    "shutdownGracePeriod": ("shutdown_seconds", seconds),
    "shutdownGracePeriodCriticalPods": ("shutdown_critical_seconds", seconds),
    "shutdownGracePeriodByPodPriority": ("shutdown_by_priority", _groups),
    "allowedUnsafeSysctls": ("unsafe_sysctls", _texts),
    "clusterDNS": ("cluster_dns", _texts),
    "clusterDomain": ("cluster_domain", str),
    "podPidsLimit": ("pids_limit", lambda number: max(_number(number), 0)),
    "serializeImagePulls": ("", _flag),
    "maxParallelImagePulls": ("max_pulls", lambda number: _number(number) if number is not None else 0),
    "crashLoopBackOff": ("max_backoff_seconds", lambda body: seconds(body["maxContainerRestartPeriod"])),
}
_STARTERS: dict[str, Callable[[Any], Any]] = {
    "address": str, "port": _number, "podCIDR": str, "staticPodPath": Path,
    "containerRuntimeEndpoint": lambda text: Path(str(text).removeprefix("unix://")), "cpuManagerPolicy": _policy,
    "rotateCertificates": _flag, "registerWithTaints": lambda taints: tuple(dict(one) for one in taints),
}  # fmt: skip
