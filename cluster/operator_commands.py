"""`wherry operator NAME…`: the add-ons' operators, as many as are named in one process."""

from collections.abc import Sequence
from pathlib import Path

import click

from cluster.addons import OPERATED
from cluster.components import client_config, data_dir_option, kubeconfig_option, run_component, verbose_option
from cluster.layout import Layout


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(sorted(OPERATED)))
@data_dir_option
@verbose_option
@kubeconfig_option
def operator(names: Sequence[str], data_dir: Path, kubeconfig: Path | None, verbose: bool) -> None:
    """Run the operators of add-ons, all in one process."""
    from operators.serving import run

    layout = Layout(data_dir)
    configs = {name: client_config(layout, f"{name}-operator", kubeconfig) for name in dict.fromkeys(names)}
    run_component(lambda: run(configs), verbose=verbose)
