"""Which of the built-in admission steps run, and what they are told by an AdmissionConfiguration.

Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apiserver.admission.pod_security import LEVELS, MODES, PodSecurityConfig

DEFAULT_ON = frozenset(
    {"CertificateApproval", "CertificateSigning", "CertificateSubjectRestriction", "DefaultIngressClass",
     "DefaultStorageClass", "DefaultTolerationSeconds", "LimitRanger", "MutatingAdmissionPolicy",
     "MutatingAdmissionWebhook", "NamespaceLifecycle", "NodeDeclaredFeatureValidator", "NodeRestriction",
     "PersistentVolumeClaimResize", "PodSecurity", "Priority", "ResourceQuota", "RuntimeClass", "ServiceAccount",
     "TaintNodesByCondition", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook"}
)  # fmt: skip
DEFAULT_OFF = frozenset(
    {"AlwaysAdmit", "AlwaysDeny", "AlwaysPullImages", "EventRateLimit", "OwnerReferencesPermissionEnforcement"}
)
_KIND = "AdmissionConfiguration"
_VERSION = "apiserver.config.k8s.io/v1"


class ConfigurationError(ValueError):
    """An admission configuration makes no sense; the message says where."""


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """The steps that run, and the configuration of each that has one, by its name."""

    enabled: frozenset[str] = DEFAULT_ON
    configuration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def pod_security(self) -> PodSecurityConfig:
        """Return the configuration of PodSecurity."""
        return PodSecurityConfig.read(self.configuration.get("PodSecurity", {}))


def settings(enable: Iterable[str], disable: Iterable[str], path: Path | None) -> AdmissionSettings:
    """Return what the options --enable-, --disable-admission-plugins and --admission-control-config-file ask for.

    Raises: ConfigurationError, OSError.
    """
    on, off = frozenset(enable), frozenset(disable)
    if unknown := sorted((on | off) - DEFAULT_ON - DEFAULT_OFF):
        raise ConfigurationError(f"unknown admission plugins: {', '.join(unknown)}")
    if both := sorted(on & off):
        raise ConfigurationError(f"{both} in enable-admission-plugins and disable-admission-plugins overlapped")
    return AdmissionSettings((DEFAULT_ON | on) - off, _read(path) if path is not None else {})


def _read(path: Path) -> dict[str, Mapping[str, Any]]:
    import yaml

    document = yaml.safe_load(path.read_text()) or {}
    if (document.get("kind"), document.get("apiVersion")) != (_KIND, _VERSION):
        raise ConfigurationError(f"{path} holds no {_KIND} of {_VERSION}")
    found: dict[str, Mapping[str, Any]] = {}
    for plugin in document.get("plugins") or ():
        given = plugin.get("configuration")
        if given is None and plugin.get("path"):
            given = yaml.safe_load((path.parent / plugin["path"]).read_text())
        found[plugin["name"]] = given or {}
    _check_pod_security(found.get("PodSecurity", {}))
    return found


def _check_pod_security(given: Mapping[str, Any]) -> None:
    defaults = given.get("defaults") or {}
    for mode in MODES:
        if defaults.get(mode, "privileged") not in LEVELS:
            known = ", ".join(LEVELS)
            raise ConfigurationError(f"defaults.{mode}: Invalid value: {defaults[mode]!r}: must be one of {known}")
