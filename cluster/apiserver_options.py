"""The API server's options beyond where it listens and what it stores in; named as kube-apiserver names them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from apiserver.request import duration_seconds

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(exists=True, path_type=Path)

_OPTIONS = (
    click.option(
        "--workers", default=1, show_default=True, help="Processes that share the port; more than one needs etcd."
    ),
    click.option("--reuse-port", is_flag=True, hidden=True, help="Share the port with others."),
    click.option(
        "--authentication-config", type=_FILE, help="An AuthenticationConfiguration: other issuers, anonymous."
    ),
    click.option("--authentication-token-webhook-config-file", type=_FILE, help="A kubeconfig of who knows tokens."),
    click.option("--oidc-issuer-url", default="", help="Trust the tokens of this issuer."),
    click.option("--oidc-client-id", default="", help="The audience its tokens must have."),
    click.option("--oidc-username-claim", default="sub", show_default=True),
    click.option("--oidc-username-prefix", default="", help='"-" for none; ISSUER# for claims other than email.'),
    click.option("--oidc-groups-claim", default=""),
    click.option("--oidc-groups-prefix", default=""),
    click.option("--oidc-required-claim", multiple=True, help="KEY=VALUE that tokens must have."),
    click.option(
        "--encryption-provider-config", type=_FILE, help="An EncryptionConfiguration: what is encrypted at rest."
    ),
    click.option("--encryption-provider-config-automatic-reload", is_flag=True, help="Read that file when it changes."),
    click.option("--audit-policy-file", type=_FILE, help="What the audit log notes."),
    click.option("--audit-log-path", default="", help='Write audit events here; "-" is standard output.'),
    click.option(
        "--audit-log-maxsize", default=100, show_default=True, help="Megabytes of a file before it is rotated."
    ),
    click.option("--audit-log-maxage", default=0, help="Days to keep old files; 0 for ever."),
    click.option("--audit-log-maxbackup", default=0, help="Old files to keep; 0 for all."),
    click.option("--audit-webhook-config-file", type=_FILE, help="A kubeconfig of who gets audit events."),
    click.option("--audit-webhook-batch-max-size", default=400, show_default=True),
    click.option("--audit-webhook-batch-max-wait", default=30.0, show_default=True, help="Seconds."),
    click.option("--enable-admission-plugins", default="", help="Steps to run beside the usual ones, comma separated."),
    click.option("--disable-admission-plugins", default="", help="Steps not to run, comma separated."),
    click.option("--admission-control-config-file", type=_FILE, help="An AdmissionConfiguration."),
    click.option("--event-ttl", default="1h0m0s", show_default=True, help="How long events are kept."),
    click.option("--oidc-ca-file", type=_FILE, help="Who signs the issuer's certificate."),
)


def server_options(command: Command) -> Command:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _seconds(text: str, option: str) -> int:
    seconds = duration_seconds(text)
    if not seconds or seconds < 1:
        raise click.ClickException(f'{option}: "{text}" is no duration of a second or more, such as 1h30m')
    return int(seconds)


def server_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ServerConfig fields that the options ask for. Raises: ClickException for files without sense."""
    return {
        "audit": _audit(given),
        "event_ttl_seconds": _seconds(given["event_ttl"], "--event-ttl"),
        "admission": _admission(given),
        "authentication": _authentication(given),
        "authentication_file": given["authentication_config"],
        "token_webhook_file": given["authentication_token_webhook_config_file"],
    }


def encrypted(store: Any, path: Path | None) -> Any:
    """Return a store that encrypts as a configuration says. Raises: ClickException for a file without sense."""
    if path is None:
        return store
    from apiserver.storage.encrypted import EncryptedStore
    from apiserver.storage.encryption import ConfigurationError, read_configuration

    try:
        return EncryptedStore(store, read_configuration(path))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error


def encryption_reloads(store: Any, given: Mapping[str, Any]) -> dict[tuple[Path, ...], Callable[[], None]]:
    """Return what reads the encryption configuration again, if that is asked for."""
    path = given["encryption_provider_config"]
    if path is None or not given["encryption_provider_config_automatic_reload"]:
        return {}
    from apiserver.storage.encryption import read_configuration

    return {(path,): lambda: store.use(read_configuration(path))}


def _audit(given: Mapping[str, Any]) -> Any:
    if given["audit_policy_file"] is None or not (given["audit_log_path"] or given["audit_webhook_config_file"]):
        return None
    from apiserver.audit.auditor import AuditSettings
    from apiserver.audit.policy import PolicyError, read_policy

    try:
        policy = read_policy(given["audit_policy_file"])
    except PolicyError as error:
        raise click.ClickException(str(error)) from error
    return AuditSettings(
        policy, given["audit_log_path"], given["audit_log_maxsize"], given["audit_log_maxage"],
        given["audit_log_maxbackup"], given["audit_webhook_config_file"], given["audit_webhook_batch_max_size"],
        given["audit_webhook_batch_max_wait"],
    )  # fmt: skip


def _admission(given: Mapping[str, Any]) -> Any:
    from apiserver.admission.plugins import ConfigurationError, settings

    enable, disable = (
        [one.strip() for one in given[option].split(",") if one.strip()]
        for option in ("enable_admission_plugins", "disable_admission_plugins")
    )
    try:
        return settings(enable, disable, given["admission_control_config_file"])
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error


def _authentication(given: Mapping[str, Any]) -> Any:
    from apiserver.auth.oidc import AuthenticationConfig, ConfigurationError, read_configuration

    path = given["authentication_config"]
    if path is None:
        return AuthenticationConfig([_issuer(given)]) if given["oidc_issuer_url"] else AuthenticationConfig()
    if given["oidc_issuer_url"]:
        raise click.UsageError("authentication-config file and oidc-* flags are mutually exclusive")
    try:
        return read_configuration(path)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error


def _issuer(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of an AuthenticationConfiguration that says what the flags say."""
    url, claim, prefix = given["oidc_issuer_url"], given["oidc_username_claim"], given["oidc_username_prefix"]
    if not prefix and claim != "email":
        prefix = f"{url}#"
    issuer: dict[str, Any] = {"url": url, "audiences": [given["oidc_client_id"]]}
    if given["oidc_ca_file"] is not None:
        issuer["certificateAuthority"] = given["oidc_ca_file"].read_text()
    mappings: dict[str, Any] = {"username": {"claim": claim, "prefix": "" if prefix == "-" else prefix}}
    if given["oidc_groups_claim"]:
        mappings["groups"] = {"claim": given["oidc_groups_claim"], "prefix": given["oidc_groups_prefix"]}
    pairs = (one.partition("=") for one in given["oidc_required_claim"])
    rules = [{"claim": key, "requiredValue": value} for key, _, value in pairs]
    return {"issuer": issuer, "claimMappings": mappings, "claimValidationRules": rules}
