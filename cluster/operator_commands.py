"""`wherry operator NAME`: the add-ons' operators, each a process of its own."""

from pathlib import Path

import click

from cluster.components import client_config, data_dir_option, kubeconfig_option, run_component, verbose_option
from cluster.layout import Layout


@click.group()
def operator() -> None:
    """Run the operator of an add-on."""


@operator.command()
@data_dir_option
@verbose_option
@kubeconfig_option
def compose(data_dir: Path, kubeconfig: Path | None, verbose: bool) -> None:
    """Look after Compose objects: projects kept in the cluster."""
    from operators.compose.app import run

    config = client_config(Layout(data_dir), "compose-operator", kubeconfig)
    run_component(lambda: run(config), verbose=verbose)
