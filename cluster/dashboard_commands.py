"""`wherry dashboard`: serve the web page about a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.components import run_component, verbose_option

if TYPE_CHECKING:
    import ssl

    from machinery.client.kubeconfig import ClientConfig

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_file = click.Path(exists=True, path_type=Path, dir_okay=False)


@click.command()
@click.option("--port", default=8090, show_default=True, help="Listen on this port; 0 for any that is free.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Listen here; beyond loopback with TLS alone.")
@click.option(
    "--host-name", "names", multiple=True, help="A name browsers reach it by, beside addresses and localhost."
)
@click.option("--tls-cert-file", type=_file, help="The page's certificate.")
@click.option("--tls-private-key-file", type=_file)
@click.option("--kubeconfig", type=_file, help="Says where the cluster is; who we are there is not used.")
@click.option("--context", help="The kubeconfig context to use.")
@click.option("--server", default="", help="Address of the API server, instead of a kubeconfig.")
@click.option("--certificate-authority", type=_file, help="File of the API server's certificate authority.")
@verbose_option
def dashboard(port: int, address: str, names: tuple[str, ...], verbose: bool, **given: Any) -> None:
    """Serve a web page about the cluster; who logs in sees what their token may see."""
    from dashboard.app import Options, run

    tls = _certificate(given["tls_cert_file"], given["tls_private_key_file"])
    if tls is None and address not in _LOOPBACK:
        raise click.UsageError(
            "tokens must not cross a network in clear: give --tls-cert-file and --tls-private-key-file"
        )
    config = _cluster(given)
    options = Options(address, port, names, tls)
    scheme, host = "https" if tls else "http", f"[{address}]" if ":" in address else address

    def ready(actual: int) -> None:
        click.echo(f"The dashboard is at {scheme}://{host}:{actual}/")
        click.echo("Log in with a token, such as one of `wherry create token NAME`.", err=True)

    try:
        run_component(lambda: run(config, options, ready=ready), verbose=verbose)
    except OSError as error:
        raise click.ClickException(f"listen tcp {host}:{port}: {error.strerror or error}") from error


def _certificate(cert: Path | None, key: Path | None) -> "ssl.SSLContext | None":
    import ssl

    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise click.UsageError("--tls-cert-file and --tls-private-key-file belong together")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


def _cluster(given: dict[str, Any]) -> "ClientConfig":
    from machinery.client.kubeconfig import ClientConfig, ConfigError, load_config

    if given["server"]:
        return ClientConfig(server=given["server"].rstrip("/"), ca_file=str(given["certificate_authority"] or ""))
    try:
        return load_config(str(given["kubeconfig"]) if given["kubeconfig"] else None, context=given["context"])
    except ConfigError as error:
        raise click.ClickException(
            f"{error}; start a cluster with `wherry up`, then set KUBECONFIG as it says"
        ) from error
